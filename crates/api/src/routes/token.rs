//! The token call: what everything else exists for, and the one hot path.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use valetkey_core::ConnectorId;

use crate::{
    Api,
    answer::json,
    auth::Presented,
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
pub(super) async fn fetch_token(
    Presented(key): Presented,
    State(api): State<Api>,
    PathParam(connector): PathParam<ConnectorId>,
    JsonBody(wanted): JsonBody<TokenIn>,
) -> Result<Response, Problem> {
    let request = wanted.try_into()?;
    let issued = api.broker().access(&key, connector, &request, &|key| api.admit(key)).await?;
    Ok(json(StatusCode::OK, &TokenOut::from(&issued)).into_response())
}
