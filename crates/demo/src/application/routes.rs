//! The backend: what the page may ask for, always in the name of the session's user.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Backend,
    refusal::Refusal,
    session::{SignedIn, USERS},
};
use crate::{
    broker_api::{Answer, Call},
    registration::ConnectorKey,
};

type Reply = Result<Json<Value>, Refusal>;
type Shared = State<Arc<Backend>>;

/// Adds the calls that were made, for the page's log.
fn reply(mut body: Value, calls: &[&Call]) -> Json<Value> {
    body["calls"] = json!(calls);
    Json(body)
}

fn succeeded(answer: Answer) -> Result<Answer, Refusal> {
    if answer.is_success() { Ok(answer) } else { Err(Refusal::Broker(answer)) }
}

#[derive(Debug, Deserialize)]
pub(super) struct SwitchUser {
    user: String,
}

/// `POST /api/user`: another of the two people.
pub(super) async fn switch_user(session: SignedIn, Json(switch): Json<SwitchUser>) -> Reply {
    let user = USERS.into_iter().find(|user| user.id == switch.user).ok_or(Refusal::Unknown)?;
    session.become_user(user);
    Ok(reply(json!({ "user": user.id }), &[]))
}

/// `GET /api/connectors/{connector}`: who is signed in, and their token if they have connected.
pub(super) async fn show(State(backend): Shared, session: SignedIn, Path(connector): Path<ConnectorKey>) -> Reply {
    let answer = fetch(&backend, &session, connector, &TokenCall::default()).await?;
    let token = match answer.code() {
        _ if answer.is_success() => shown(&answer.body),
        Some("connection-not-found" | "reconnect-required") => Value::Null,
        _ => return Err(Refusal::Broker(answer)),
    };
    let (user, name) = (session.user.id, session.user.name);
    let state = json!({ "user": user, "user_name": name, "name": connector.name(), "token": token });
    Ok(reply(state, &[&answer.call]))
}

#[derive(Debug, Deserialize)]
pub(super) struct StartCall {
    mode: String,
    origin: String,
    return_url: String,
}

/// `POST /api/connectors/{connector}/flows`: the start link. The broker checks the targets against its lists.
pub(super) async fn start(
    State(backend): Shared,
    session: SignedIn,
    Path(connector): Path<ConnectorKey>,
    Json(start): Json<StartCall>,
) -> Reply {
    let mut body = json!({
        "user_id": session.user.id,
        "user_display": session.user.name,
        "login_hint": session.user.id,
        "mode": start.mode,
        "return_url": start.return_url,
    });
    if start.mode == "popup" {
        body["origin"] = start.origin.into();
    }
    let answer = succeeded(backend.app.post(&backend.path(connector, "flows"), &body).await?)?;
    if let Some(flow_id) = answer.body["flow_id"].as_str() {
        session.remember(flow_id);
    }
    Ok(reply(answer.body, &[&answer.call]))
}

fn own_flow(session: &SignedIn, flow_id: &str) -> Result<String, Refusal> {
    if session.knows(flow_id) { Ok(format!("/v1/flows/{flow_id}")) } else { Err(Refusal::Unknown) }
}

/// `GET /api/flows/{flow_id}`: where it stands.
pub(super) async fn status(State(backend): Shared, session: SignedIn, Path(flow_id): Path<String>) -> Reply {
    let answer = succeeded(backend.app.get(&own_flow(&session, &flow_id)?).await?)?;
    let mut status = json!({ "status": answer.body["status"] });
    if !answer.body["code"].is_null() {
        status["code"] = answer.body["code"].clone();
    }
    Ok(reply(status, &[&answer.call]))
}

#[derive(Deserialize)]
pub(super) struct FinishCall {
    handle: String,
}

/// `POST /api/flows/{flow_id}/finish`: vouches for the session's user. Only now is the code redeemed.
pub(super) async fn finish(
    State(backend): Shared,
    session: SignedIn,
    Path(flow_id): Path<String>,
    Json(finish): Json<FinishCall>,
) -> Reply {
    let path = format!("{}/finish", own_flow(&session, &flow_id)?);
    let body = json!({ "handle": finish.handle, "user_id": session.user.id });
    let answer = succeeded(backend.app.post(&path, &body).await?)?;
    Ok(reply(json!({ "connection_id": answer.body["id"] }), &[&answer.call]))
}

/// `POST /api/flows/{flow_id}/cancel`: the person changed their mind here.
pub(super) async fn cancel(State(backend): Shared, session: SignedIn, Path(flow_id): Path<String>) -> Reply {
    let path = format!("{}/cancel", own_flow(&session, &flow_id)?);
    let answer = succeeded(backend.app.post(&path, &json!({})).await?)?;
    Ok(reply(json!({}), &[&answer.call]))
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct TokenCall {
    /// The fingerprint of a token that is to count as refused.
    rejected: Option<String>,
}

/// `POST /api/connectors/{connector}/token`: what may be shown of a token that is valid now.
pub(super) async fn token(
    State(backend): Shared,
    session: SignedIn,
    Path(connector): Path<ConnectorKey>,
    Json(call): Json<TokenCall>,
) -> Reply {
    let answer = succeeded(fetch(&backend, &session, connector, &call).await?)?;
    Ok(reply(shown(&answer.body), &[&answer.call]))
}

/// `POST /api/connectors/{connector}/call`: what a connector is for. Fetches the token and uses it at the provider's API.
pub(super) async fn call(State(backend): Shared, session: SignedIn, Path(connector): Path<ConnectorKey>) -> Reply {
    let answer = succeeded(fetch(&backend, &session, connector, &TokenCall::default()).await?)?;
    let token = answer.body["access_token"].as_str().unwrap_or_default();
    let url = format!("{}/api/whoami", backend.addresses.sandbox);
    let response = backend.http.get(&url).bearer_auth(token).send().await?;
    let used = Answer::read("GET", &url, response).await?;
    let seen = json!({
        "status": used.call.status,
        "subject": used.body["subject"],
        "scopes": used.body["scopes"],
        "fingerprint": used.body["fingerprint"],
    });
    Ok(reply(seen, &[&answer.call, &used.call]))
}

/// `POST /api/connectors/{connector}/disconnect`: takes the grant back. Said again, it tells how it stands now.
pub(super) async fn disconnect(
    State(backend): Shared,
    session: SignedIn,
    Path(connector): Path<ConnectorKey>,
) -> Reply {
    let body = json!({ "user_id": session.user.id });
    let answer = succeeded(backend.app.post(&backend.path(connector, "disconnect"), &body).await?)?;
    // The list goes back to earlier grants of the same user: the newest belong together and to this one.
    let revocations = answer.body["revocations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let newest = revocations.iter().filter_map(|revocation| revocation["created_at"].as_str()).max();
    let mut told: Vec<_> = revocations
        .iter()
        .filter(|revocation| revocation["created_at"].as_str() == newest)
        .map(|revocation| json!({ "token": revocation["token_kind"], "state": revocation["state"] }))
        .collect();
    told.sort_by_key(|revocation| revocation["token"] != "refresh");
    let connection = &answer.body["connection"];
    let status = json!({ "connection_id": connection["id"], "status": connection["status"], "revocations": told });
    Ok(reply(status, &[&answer.call]))
}

/// `GET /api/connections/{connection_id}`: how it stands. Asking changes nothing, so that a page may ask again and again.
pub(super) async fn connection(State(backend): Shared, session: SignedIn, Path(connection_id): Path<String>) -> Reply {
    // An id has no slash and no dots: this one cannot lead to another address.
    if !connection_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(Refusal::Unknown);
    }
    let answer = succeeded(backend.app.get(&format!("/v1/connections/{connection_id}")).await?)?;
    if answer.body["owner"]["user_id"] != session.user.id {
        return Err(Refusal::Unknown);
    }
    Ok(reply(json!({ "status": answer.body["status"] }), &[&answer.call]))
}

/// The token call itself. The token stays in the backend.
async fn fetch(
    backend: &Backend,
    session: &SignedIn,
    connector: ConnectorKey,
    call: &TokenCall,
) -> reqwest::Result<Answer> {
    let mut body = json!({ "user_id": session.user.id });
    if let Some(rejected) = &call.rejected {
        body["rejected"] = rejected.as_str().into();
    }
    backend.connector.post(&backend.path(connector, "token"), &body).await
}

/// Of a token, everything but the token.
fn shown(token: &Value) -> Value {
    json!({
        "fingerprint": token["fingerprint"],
        "expires_at": token["expires_at"],
        "expires_in": token["expires_in"],
        "scopes": token["scopes"],
        "generation": token["generation"],
    })
}
