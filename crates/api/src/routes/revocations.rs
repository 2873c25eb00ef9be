//! Revocations: what providers are being told.

use axum::extract::State;

use crate::{
    Api,
    answer::{Answered, ok},
    auth::{Permit, op},
    extract::QueryParams,
    wire::{RevocationPage, RevocationParams},
};

/// List revocations, oldest first.
#[utoipa::path(get, path = "/v1/revocations", operation_id = "list_revocations", tag = "revocations",
    params(
        ("state" = Option<String>, Query, description = "`queued`, `confirmed`, `unsupported`, `superseded` or `failed`"),
        ("connector_id" = Option<String>, Query, description = "Of this connector"),
        ("connection_id" = Option<String>, Query, description = "Of this connection"),
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 200, 50 if absent"),
    ),
    responses((status = OK, description = "A page", body = RevocationPage)))]
pub(super) async fn list_revocations(
    permit: Permit<op::RevocationList>,
    State(api): State<Api>,
    QueryParams(params): QueryParams<RevocationParams>,
) -> Answered<RevocationPage> {
    let page = &params.page;
    let found = api.broker().list_revocations(&permit.caller, &params.filter, page.after, page.probe()).await?;
    ok(page.page(found, |revocation| revocation.id.to_string()))
}
