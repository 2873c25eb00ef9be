//! Connections: listed, shown and revoked; never with token values.

use axum::extract::State;
use valetkey_core::ConnectionId;

use crate::{
    Api,
    answer::{Answered, ok},
    auth::{Permit, op},
    extract::{PathParam, QueryParams},
    wire::{ConnectionOut, ConnectionPage, ConnectionParams, DisconnectedOut},
};

/// List connections.
///
/// The role `app` lists one user at a time and has to say `user_id`, or `owner=shared` with the role `shared`.
#[utoipa::path(get, path = "/v1/connections", operation_id = "list_connections", tag = "connections",
    params(
        ("connector_id" = Option<String>, Query, description = "Of this connector"),
        ("user_id" = Option<String>, Query, description = "Of this user"),
        ("owner" = Option<String>, Query, description = "`shared`: of no single user"),
        ("status" = Option<String>, Query, description = "`active`, `needs_reauth`, `revoking` or `revoked`"),
        ("provider" = Option<String>, Query, description = "At this provider"),
        ("label" = Option<String>, Query, description = "With this label"),
        ("reason" = Option<String>, Query, description = "Needing their owner for this reason"),
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 200, 50 if absent"),
    ),
    responses((status = OK, description = "A page", body = ConnectionPage)))]
pub(super) async fn list_connections(
    permit: Permit<op::ConnectionList>,
    State(api): State<Api>,
    QueryParams(params): QueryParams<ConnectionParams>,
) -> Answered<ConnectionPage> {
    let page = &params.page;
    let found = api.broker().list_connections(&permit.caller, &params.filter, page.after, page.probe()).await?;
    ok(page.page(found, |connection| connection.id.to_string()))
}

/// Show a connection.
#[utoipa::path(get, path = "/v1/connections/{id}", operation_id = "show_connection", tag = "connections",
    params(("id" = String, Path, description = "The connection")),
    responses((status = OK, description = "The connection", body = ConnectionOut)))]
pub(super) async fn show_connection(
    permit: Permit<op::ConnectionShow>,
    State(api): State<Api>,
    PathParam(id): PathParam<ConnectionId>,
) -> Answered<ConnectionOut> {
    ok(api.broker().show_connection(&permit.caller, id).await?.into())
}

/// Revoke a connection.
///
/// Gone here at once, in every replica; `revocations` says what the provider is told.
#[utoipa::path(delete, path = "/v1/connections/{id}", operation_id = "revoke_connection", tag = "connections",
    params(("id" = String, Path, description = "The connection")),
    responses((status = OK, description = "What became of it", body = DisconnectedOut)))]
pub(super) async fn revoke_connection(
    permit: Permit<op::ConnectionRevoke>,
    State(api): State<Api>,
    PathParam(id): PathParam<ConnectionId>,
) -> Answered<DisconnectedOut> {
    ok(api.broker().revoke_connection(&permit.caller, id).await?.into())
}
