//! Shows scripted faults at the endpoints that keep no ledger of their own processing.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{ConnectInfo, Request as HttpRequest, State as AxumState};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::answer::Answer;
use crate::connection::Connection;
use crate::fault::{Commit, Endpoint, Fault, Request};
use crate::show::{Afterwards, show_at_once, wait};
use crate::state::Shared;

const LARGEST_ANSWER: usize = 1 << 20;

/// Lets a request through, or shows the fault that waits for its endpoint.
///
/// `Commit::Before` and the faults that show the true answer process the request; there is no later here.
pub(crate) async fn faults(
    AxumState(shared): AxumState<Arc<Shared>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: HttpRequest,
    next: Next,
) -> Response {
    let Some(endpoint) = endpoint_of(request.uri().path()) else {
        return next.run(request).await;
    };
    let asked = Request { endpoint, client_id: None, grant_type: None, grant: None };
    let scripted = {
        let state = &mut *shared.lock();
        let scripted = state.take_fault(&asked);
        state.ledger.counters.faults += u64::from(scripted.is_some());
        scripted
    };
    let Some(scripted) = scripted else {
        return next.run(request).await;
    };
    let truth = if scripted.commit == Commit::Before { Some(next.run(request).await) } else { None };
    match scripted.fault {
        fault @ (Fault::Delay { .. } | Fault::HoldUntilReleased { .. }) => {
            wait(&shared, &fault).await;
            truth.unwrap_or_else(|| Answer::unavailable().into_response())
        }
        fault => {
            let truth = match truth {
                Some(response) if fault.shows_true_answer() => Some(read(response).await),
                _ => None,
            };
            show_at_once(&shared, fault, truth, &connection, Afterwards(None)).await
        }
    }
}

fn endpoint_of(path: &str) -> Option<Endpoint> {
    match path {
        "/authorize" | "/authorize/decision" => Some(Endpoint::Authorize),
        "/introspect" => Some(Endpoint::Introspect),
        "/userinfo" => Some(Endpoint::Userinfo),
        "/jwks" => Some(Endpoint::Jwks),
        "/.well-known/openid-configuration" | "/.well-known/oauth-authorization-server" => Some(Endpoint::Discovery),
        path if path.starts_with("/api/") => Some(Endpoint::Api),
        _ => None,
    }
}

/// Takes a response apart again, so that a fault can bend it.
async fn read(response: Response) -> Answer {
    let status = response.status().as_u16();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, LARGEST_ANSWER).await.unwrap_or_default();
    let mut answer = if let Ok(members @ Value::Object(_)) = serde_json::from_slice(&bytes) {
        Answer::json(status, members)
    } else {
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer::text(status, content_type.unwrap_or("text/plain"), text)
    };
    for (name, value) in parts.headers {
        if let Some(name) = name
            && name != header::CONTENT_LENGTH
            && name != header::CONTENT_TYPE
        {
            answer.headers.push((name, value));
        }
    }
    answer
}
