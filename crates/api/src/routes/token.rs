//! The token call: what everything else exists for, and the one hot path.

use std::sync::Arc;

use axum::{
    extract::{FromRequest, FromRequestParts, Request, State},
    http::StatusCode,
    response::Response,
};
use valetkey_core::{ConnectorId, PresentedKey};

use crate::{
    Api,
    answer::json,
    auth::Presented,
    edge::lean,
    extract::{JsonBody, PathParam},
    problem::Problem,
    wire::{TokenIn, TokenOut},
};

/// Fetch a token that is valid now.
///
/// A token that is still valid is never withheld because a refresh fails: it comes with its honest `expires_in`. Without a token
/// to give: 404 nobody has connected, 409 the grant is dead, 403 scopes are missing, 503 the provider gives none now.
#[utoipa::path(post, path = "/v1/connectors/{id}/token", operation_id = "fetch_token", tag = "tokens",
    params(("id" = String, Path, description = "The connector")),
    request_body = TokenIn, responses((status = OK, description = "The token", body = TokenOut)))]
pub(super) async fn fetch_token(State(api): State<Api>, request: Request) -> Response {
    let id = api.request_id(request.headers());
    lean(id, Arc::clone(api.broker().metrics()), routed(&api, request)).await
}

/// The same where the connector is known already.
pub(crate) fn token_call(api: Api, connector: ConnectorId, request: Request) -> impl Future<Output = Response> {
    let id = api.request_id(request.headers());
    let metrics = Arc::clone(api.broker().metrics());
    lean(id, metrics, async move {
        let (mut parts, body) = request.into_parts();
        let Presented(key) = Presented::from_request_parts(&mut parts, &api).await?;
        answer(&api, &key, connector, Request::from_parts(parts, body)).await
    })
}

async fn routed(api: &Api, request: Request) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let Presented(key) = Presented::from_request_parts(&mut parts, api).await?;
    let PathParam(connector) = PathParam::<ConnectorId>::from_request_parts(&mut parts, api).await?;
    answer(api, &key, connector, Request::from_parts(parts, body)).await
}

async fn answer(api: &Api, key: &PresentedKey, connector: ConnectorId, request: Request) -> Result<Response, Problem> {
    let JsonBody(wanted) = JsonBody::<TokenIn>::from_request(request, api).await?;
    let issued = api.broker().access(key, connector, &wanted.try_into()?, &|key| api.admit(key)).await?;
    Ok(json(StatusCode::OK, &TokenOut::from(&issued)))
}
