//! Take a grant back for its user.

use axum::extract::State;
use valetkey_core::ConnectorId;

use crate::{
    Api,
    answer::{Answered, ok},
    auth::{Permit, op},
    extract::{JsonBody, PathParam},
    wire::{DisconnectIn, DisconnectedOut},
};

/// Take a grant back for its user.
///
/// Gone here at once, in every replica; the provider is told through a durable queue, and `revocations` says truthfully what
/// becomes of that.
#[utoipa::path(post, path = "/v1/connectors/{id}/disconnect", operation_id = "disconnect_connection", tag = "connections",
    params(("id" = String, Path, description = "The connector")),
    request_body = DisconnectIn, responses((status = OK, description = "What became of it", body = DisconnectedOut)))]
pub(super) async fn disconnect(
    permit: Permit<op::Disconnect>,
    State(api): State<Api>,
    PathParam(connector): PathParam<ConnectorId>,
    JsonBody(disconnect): JsonBody<DisconnectIn>,
) -> Answered<DisconnectedOut> {
    ok(api.broker().disconnect(&permit.caller, connector, &disconnect.into()).await?.into())
}
