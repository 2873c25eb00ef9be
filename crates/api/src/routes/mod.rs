//! The routes, and the routers they make.
//!
//! A handler does five things: extract, authorize, call one use case, convert, return. `routes!` takes path and method from
//! the description that stands above the handler, so router and OpenAPI document cannot drift apart.

mod audit;
mod bulk;
mod connections;
mod connectors;
mod disconnect;
mod flows;
mod health;
mod hold;
mod import;
mod keys;
mod providers;
mod revocations;
mod spaces;
mod token;

pub(crate) use self::token::token_call;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::HeaderMap,
    response::Response,
    routing::{get, post},
};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Api, browser,
    edge::{EdgeLayer, lean},
    openapi,
    problem::{Problem, ProblemCode},
    reference,
};

/// Everything that the document describes, the token call aside.
fn described() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(connectors::create_connector, connectors::list_connectors))
        .routes(routes!(connectors::show_connector, connectors::update_connector, connectors::delete_connector))
        .routes(routes!(providers::list_providers))
        .routes(routes!(providers::show_provider))
        .routes(routes!(flows::start_flow))
        .routes(routes!(flows::show_flow))
        .routes(routes!(flows::finish_flow))
        .routes(routes!(flows::cancel_flow))
        .routes(routes!(disconnect::disconnect))
        .routes(routes!(connections::list_connections))
        .routes(routes!(connections::show_connection, connections::revoke_connection))
        .routes(routes!(bulk::revoke_connections))
        .routes(routes!(import::import_connections))
        .routes(routes!(revocations::list_revocations))
        .routes(routes!(keys::create_key, keys::list_keys))
        .routes(routes!(keys::revoke_key))
        .routes(routes!(audit::list_audit))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
}

/// The hot path, by itself.
fn hot() -> OpenApiRouter<Api> {
    OpenApiRouter::default().routes(routes!(token::fetch_token))
}

/// The document of all that is described.
pub(crate) fn document() -> OpenApi {
    described().merge(hot()).into_openapi()
}

/// The browser's side and what people read.
fn pages() -> Router<Api> {
    Router::new()
        .route(
            "/connect/{ticket}",
            get(browser::show_connect).head(browser::no_head_and_post).post(browser::open_connect),
        )
        .route("/oauth/callback/{connector_id}", get(browser::callback).head(browser::no_head))
        .route(
            "/oauth/confirm/{flow_id}",
            get(browser::confirm_reloaded).head(browser::no_head_and_post).post(browser::confirm),
        )
        .route("/assets/{name}", get(browser::asset))
        .route("/openapi.json", get(reference::document))
        .route("/docs", get(reference::page))
        .route("/docs/{file}", get(reference::file))
        .route("/problems", get(reference::problems))
        .route("/problems/{code}", get(reference::problem))
}

/// The router of the network.
pub(crate) fn network(api: &Api) -> Router {
    assemble(api, Router::new())
}

/// The router of the socket in the data directory.
pub(crate) fn local(api: &Api) -> Router {
    let more = Router::new()
        .route("/v1/spaces", post(spaces::create_space).get(spaces::list_spaces))
        .route("/v1/hold", get(hold::show_hold).post(hold::begin_hold).delete(hold::release_hold));
    assemble(api, more)
}

fn assemble(api: &Api, more: Router<Api>) -> Router {
    let (described, _) = described().split_for_parts();
    let (hot, _) = hot().split_for_parts();
    let full = described
        .merge(pages())
        .merge(more)
        .fallback(nothing_here)
        .method_not_allowed_fallback(other_methods)
        .layer(EdgeLayer::new(api.request_ids(), api.broker().metrics().clone()));
    // No layer: its handler has its edge within.
    full.merge(hot.method_not_allowed_fallback(other_methods_hot)).with_state(api.clone())
}

async fn nothing_here() -> Problem {
    Problem::new(ProblemCode::NotFound)
}

/// Axum adds the `Allow` header.
async fn other_methods() -> Problem {
    Problem::new(ProblemCode::MethodNotAllowed)
}

async fn other_methods_hot(State(api): State<Api>, headers: HeaderMap) -> Response {
    let id = api.request_id(&headers);
    lean(id, Arc::clone(api.broker().metrics()), other_methods()).await
}
