//! The token endpoint (RFC 6749, sections 4.1.3, 4.4.2 and 6).

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, OriginalUri, State as AxumState};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::answer::Answer;
use crate::client::{ClientSettings, ExpiresIn, ScopeAnswer};
use crate::connection::Connection;
use crate::fault::{Endpoint, Fault, Request};
use crate::grants::{Issued, grant_name};
use crate::id_token::{self, Claims};
use crate::ledger::{Committed, Event, EventKind};
use crate::request::{Credentials, Parameters, Unauthenticated};
use crate::show::show;
use crate::state::{Shared, State};
use crate::token::{digest, fingerprint, name_of};
use crate::view::GrantEnd;

/// A token request as it arrived.
struct TokenRequest {
    parameters: Parameters,
    credentials: Credentials,
    force_rotation: bool,
}

pub(crate) async fn token(
    AxumState(shared): AxumState<Arc<Shared>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let parameters = Parameters::from_request(&headers, uri.query(), &body);
    let credentials = Credentials::from_request(&headers, &parameters);
    let mut request = TokenRequest { parameters, credentials, force_rotation: false };
    let (sequence, scripted) = {
        let state = &mut *shared.lock();
        let event = arrival(state, &request, uri.path(), shared.clock.now_ms());
        let scripted = state.take_fault(&Request {
            endpoint: Endpoint::Token,
            client_id: request.credentials.client_id.as_deref(),
            grant_type: request.parameters.get("grant_type"),
            grant: event.grant.as_deref(),
        });
        let fault = scripted.as_ref().map(|scripted| scripted.fault.name().to_owned());
        (shared.record(state, Event { fault, ..event }), scripted)
    };
    let Some(scripted) = scripted else {
        return process(&shared, sequence, &request, true).into_response();
    };
    request.force_rotation = scripted.fault == Fault::WithRotation;
    let later = Arc::clone(&shared);
    let process = Box::new(move || process(&later, sequence, &request, false));
    show(&shared, Some(sequence), scripted, &connection, process).await
}

/// What can be said of a request before it is processed.
fn arrival(state: &mut State, request: &TokenRequest, path: &str, now_ms: i64) -> Event {
    let grant_type = request.parameters.get("grant_type");
    let presented = match grant_type {
        Some("refresh_token") => request.parameters.get("refresh_token").map(digest),
        _ => None,
    };
    let presentation = presented.and_then(|token| state.grants.present(&token, now_ms));
    let mut event = Event {
        kind: EventKind::Token,
        at_ms: now_ms,
        grant_type: grant_type.map(str::to_owned),
        presentation: presentation.as_ref().map_or(u32::from(presented.is_some()), |seen| seen.times),
        was_current: presentation.as_ref().is_some_and(|seen| seen.was_current),
        grant: presentation.as_ref().map(|seen| grant_name(seen.grant)),
        ..Event::default()
    };
    if state.ledger.is_on() {
        path.clone_into(&mut event.path);
        event.client_id.clone_from(&request.credentials.client_id);
        event.auth_method = Some(request.credentials.method);
        event.user = presentation.and_then(|seen| state.grants.get(seen.grant)).map(|grant| grant.user.to_string());
        event.scopes = request.parameters.scopes();
        event.presented = presented.as_ref().map(name_of);
        event.parameters = request.parameters.recordable();
    }
    event
}

/// What processing a request led to.
struct Outcome {
    answer: Answer,
    error: Option<&'static str>,
    issued: Option<Issued>,
    reuse: bool,
    ended: Vec<usize>,
    secret_index: Option<usize>,
}

impl Outcome {
    fn refused(status: u16, error: &'static str) -> Self {
        let answer = Answer::error(status, error);
        Self { answer, error: Some(error), issued: None, reuse: false, ended: Vec::new(), secret_index: None }
    }
}

fn process(shared: &Shared, sequence: u64, request: &TokenRequest, is_shown: bool) -> Answer {
    let state = &mut *shared.lock();
    let outcome = decide(shared, state, request);
    let refresh = request.parameters.get("grant_type") == Some("refresh_token");
    let counters = &mut state.ledger.counters;
    counters.refreshed += u64::from(refresh && outcome.issued.is_some());
    counters.reuses += u64::from(outcome.reuse);
    counters.refused += u64::from(refresh && outcome.error == Some("invalid_grant"));
    let status = outcome.answer.status;
    state.ledger.processed(sequence, |event| {
        event.status = Some(status);
        event.error = outcome.error.map(str::to_owned);
        event.reuse = outcome.reuse;
        event.secret_index = outcome.secret_index;
        event.shown_status = is_shown.then_some(status);
        let ended: Vec<_> = outcome.ended.iter().copied().map(grant_name).collect();
        if let Some(issued) = &outcome.issued {
            event.grant = Some(grant_name(issued.grant));
            event.committed = Some(Committed {
                access: Some(fingerprint(&issued.access_token)),
                refresh: issued.refresh_token.as_deref().filter(|_| issued.rotated).map(fingerprint),
                ended,
            });
        } else if !ended.is_empty() {
            event.committed = Some(Committed { ended, ..Committed::default() });
        }
    });
    if state.ledger.is_on()
        && let Some(issued) = &outcome.issued
    {
        let user = state.grants.get(issued.grant).map(|grant| grant.user.to_string());
        state.ledger.amend(sequence, |event| event.user = user);
    }
    outcome.answer
}

fn decide(shared: &Shared, state: &mut State, request: &TokenRequest) -> Outcome {
    if request.parameters.is_malformed() {
        return Outcome::refused(400, "invalid_request");
    }
    let client = request.credentials.client_id.as_deref().and_then(|id| state.client(id));
    let secret_index = match request.credentials.verify(client.as_deref()) {
        Ok(index) => index,
        Err(Unauthenticated { contradictory: true }) => return Outcome::refused(400, "invalid_request"),
        Err(Unauthenticated { contradictory: false }) => {
            let mut outcome = Outcome::refused(401, "invalid_client");
            outcome.answer = outcome.answer.header("www-authenticate", "Basic realm=\"sandbox\"");
            return outcome;
        }
    };
    let Some(client) = client else {
        return Outcome::refused(401, "invalid_client");
    };
    let now_ms = shared.clock.now_ms();
    let mut outcome = match request.parameters.get("grant_type") {
        Some("authorization_code") => redeem(shared, state, &client, &request.parameters, now_ms),
        Some("refresh_token") => refresh(shared, state, &client, request, now_ms),
        Some("client_credentials") if client.client_credentials => {
            own_token(state, &client, &request.parameters, now_ms)
        }
        Some("client_credentials") => Outcome::refused(400, "unauthorized_client"),
        Some(_) => Outcome::refused(400, "unsupported_grant_type"),
        None => Outcome::refused(400, "invalid_request"),
    };
    outcome.secret_index = secret_index;
    outcome
}

/// Redeems an authorization code (RFC 6749, section 4.1.3; RFC 7636, section 4.6).
fn redeem(
    shared: &Shared,
    state: &mut State,
    client: &ClientSettings,
    parameters: &Parameters,
    now_ms: i64,
) -> Outcome {
    let Some(value) = parameters.get("code") else {
        return Outcome::refused(400, "invalid_request");
    };
    let Some(code) = state.authorizations.find_code_mut(value) else {
        return Outcome::refused(400, "invalid_grant");
    };
    if code.request.client_id != client.client_id {
        return Outcome::refused(400, "invalid_grant");
    }
    if let Some(earlier) = code.redeemed_as {
        // RFC 6749, section 4.1.2: a code used twice takes its tokens with it.
        let ended = state.grants.end_all(&[earlier], GrantEnd::CodeReused);
        return Outcome { ended, ..Outcome::refused(400, "invalid_grant") };
    }
    let redirect_uri = parameters.get("redirect_uri");
    let same_redirect = if code.request.redirect_uri_named {
        redirect_uri == Some(code.request.redirect_uri.as_str())
    } else {
        redirect_uri.is_none_or(|uri| uri == code.request.redirect_uri)
    };
    let verified = match (&code.request.code_challenge, parameters.get("code_verifier")) {
        (None, None) => true,
        (Some(challenge), Some(verifier)) => {
            (43..=128).contains(&verifier.len())
                && *challenge == BASE64URL_NOPAD.encode(&Sha256::digest(verifier.as_bytes()))
        }
        (None, Some(_)) | (Some(_), None) => false,
    };
    if code.expires_at_ms <= now_ms || !same_redirect || !verified {
        return Outcome::refused(400, "invalid_grant");
    }
    let (asked, user, nonce) = (code.request.scopes.clone(), code.user.clone(), code.request.nonce.clone());
    let granted = client.grantable(&asked);
    let issued = state.grants.open(client, &user, granted, client.issue_refresh_token, now_ms);
    if let Some(code) = state.authorizations.find_code_mut(value) {
        code.redeemed_as = Some(issued.grant);
    }
    let mut members = token_members(client, &issued, Some(&asked));
    if issued.scopes.iter().any(|scope| scope == "openid") {
        add_id_token(shared, state, client, &user, nonce.as_deref(), &mut members);
    }
    success(client, members, issued)
}

/// Uses a refresh token (RFC 6749, section 6).
fn refresh(
    shared: &Shared,
    state: &mut State,
    client: &ClientSettings,
    request: &TokenRequest,
    now_ms: i64,
) -> Outcome {
    let Some(token) = request.parameters.get("refresh_token") else {
        return Outcome::refused(400, "invalid_request");
    };
    let narrowed = request.parameters.get("scope").map(|_| request.parameters.scopes());
    match state.grants.refresh(client, token, narrowed, request.force_rotation, now_ms) {
        Ok(issued) => {
            let mut members = token_members(client, &issued, None);
            if client.id_token_on_refresh && issued.scopes.iter().any(|scope| scope == "openid") {
                let user = state.grants.get(issued.grant).map(|grant| grant.user.to_string());
                add_id_token(shared, state, client, user.as_deref().unwrap_or_default(), None, &mut members);
            }
            success(client, members, issued)
        }
        Err(refused) if refused.invalid_scope => {
            Outcome { reuse: refused.reuse, ..Outcome::refused(400, "invalid_scope") }
        }
        Err(refused) => Outcome {
            answer: Answer::error(client.dead_grant_status, &client.dead_grant_error),
            reuse: refused.reuse,
            ended: refused.ended,
            ..Outcome::refused(400, "invalid_grant")
        },
    }
}

/// The client's own token (RFC 6749, section 4.4); all of them belong to one grant.
fn own_token(state: &mut State, client: &ClientSettings, parameters: &Parameters, now_ms: i64) -> Outcome {
    let asked = parameters.scopes();
    let granted = client.grantable(&asked);
    let known = state.client_credentials.get(&client.client_id).copied();
    let issued = match known.filter(|id| state.grants.is_live(*id, now_ms)) {
        Some(id) => state.grants.reissue_access(client, id, granted, now_ms),
        None => state.grants.open(client, &client.client_id, granted, false, now_ms),
    };
    state.client_credentials.insert(client.client_id.clone(), issued.grant);
    let members = token_members(client, &issued, Some(&asked));
    success(client, members, issued)
}

fn success(client: &ClientSettings, members: Map<String, Value>, mut issued: Issued) -> Outcome {
    Outcome {
        answer: Answer::json(200, Value::Object(members)).shaped(client.answer),
        error: None,
        reuse: issued.reuse,
        ended: std::mem::take(&mut issued.ended),
        issued: Some(issued),
        secret_index: None,
    }
}

fn token_members(client: &ClientSettings, issued: &Issued, asked: Option<&[String]>) -> Map<String, Value> {
    let mut members = client.extra.clone();
    let mut put = |name: &str, value: Value| members.insert(name.to_owned(), value);
    put("access_token", json!(issued.access_token));
    if let Some(token) = &issued.refresh_token {
        put("refresh_token", json!(token));
    }
    if let Some(kind) = &client.token_type {
        put("token_type", json!(kind));
    }
    if let Some(value) = stated_life(client) {
        put("expires_in", value);
    }
    if let (Some(field), Some(seconds)) = (&client.refresh_expires_in_field, issued.refresh_expires_in) {
        put(field, json!(seconds));
    }
    let name_scopes = match client.scope_answer {
        ScopeAnswer::Always => true,
        ScopeAnswer::WhenChanged => asked.is_some_and(|asked| asked != issued.scopes),
        ScopeAnswer::Never => false,
    };
    if name_scopes {
        put("scope", json!(issued.scopes.join(&client.scope_separator)));
    }
    members
}

fn stated_life(client: &ClientSettings) -> Option<Value> {
    match client.expires_in {
        ExpiresIn::Number => client.access_life_seconds.map(|seconds| json!(seconds)),
        ExpiresIn::Text => client.access_life_seconds.map(|seconds| json!(seconds.to_string())),
        ExpiresIn::Absent => None,
        ExpiresIn::Null => Some(Value::Null),
        ExpiresIn::Zero => Some(json!(0)),
        ExpiresIn::Negative => Some(json!(-3600)),
        ExpiresIn::Huge => Some(json!(1e30)),
        ExpiresIn::Stated { seconds } => Some(json!(seconds)),
    }
}

fn add_id_token(
    shared: &Shared,
    state: &State,
    client: &ClientSettings,
    user: &str,
    nonce: Option<&str>,
    members: &mut Map<String, Value>,
) {
    let issuer = shared.issuer(state);
    let name = state.settings.accounts.iter().find(|account| account.id == user);
    let claims = Claims {
        issuer: &issuer,
        subject: user,
        name: name.map_or(user, |account| account.name.as_str()),
        nonce,
        now_ms: shared.clock.now_ms(),
    };
    if let Some(token) = id_token::sign(client, &claims) {
        members.insert("id_token".to_owned(), json!(token));
    }
}
