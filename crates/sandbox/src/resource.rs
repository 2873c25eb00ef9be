//! What an access token opens: a protected resource, the user information, and introspection.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State as AxumState;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::answer::Answer;
use crate::grants::grant_name;
use crate::request::{Credentials, Parameters, bearer};
use crate::state::Shared;
use crate::token::fingerprint;

/// `GET /api/whoami`: whose token this is.
pub(crate) async fn whoami(AxumState(shared): AxumState<Arc<Shared>>, headers: HeaderMap) -> Response {
    let now_ms = shared.clock.now_ms();
    let state = &mut *shared.lock();
    state.ledger.counters.api_calls += 1;
    let Some(token) = bearer(&headers) else {
        return unauthorized(false).into_response();
    };
    let Some(live) = state.grants.find_live_access(token, now_ms) else {
        return unauthorized(true).into_response();
    };
    Answer::json(
        200,
        json!({
            "subject": &*live.grant.user,
            "client_id": &*live.grant.client_id,
            "grant": grant_name(live.grant_id),
            "scopes": live.scopes,
            "expires_in": live.expires_at_ms.map(|end| (end - now_ms) / 1000),
            "fingerprint": fingerprint(token),
        }),
    )
    .into_response()
}

/// `GET /userinfo` (OpenID Connect Core 1.0, section 5.3).
pub(crate) async fn userinfo(AxumState(shared): AxumState<Arc<Shared>>, headers: HeaderMap) -> Response {
    let state = &*shared.lock();
    let Some(token) = bearer(&headers) else {
        return unauthorized(false).into_response();
    };
    let Some(live) = state.grants.find_live_access(token, shared.clock.now_ms()) else {
        return unauthorized(true).into_response();
    };
    let user = &*live.grant.user;
    let known = state.settings.accounts.iter().find(|account| account.id == user);
    let name = known.map_or(user, |account| account.name.as_str());
    let email = format!("{user}@sandbox.example");
    Answer::json(200, json!({ "sub": user, "name": name, "email": email })).into_response()
}

/// `POST /introspect` (RFC 7662).
pub(crate) async fn introspect(AxumState(shared): AxumState<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let parameters = Parameters::from_request(&headers, None, &body);
    let credentials = Credentials::from_request(&headers, &parameters);
    let state = &*shared.lock();
    let client = credentials.client_id.as_deref().and_then(|id| state.client(id));
    if credentials.verify(client.as_deref()).is_err() {
        return Answer::error(401, "invalid_client").into_response();
    }
    let now_ms = shared.clock.now_ms();
    let live = parameters.get("token").and_then(|token| state.grants.find_live_access(token, now_ms));
    let owned = live.filter(|live| Some(&*live.grant.client_id) == credentials.client_id.as_deref());
    let Some(live) = owned else {
        return Answer::json(200, json!({ "active": false })).into_response();
    };
    let mut answer = json!({
        "active": true,
        "client_id": &*live.grant.client_id,
        "sub": &*live.grant.user,
        "scope": live.scopes.join(" "),
        "token_type": "Bearer",
    });
    if let Some(end) = live.expires_at_ms {
        answer["exp"] = json!(end.div_euclid(1000));
    }
    Answer::json(200, answer).into_response()
}

/// A refusal (RFC 6750, section 3.1).
fn unauthorized(with_token: bool) -> Answer {
    if with_token {
        Answer::error(401, "invalid_token").header("www-authenticate", "Bearer error=\"invalid_token\"")
    } else {
        Answer::error(401, "unauthorized").header("www-authenticate", "Bearer")
    }
}
