//! Probes and numbers, for whoever runs the service; without a key.

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

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

/// Ask whether the process lives.
#[utoipa::path(get, path = "/health/live", operation_id = "check_liveness", tag = "health",
    responses((status = OK, description = "It lives", body = Health)))]
pub(super) async fn live() -> Answered<Health> {
    ok(Health { status: "ok" })
}

/// Ask whether the process can serve.
#[utoipa::path(get, path = "/health/ready", operation_id = "check_readiness", tag = "health",
    responses((status = OK, description = "It can", body = Health)))]
pub(super) async fn ready(State(api): State<Api>) -> Answered<Health> {
    if api.is_draining() {
        return Err(Problem::new(ProblemCode::NotReady).member("reason", "shutting_down"));
    }
    match api.broker().ping().await {
        Ok(()) => ok(Health { status: "ok" }),
        Err(error) => Err(Problem::new(ProblemCode::NotReady).member("reason", "database").caused_by(error)),
    }
}

/// Read the numbers of this process.
#[utoipa::path(get, path = "/metrics", operation_id = "read_metrics", tag = "health",
    responses((status = OK, description = "OpenMetrics text", content_type = "application/openmetrics-text", body = String)))]
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], api.broker().metrics().encode()).into_response()
}
