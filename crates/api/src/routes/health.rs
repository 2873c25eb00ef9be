//! Probes and numbers, for whoever runs the service; without a key.

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use valetkey_core::{HoldReason, Timestamp};

use crate::{
    Api,
    answer::{Answered, ok},
    problem::{Problem, ProblemCode},
};

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// How it is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`.
    #[schema(example = "ok")]
    status: &'static str,
}

/// Whether it can serve.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    /// `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// The hold in force. It keeps nobody from being served an unexpired token: an operator has to look, a load balancer has
    /// not.
    #[schema(required)]
    hold: Option<HeldOut>,
}

/// A hold: refreshes and revocations wait for an operator.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Hold)]
pub(super) struct HeldOut {
    /// `behind_witness`, `foreign_witness`, `unreadable_witness` or `operator`.
    #[schema(value_type = String, example = "behind_witness")]
    reason: HoldReason,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
}

/// Ask whether the process lives.
#[utoipa::path(get, path = "/health/live", operation_id = "check_liveness", tag = "health",
    responses((status = OK, description = "It lives", body = Health)))]
pub(super) async fn live() -> Answered<Health> {
    ok(Health { status: "ok" })
}

/// Ask whether the process can serve.
#[utoipa::path(get, path = "/health/ready", operation_id = "check_readiness", tag = "health",
    responses((status = OK, description = "It can", body = Readiness)))]
pub(super) async fn ready(State(api): State<Api>) -> Answered<Readiness> {
    if api.is_draining() {
        return Err(Problem::new(ProblemCode::NotReady).member("reason", "shutting_down"));
    }
    let not_ready = |error| Problem::new(ProblemCode::NotReady).member("reason", "database").caused_by(error);
    api.broker().ping().await.map_err(not_ready)?;
    let hold = api.broker().hold().await.map_err(not_ready)?;
    ok(Readiness { status: "ok", hold: hold.map(|hold| HeldOut { reason: hold.reason, since: hold.since }) })
}

/// Read the numbers of this process.
#[utoipa::path(get, path = "/metrics", operation_id = "read_metrics", tag = "health",
    responses((status = OK, description = "OpenMetrics text", content_type = "application/openmetrics-text", body = String)))]
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], api.numbers()).into_response()
}
