//! The audit.

use axum::extract::State;

use crate::{
    Api,
    answer::{Answered, ok},
    auth::{Permit, op},
    extract::QueryParams,
    wire::{AuditEventOut, AuditEventPage, AuditParams, Page},
};

/// Read the audit, newest first.
#[utoipa::path(get, path = "/v1/audit", operation_id = "list_audit", tag = "audit",
    params(
        ("action" = Option<String>, Query, description = "What happened, `token.issued` for example"),
        ("connector_id" = Option<String>, Query, description = "About this connector"),
        ("connection_id" = Option<String>, Query, description = "About this connection"),
        ("flow_id" = Option<String>, Query, description = "About this flow"),
        ("key_id" = Option<String>, Query, description = "About this key"),
        ("user_id" = Option<String>, Query, description = "About this user's grants"),
        ("from" = Option<String>, Query, description = "At this time or later, RFC 3339"),
        ("to" = Option<String>, Query, description = "Before this time, RFC 3339"),
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 200, 50 if absent"),
    ),
    responses((status = OK, description = "A page", body = AuditEventPage)))]
pub(super) async fn list_audit(
    permit: Permit<op::AuditRead>,
    State(api): State<Api>,
    QueryParams(params): QueryParams<AuditParams>,
) -> Answered<AuditEventPage> {
    let page = &params.page;
    let found = api.broker().list_audit(&permit.caller, &params.filter, page.after, page.limit()).await?;
    let items = found.events.into_iter().map(AuditEventOut::from).collect();
    ok(Page { items, next: found.next.map(|id| id.to_string()) })
}
