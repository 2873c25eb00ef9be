//! What the page is told when something does not work.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::broker_api::{Answer, Call};

/// A failure on its way to the page.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The cookie names no session.
    NoSession,
    /// Another page asked.
    ForeignOrigin,
    /// No such connector, user or flow here.
    Unknown,
    /// The broker refused; its code goes on to the page.
    Broker(Answer),
    /// The broker or the provider could not be asked.
    Unreachable,
}

impl From<reqwest::Error> for Refusal {
    fn from(_: reqwest::Error) -> Self {
        Self::Unreachable
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, body) = match self {
            Self::NoSession => (StatusCode::UNAUTHORIZED, told("session-missing", "Nobody is signed in")),
            Self::ForeignOrigin => (StatusCode::FORBIDDEN, told("foreign-origin", "This is for the own page alone")),
            Self::Unknown => (StatusCode::NOT_FOUND, told("not-found", "There is no such thing here")),
            Self::Unreachable => (StatusCode::BAD_GATEWAY, told("broker-unreachable", "Nobody answers")),
            Self::Broker(answer) => {
                let status = StatusCode::from_u16(answer.call.status).unwrap_or(StatusCode::BAD_GATEWAY);
                (status, passed_on(&answer))
            }
        };
        (status, Json(body)).into_response()
    }
}

fn told(code: &str, title: &str) -> Value {
    json!({ "code": code, "title": title, "calls": [] })
}

/// Only what the page reads: a problem may tell more than its users should know.
fn passed_on(Answer { call, body }: &Answer) -> Value {
    let calls: [&Call; 1] = [call];
    let mut passed = json!({ "calls": calls, "code": "broker-refused" });
    for name in ["code", "title", "flow_code", "retry_after", "reason"] {
        if !body[name].is_null() {
            passed[name] = body[name].clone();
        }
    }
    passed
}
