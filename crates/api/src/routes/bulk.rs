//! Revoke many by filter.

use axum::extract::State;

use crate::{
    Api,
    answer::{Answered, ok},
    auth::{Permit, op},
    extract::JsonBody,
    wire::{BulkAsk, BulkIn, BulkOut},
};

/// Revoke connections by filter.
///
/// With `dry_run` and a `filter`: a frozen plan with its count. With the `plan_id` and the `expected_count` that a person saw:
/// the plan is carried out, unless the set grew meanwhile.
#[utoipa::path(post, path = "/v1/connections/revoke", operation_id = "revoke_connections", tag = "connections",
    request_body = BulkIn, responses((status = OK, description = "The plan, or what was done", body = BulkOut)))]
pub(super) async fn revoke_connections(
    permit: Permit<op::BulkRevoke>,
    State(api): State<Api>,
    JsonBody(bulk): JsonBody<BulkIn>,
) -> Answered<BulkOut> {
    match bulk.try_into()? {
        BulkAsk::Plan(filter) => ok(api.broker().plan_revoke(&permit.caller, &filter).await?.into()),
        BulkAsk::Run(plan, count) => ok(api.broker().revoke_planned(&permit.caller, plan, count).await?.into()),
    }
}
