//! The control over HTTP, for tests that run the sandbox in a process of its own.

use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::ClientSettings;
use crate::control::{Control, ControlError};
use crate::fault::FaultRule;
use crate::ledger::{Event, EventKind};
use crate::settings::SandboxSettings;
use crate::view::Outage;

pub(crate) fn routes(control: Control) -> Router {
    Router::new()
        .route("/control/health", get(async || StatusCode::NO_CONTENT))
        .route("/control/settings", get(settings).patch(patch_settings))
        .route("/control/clients", get(clients))
        .route("/control/clients/{client_id}", put(put_client).patch(patch_client).delete(remove_client))
        .route("/control/faults", get(faults).post(inject).delete(clear_faults))
        .route("/control/gates/{gate}/held", get(held))
        .route("/control/gates/{gate}/release", post(release))
        .route("/control/outage", get(outage).put(set_outage))
        .route("/control/clock", get(clock).put(set_clock))
        .route("/control/clock/advance", post(advance))
        .route("/control/ledger", get(ledger).delete(clear_ledger))
        .route("/control/counters", get(counters))
        .route("/control/token-requests", get(wait_for_token_requests))
        .route("/control/grants", get(grants).post(seed))
        .route("/control/grants/{grant}", get(grant).delete(revoke_grant))
        .route("/control/revoke-by-user", post(revoke_by_user))
        .route("/control/tokens", post(token_state))
        .route("/control/tokens/end", post(end_token))
        .with_state(control)
}

/// A refusal of the control itself, in plain JSON.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        let status = match error {
            ControlError::UnknownClient(_) => StatusCode::NOT_FOUND,
            ControlError::InvalidSettings(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self(status, error.to_string())
    }
}

fn absent() -> Refusal {
    Refusal(StatusCode::NOT_FOUND, "there is no such thing".to_owned())
}

async fn settings(State(control): State<Control>) -> Json<SandboxSettings> {
    Json(control.settings())
}

async fn patch_settings(
    State(control): State<Control>,
    Json(patch): Json<Value>,
) -> Result<Json<SandboxSettings>, Refusal> {
    let changed = patched(&control.settings(), patch)?;
    control.update_settings(|settings| *settings = changed);
    Ok(Json(control.settings()))
}

async fn clients(State(control): State<Control>) -> Json<Vec<ClientSettings>> {
    Json(control.clients())
}

async fn put_client(
    State(control): State<Control>,
    Path(client_id): Path<String>,
    Json(client): Json<ClientSettings>,
) -> Json<ClientSettings> {
    let client = ClientSettings { client_id, ..client };
    control.put_client(client.clone());
    Json(client)
}

async fn patch_client(
    State(control): State<Control>,
    Path(client_id): Path<String>,
    Json(patch): Json<Value>,
) -> Result<Json<ClientSettings>, Refusal> {
    let known = control.client(&client_id).ok_or_else(|| ControlError::UnknownClient(client_id.clone()))?;
    let changed: ClientSettings = patched(&known, patch)?;
    control.update_client(&client_id, |client| client.clone_from(&changed))?;
    Ok(Json(ClientSettings { client_id, ..changed }))
}

async fn remove_client(State(control): State<Control>, Path(client_id): Path<String>) -> Result<StatusCode, Refusal> {
    if control.remove_client(&client_id) { Ok(StatusCode::NO_CONTENT) } else { Err(absent()) }
}

/// Applies a merge patch (RFC 7396).
fn patched<T: Serialize + DeserializeOwned>(known: &T, patch: Value) -> Result<T, ControlError> {
    let invalid = |error: serde_json::Error| ControlError::InvalidSettings(error.to_string());
    let mut value = serde_json::to_value(known).map_err(invalid)?;
    merge(&mut value, patch);
    serde_json::from_value(value).map_err(invalid)
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(members), Value::Object(changes)) => {
            for (name, change) in changes {
                // Settings know a difference between null and absent, so null is written, not removed.
                merge(members.entry(name).or_insert(Value::Null), change);
            }
        }
        (target, patch) => *target = patch,
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<FaultRule>),
    One(Box<FaultRule>),
}

async fn inject(State(control): State<Control>, Json(rules): Json<OneOrMany>) -> StatusCode {
    match rules {
        OneOrMany::One(rule) => control.inject(*rule),
        OneOrMany::Many(rules) => rules.into_iter().for_each(|rule| control.inject(rule)),
    }
    StatusCode::NO_CONTENT
}

async fn faults(State(control): State<Control>) -> Json<Vec<FaultRule>> {
    Json(control.pending_faults())
}

async fn clear_faults(State(control): State<Control>) -> StatusCode {
    control.clear_faults();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct Wait {
    #[serde(default = "one")]
    count: u64,
    #[serde(default = "ten_seconds")]
    timeout_ms: u64,
}

fn one() -> u64 {
    1
}

fn ten_seconds() -> u64 {
    10_000
}

fn waited(came: bool) -> Result<StatusCode, Refusal> {
    if came {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Refusal(StatusCode::REQUEST_TIMEOUT, "too few requests came".to_owned()))
    }
}

async fn held(
    State(control): State<Control>,
    Path(gate): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<StatusCode, Refusal> {
    let count = usize::try_from(wait.count).unwrap_or(usize::MAX);
    waited(control.wait_until_held_count(&gate, count, Duration::from_millis(wait.timeout_ms)).await)
}

async fn wait_for_token_requests(
    State(control): State<Control>,
    Query(wait): Query<Wait>,
) -> Result<StatusCode, Refusal> {
    let limit = Duration::from_millis(wait.timeout_ms);
    waited(control.wait_for_token_requests_within(wait.count, limit).await)
}

async fn release(State(control): State<Control>, Path(gate): Path<String>) -> StatusCode {
    control.release(&gate);
    StatusCode::NO_CONTENT
}

#[derive(Serialize, Deserialize)]
struct OutageBody {
    outage: Outage,
}

async fn outage(State(control): State<Control>) -> Json<OutageBody> {
    Json(OutageBody { outage: control.outage() })
}

async fn set_outage(State(control): State<Control>, Json(body): Json<OutageBody>) -> StatusCode {
    control.set_outage(body.outage);
    StatusCode::NO_CONTENT
}

#[derive(Serialize, Deserialize)]
struct Now {
    now_ms: i64,
}

async fn clock(State(control): State<Control>) -> Json<Now> {
    Json(Now { now_ms: control.now_ms() })
}

async fn set_clock(State(control): State<Control>, Json(now): Json<Now>) -> Json<Now> {
    control.set_now_ms(now.now_ms);
    Json(Now { now_ms: control.now_ms() })
}

#[derive(Deserialize)]
struct Advance {
    ms: u64,
}

async fn advance(State(control): State<Control>, Json(advance): Json<Advance>) -> Json<Now> {
    control.advance(Duration::from_millis(advance.ms));
    Json(Now { now_ms: control.now_ms() })
}

#[derive(Deserialize)]
struct LedgerFilter {
    kind: Option<EventKind>,
    grant_type: Option<String>,
    grant: Option<String>,
    client_id: Option<String>,
    user: Option<String>,
    #[serde(default)]
    repeated: bool,
    #[serde(default)]
    after: u64,
}

async fn ledger(State(control): State<Control>, Query(filter): Query<LedgerFilter>) -> Json<Vec<Event>> {
    let fits = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
    Json(control.events_where(|event| {
        event.sequence > filter.after
            && filter.kind.is_none_or(|kind| kind == event.kind)
            && fits(&filter.grant_type, &event.grant_type)
            && fits(&filter.grant, &event.grant)
            && fits(&filter.client_id, &event.client_id)
            && fits(&filter.user, &event.user)
            && (!filter.repeated || event.presentation > 1)
    }))
}

async fn clear_ledger(State(control): State<Control>) -> StatusCode {
    control.clear_ledger();
    StatusCode::NO_CONTENT
}

async fn counters(State(control): State<Control>) -> Response {
    Json(control.counters()).into_response()
}

#[derive(Deserialize)]
struct GrantFilter {
    client_id: Option<String>,
    user: Option<String>,
    #[serde(default)]
    first: usize,
    #[serde(default = "thousand")]
    limit: usize,
}

fn thousand() -> usize {
    1000
}

async fn grants(State(control): State<Control>, Query(filter): Query<GrantFilter>) -> Response {
    match (&filter.client_id, &filter.user) {
        (Some(client_id), Some(user)) => Json(control.grants_of(client_id, user)).into_response(),
        (None, None) => Json(control.grants_from(filter.first, filter.limit)).into_response(),
        _ => Refusal(StatusCode::BAD_REQUEST, "name both client_id and user, or neither".to_owned()).into_response(),
    }
}

async fn grant(State(control): State<Control>, Path(grant): Path<String>) -> Result<Response, Refusal> {
    control.grant(&grant).map(|view| Json(view).into_response()).ok_or_else(absent)
}

async fn revoke_grant(State(control): State<Control>, Path(grant): Path<String>) -> Result<StatusCode, Refusal> {
    if control.revoke_grant_by_user(&grant) { Ok(StatusCode::NO_CONTENT) } else { Err(absent()) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Seed {
    client_id: String,
    /// One grant for this user.
    user: Option<String>,
    /// One grant for each of `<prefix>0`, `<prefix>1`, up to `count`.
    user_prefix: Option<String>,
    #[serde(default = "one")]
    count: u64,
    #[serde(default)]
    scopes: Vec<String>,
}

async fn seed(State(control): State<Control>, Json(seed): Json<Seed>) -> Result<Response, Refusal> {
    let scopes: Vec<_> = seed.scopes.iter().map(String::as_str).collect();
    let users: Box<dyn Iterator<Item = String> + Send> = match (seed.user, seed.user_prefix) {
        (Some(user), None) => Box::new((0..seed.count).map(move |_| user.clone())),
        (None, Some(prefix)) => Box::new((0..seed.count).map(move |number| format!("{prefix}{number}"))),
        _ => {
            return Err(Refusal(StatusCode::BAD_REQUEST, "name either user or user_prefix".to_owned()));
        }
    };
    let grants = control.seed_grants(&seed.client_id, users, &scopes)?;
    Ok((StatusCode::CREATED, Json(grants)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    client_id: String,
    user: String,
}

async fn revoke_by_user(State(control): State<Control>, Json(owner): Json<Owner>) -> Json<Value> {
    Json(json!({ "ended": control.revoke_grants_by_user(&owner.client_id, &owner.user) }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    token: String,
}

async fn token_state(State(control): State<Control>, Json(token): Json<Token>) -> Json<Value> {
    Json(json!({
        "access_live": control.is_access_token_live(&token.token),
        "refresh_live": control.is_refresh_token_live(&token.token),
        "grant": control.grant_of_token(&token.token).map(|grant| grant.id),
    }))
}

async fn end_token(State(control): State<Control>, Json(token): Json<Token>) -> Result<StatusCode, Refusal> {
    if control.end_access_token(&token.token) { Ok(StatusCode::NO_CONTENT) } else { Err(absent()) }
}
