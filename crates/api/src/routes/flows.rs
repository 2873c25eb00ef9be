//! Flows: started, watched, finished and cancelled by the application's backend.

use axum::{extract::State, http::StatusCode};
use valetkey_core::{ConnectorId, FlowId};

use crate::{
    Api,
    answer::{Answered, created, ok},
    auth::{Permit, op},
    extract::{JsonBody, PathParam},
    problem::Problem,
    wire::{ConnectionOut, FinishIn, FlowOut, StartFlowIn, StartedFlowOut},
};

/// Start a flow.
///
/// Open `start_url` in the user's browser, in a popup or with the whole page. Take `user_id` from your own session, never from
/// an address: you vouch for it.
#[utoipa::path(post, path = "/v1/connectors/{id}/flows", operation_id = "start_flow", tag = "flows",
    params(("id" = String, Path, description = "The connector")),
    request_body = StartFlowIn, responses((status = CREATED, description = "The flow", body = StartedFlowOut)))]
pub(super) async fn start_flow(
    permit: Permit<op::FlowStart>,
    State(api): State<Api>,
    PathParam(connector): PathParam<ConnectorId>,
    JsonBody(start): JsonBody<StartFlowIn>,
) -> Answered<StartedFlowOut> {
    created(api.broker().start_flow(&permit.caller, connector, &start.into()).await?.into())
}

/// Watch a flow.
///
/// The answer never holds the handle, which comes home with the browser alone.
#[utoipa::path(get, path = "/v1/flows/{id}", operation_id = "show_flow", tag = "flows",
    params(("id" = String, Path, description = "The flow")),
    responses((status = OK, description = "Where it stands", body = FlowOut)))]
pub(super) async fn show_flow(
    permit: Permit<op::FlowShow>,
    State(api): State<Api>,
    PathParam(id): PathParam<FlowId>,
) -> Answered<FlowOut> {
    let flow = api.broker().show_flow(&permit.caller, id).await?;
    ok(FlowOut::of(&flow, api.now()))
}

/// Finish a flow.
///
/// Present the handle that the browser brought home together with the user of your session. Only if this is the user who
/// started is anything redeemed. Saying it again with the same handle and user gives the same answer until the flow's end.
#[utoipa::path(post, path = "/v1/flows/{id}/finish", operation_id = "finish_flow", tag = "flows",
    params(("id" = String, Path, description = "The flow")),
    request_body = FinishIn, responses((status = OK, description = "The connection", body = ConnectionOut)))]
pub(super) async fn finish_flow(
    permit: Permit<op::FlowFinish>,
    State(api): State<Api>,
    PathParam(id): PathParam<FlowId>,
    JsonBody(finish): JsonBody<FinishIn>,
) -> Answered<ConnectionOut> {
    ok(api.broker().finish_flow(&permit.caller, id, &finish.into()).await?.into())
}

/// Cancel a flow.
///
/// A flow that is over stays as it is.
#[utoipa::path(post, path = "/v1/flows/{id}/cancel", operation_id = "cancel_flow", tag = "flows",
    params(("id" = String, Path, description = "The flow")),
    responses((status = NO_CONTENT, description = "Nothing more will come of it")))]
pub(super) async fn cancel_flow(
    permit: Permit<op::FlowCancel>,
    State(api): State<Api>,
    PathParam(id): PathParam<FlowId>,
) -> Result<StatusCode, Problem> {
    api.broker().cancel_flow(&permit.caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
