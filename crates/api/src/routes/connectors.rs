//! Connectors: one OAuth client registration each.

use axum::extract::State;
use valetkey_core::ConnectorId;

use crate::{
    Api,
    answer::{Answered, created, ok},
    auth::{Permit, op},
    extract::{JsonBody, PathParam, QueryParams},
    wire::{ConnectorIn, ConnectorOut, ConnectorPage, ConnectorPatchIn, DeletedConnectorOut, PageParams},
};

/// Make a connector.
///
/// The answer has the redirect URI to register at the provider. Client secrets are never shown again.
#[utoipa::path(post, path = "/v1/connectors", operation_id = "create_connector", tag = "connectors",
    request_body = ConnectorIn, responses((status = CREATED, description = "The connector", body = ConnectorOut)))]
pub(super) async fn create_connector(
    permit: Permit<op::ConnectorCreate>,
    State(api): State<Api>,
    JsonBody(new): JsonBody<ConnectorIn>,
) -> Answered<ConnectorOut> {
    let connector = api.broker().create_connector(&permit.caller, new.into()).await?;
    let redirect_uri = api.broker().redirect_uri(connector.id);
    created(ConnectorOut::of(connector, redirect_uri))
}

/// List connectors.
#[utoipa::path(get, path = "/v1/connectors", operation_id = "list_connectors", tag = "connectors",
    params(
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 200, 50 if absent"),
    ),
    responses((status = OK, description = "A page", body = ConnectorPage)))]
pub(super) async fn list_connectors(
    permit: Permit<op::ConnectorList>,
    State(api): State<Api>,
    QueryParams(page): QueryParams<PageParams<ConnectorId>>,
) -> Answered<ConnectorPage> {
    let found = api.broker().list_connectors(&permit.caller, page.after, page.probe()).await?;
    let shown = found.into_iter().map(|connector| {
        let redirect_uri = api.broker().redirect_uri(connector.id);
        ConnectorOut::of(connector, redirect_uri)
    });
    ok(page.page(shown.collect(), |connector: &ConnectorOut| connector.id().to_string()))
}

/// Show a connector.
#[utoipa::path(get, path = "/v1/connectors/{id}", operation_id = "show_connector", tag = "connectors",
    params(("id" = String, Path, description = "The connector")),
    responses((status = OK, description = "The connector", body = ConnectorOut)))]
pub(super) async fn show_connector(
    permit: Permit<op::ConnectorShow>,
    State(api): State<Api>,
    PathParam(id): PathParam<ConnectorId>,
) -> Answered<ConnectorOut> {
    let connector = api.broker().show_connector(&permit.caller, id).await?;
    ok(ConnectorOut::of(connector, api.broker().redirect_uri(id)))
}

/// Edit a connector.
///
/// What it is (provider, issuer, endpoints, settings, client id, mode, grant) is fixed once a flow or connection exists. Name
/// the `version` that you saw to be refused if somebody else was faster.
#[utoipa::path(patch, path = "/v1/connectors/{id}", operation_id = "update_connector", tag = "connectors",
    params(("id" = String, Path, description = "The connector")),
    request_body = ConnectorPatchIn, responses((status = OK, description = "The connector", body = ConnectorOut)))]
pub(super) async fn update_connector(
    permit: Permit<op::ConnectorUpdate>,
    State(api): State<Api>,
    PathParam(id): PathParam<ConnectorId>,
    JsonBody(patch): JsonBody<ConnectorPatchIn>,
) -> Answered<ConnectorOut> {
    let connector = api.broker().update_connector(&permit.caller, id, patch.into()).await?;
    ok(ConnectorOut::of(connector, api.broker().redirect_uri(id)))
}

/// Delete a connector and revoke its connections.
///
/// It is absent at once. Its secrets stay until its revocations at the provider are over.
#[utoipa::path(delete, path = "/v1/connectors/{id}", operation_id = "delete_connector", tag = "connectors",
    params(("id" = String, Path, description = "The connector")),
    responses((status = OK, description = "What was revoked", body = DeletedConnectorOut)))]
pub(super) async fn delete_connector(
    permit: Permit<op::ConnectorDelete>,
    State(api): State<Api>,
    PathParam(id): PathParam<ConnectorId>,
) -> Answered<DeletedConnectorOut> {
    let connections_revoked = api.broker().delete_connector(&permit.caller, id).await?;
    ok(DeletedConnectorOut { connections_revoked })
}
