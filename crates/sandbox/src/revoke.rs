//! Revocation: RFC 7009 and the styles that some providers have instead.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, OriginalUri, State as AxumState};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::answer::Answer;
use crate::connection::Connection;
use crate::fault::{Endpoint, Request};
use crate::grants::grant_name;
use crate::ledger::{AuthMethod, Committed, Event, EventKind};
use crate::request::{Credentials, Parameters, bearer};
use crate::show::show;
use crate::state::{Shared, State};
use crate::token::fingerprint;

/// One style of revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Client credentials and `token`; unknown tokens count as revoked (RFC 7009).
    Standard,
    /// The token is the only credential, in a `Bearer` header or as `token`.
    Bearer,
    /// Client credentials by Basic, and `access_token` in a JSON body; unknown tokens are 404.
    Application,
}

struct Revocation {
    style: Style,
    credentials: Credentials,
    token: Option<String>,
    malformed: bool,
}

/// `POST /revoke`, with a form, JSON or query parameters.
pub(crate) async fn revoke(
    AxumState(shared): AxumState<Arc<Shared>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let parameters = Parameters::from_request(&headers, uri.query(), &body);
    let request = Revocation {
        style: Style::Standard,
        credentials: Credentials::from_request(&headers, &parameters),
        token: parameters.get("token").map(str::to_owned),
        malformed: parameters.is_malformed(),
    };
    run(shared, connection, uri.path(), &parameters, request).await
}

/// `POST` or `DELETE /revoke/bearer`.
pub(crate) async fn revoke_bearer(
    AxumState(shared): AxumState<Arc<Shared>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let parameters = Parameters::from_request(&headers, uri.query(), &body);
    let request = Revocation {
        style: Style::Bearer,
        credentials: Credentials::from_request(&HeaderMap::new(), &Parameters::default()),
        token: bearer(&headers).or_else(|| parameters.get("token")).map(str::to_owned),
        malformed: parameters.is_malformed(),
    };
    run(shared, connection, uri.path(), &parameters, request).await
}

/// `DELETE /applications/{client_id}/grant`.
pub(crate) async fn revoke_application_grant(
    AxumState(shared): AxumState<Arc<Shared>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut json_headers = headers.clone();
    json_headers.insert("content-type", axum::http::HeaderValue::from_static("application/json"));
    let parameters = Parameters::from_request(&json_headers, None, &body);
    let request = Revocation {
        style: Style::Application,
        credentials: Credentials::from_request(&headers, &Parameters::default()),
        token: parameters.get("access_token").map(str::to_owned),
        malformed: parameters.is_malformed(),
    };
    run(shared, connection, uri.path(), &parameters, request).await
}

async fn run(
    shared: Arc<Shared>,
    connection: Connection,
    path: &str,
    parameters: &Parameters,
    request: Revocation,
) -> Response {
    let (sequence, scripted) = {
        let state = &mut *shared.lock();
        let grant = request.token.as_deref().and_then(|token| state.grants.grant_of(token));
        let grant_name = grant.map(grant_name);
        let scripted = state.take_fault(&Request {
            endpoint: Endpoint::Revoke,
            client_id: request.credentials.client_id.as_deref(),
            grant_type: None,
            grant: grant_name.as_deref(),
        });
        let event = Event {
            kind: EventKind::Revoke,
            at_ms: shared.clock.now_ms(),
            path: path.to_owned(),
            client_id: request.credentials.client_id.clone(),
            auth_method: Some(match request.style {
                Style::Bearer => AuthMethod::Token,
                Style::Standard | Style::Application => request.credentials.method,
            }),
            user: grant.and_then(|id| state.grants.get(id)).map(|grant| grant.user.to_string()),
            grant: grant_name,
            presented: request.token.as_deref().map(fingerprint),
            fault: scripted.as_ref().map(|scripted| scripted.fault.name().to_owned()),
            parameters: parameters.recordable(),
            ..Event::default()
        };
        (shared.record(state, event), scripted)
    };
    let Some(scripted) = scripted else {
        return process(&shared, sequence, &request, true).into_response();
    };
    let later = Arc::clone(&shared);
    let process = Box::new(move || process(&later, sequence, &request, false));
    show(&shared, Some(sequence), scripted, &connection, process).await
}

fn process(shared: &Shared, sequence: u64, request: &Revocation, is_shown: bool) -> Answer {
    let state = &mut *shared.lock();
    let (answer, error, ended) = decide(state, request);
    let status = answer.status;
    state.ledger.processed(sequence, |event| {
        event.status = Some(status);
        event.error = error.map(str::to_owned);
        event.shown_status = is_shown.then_some(status);
        if let Some(ended) = ended {
            let ended = ended.into_iter().map(grant_name).collect();
            event.committed = Some(Committed { ended, ..Committed::default() });
        }
    });
    answer
}

type Decision = (Answer, Option<&'static str>, Option<Vec<usize>>);

fn decide(state: &mut State, request: &Revocation) -> Decision {
    let refused = |status, error| (Answer::error(status, error), Some(error), None);
    let Some(token) = request.token.as_deref().filter(|_| !request.malformed) else {
        return refused(400, "invalid_request");
    };
    let client_id = match request.style {
        Style::Bearer => {
            state.grants.grant_of(token).and_then(|id| state.grants.get(id)).map(|grant| grant.client_id.to_string())
        }
        Style::Standard | Style::Application => request.credentials.client_id.clone(),
    };
    let client = client_id.and_then(|id| state.client(&id));
    if request.style != Style::Bearer && request.credentials.verify(client.as_deref()).is_err() {
        return refused(401, "invalid_client");
    }
    let revoked = client.and_then(|client| state.grants.revoke(&client, token));
    match (request.style, revoked) {
        (Style::Standard, revoked) => (Answer::json(200, json!({})), None, revoked.map(|(_, ended)| ended)),
        (Style::Bearer, Some((_, ended))) => {
            (Answer::json(200, json!({ "ok": true, "revoked": true })), None, Some(ended))
        }
        (Style::Bearer, None) => {
            (Answer::json(200, json!({ "ok": false, "error": "invalid_auth" })), Some("invalid_auth"), None)
        }
        (Style::Application, Some((_, ended))) => (Answer::text(204, "application/json", ""), None, Some(ended)),
        (Style::Application, None) => refused(404, "not_found"),
    }
}
