//! The authorization endpoint (RFC 6749, section 4.1.1; OpenID Connect Core 1.0, section 3.1.2).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{OriginalUri, State as AxumState};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use url::Url;

use crate::authorization::AuthorizationRequest;
use crate::client::ClientSettings;
use crate::ledger::{Event, EventKind};
use crate::page::{Consent, consent, html, refusal};
use crate::request::Parameters;
use crate::settings::{AuthorizeSettings, IssParameter};
use crate::state::{Shared, State};

const DECISION_PATH: &str = "/authorize/decision";

/// `GET /authorize`: the consent page, or at once the way back.
pub(crate) async fn authorize(AxumState(shared): AxumState<Arc<Shared>>, OriginalUri(uri): OriginalUri) -> Response {
    let parameters = Parameters::from_form(uri.query().unwrap_or_default());
    wait(&shared).await;
    let state = &mut *shared.lock();
    let sequence = shared.record(
        state,
        Event {
            kind: EventKind::Authorize,
            at_ms: shared.clock.now_ms(),
            path: uri.path().to_owned(),
            client_id: parameters.get("client_id").map(str::to_owned),
            scopes: parameters.scopes(),
            parameters: parameters.recordable(),
            ..Event::default()
        },
    );
    let reply = decide(&shared, state, &parameters);
    finish(state, sequence, reply)
}

/// `POST /authorize/decision`: what the user chose on the page.
pub(crate) async fn decision(
    AxumState(shared): AxumState<Arc<Shared>>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let form = Parameters::from_request(&headers, None, &body);
    wait(&shared).await;
    let now_ms = shared.clock.now_ms();
    let state = &mut *shared.lock();
    let request = form.get("page").and_then(|page| state.authorizations.take_page(page, now_ms));
    let sequence = shared.record(
        state,
        Event {
            kind: EventKind::Authorize,
            at_ms: now_ms,
            path: uri.path().to_owned(),
            client_id: request.as_ref().map(|request| request.client_id.clone()),
            scopes: request.as_ref().map(|request| request.scopes.clone()).unwrap_or_default(),
            ..Event::default()
        },
    );
    let reply = match request {
        None => Reply::Refusal("This page was answered already, or it is too old. Start again in the application."),
        Some(request) if form.get("decision") == Some("allow") => match form.get("account") {
            Some(account) if state.settings.accounts.iter().any(|known| known.id == account) => {
                allow(&shared, state, &request, account)
            }
            _ => Reply::Refusal("There is no such account here."),
        },
        Some(request) => back_with_error(&shared, state, &request, "access_denied"),
    };
    finish(state, sequence, reply)
}

/// What the authorization endpoint does with a request.
enum Reply {
    /// Nothing that could be sent back safely (RFC 6749, section 4.1.2.1).
    Refusal(&'static str),
    Page(String),
    Back {
        location: String,
        error: Option<String>,
        user: Option<String>,
    },
}

fn decide(shared: &Shared, state: &mut State, parameters: &Parameters) -> Reply {
    if parameters.is_malformed() {
        return Reply::Refusal("A parameter was sent twice.");
    }
    let Some(client) = parameters.get("client_id").and_then(|id| state.client(id)) else {
        return Reply::Refusal("The application is not registered here.");
    };
    let Some(redirect_uri) = redirect_uri(&client, parameters) else {
        return Reply::Refusal("The redirect URI is not registered for this application.");
    };
    let request = AuthorizationRequest {
        client_id: client.client_id.clone(),
        redirect_uri,
        redirect_uri_named: parameters.get("redirect_uri").is_some(),
        scopes: parameters.scopes(),
        state: parameters.get("state").map(str::to_owned),
        code_challenge: parameters.get("code_challenge").map(str::to_owned),
        nonce: parameters.get("nonce").map(str::to_owned),
    };
    if let Some(error) = state.settings.authorize.error.clone() {
        return back_with_error(shared, state, &request, &error);
    }
    if parameters.get("response_type") != Some("code") {
        return back_with_error(shared, state, &request, "unsupported_response_type");
    }
    let method = parameters.get("code_challenge_method");
    let has_challenge = request.code_challenge.is_some();
    // Only S256: a challenge without a method would be plain (RFC 7636, section 4.3).
    if (has_challenge && method != Some("S256")) || (client.require_pkce && !has_challenge) {
        return back_with_error(shared, state, &request, "invalid_request");
    }
    let prompt = parameters.get("prompt").unwrap_or_default();
    let hint = parameters.get("login_hint");
    let hinted = hint.filter(|hint| state.settings.accounts.iter().any(|account| account.id == *hint));
    if prompt == "none" && !state.settings.auto_consent {
        let now_ms = shared.clock.now_ms();
        return match hinted {
            None => back_with_error(shared, state, &request, "login_required"),
            Some(user) if has_consented(state, &request, user, now_ms) => allow(shared, state, &request, user),
            Some(_) => back_with_error(shared, state, &request, "consent_required"),
        };
    }
    if state.settings.auto_consent {
        if hint == Some("deny") {
            return back_with_error(shared, state, &request, "access_denied");
        }
        let first = state.settings.accounts.first().map(|account| account.id.clone());
        let own = hint.filter(|_| state.settings.any_account);
        return match hinted.or(own).map(str::to_owned).or(first) {
            Some(user) => allow(shared, state, &request, &user),
            None => back_with_error(shared, state, &request, "login_required"),
        };
    }
    let scopes = client.grantable(&request.scopes);
    let page = state.authorizations.put_page(request, shared.clock.now_ms());
    let first = state.settings.accounts.first().map(|account| account.id.as_str());
    let chosen = if prompt.split(' ').any(|part| part == "select_account") { None } else { hinted.or(first) };
    Reply::Page(consent(&Consent {
        page: &page,
        client_name: &client.name,
        scopes: &scopes,
        accounts: &state.settings.accounts,
        chosen,
        action: DECISION_PATH,
    }))
}

/// The requested redirect URI if it is registered, or the only one there is.
fn redirect_uri(client: &ClientSettings, parameters: &Parameters) -> Option<String> {
    match (parameters.get("redirect_uri"), client.redirect_uris.as_slice()) {
        (Some(asked), _) => client.accepts_redirect_uri(asked).then(|| asked.to_owned()),
        (None, [only]) => Some(only.clone()),
        (None, _) => None,
    }
}

/// Whether a living grant of this user covers the request already.
fn has_consented(state: &State, request: &AuthorizationRequest, user: &str, now_ms: i64) -> bool {
    state.grants.find_by_owner(&request.client_id, user).into_iter().any(|id| {
        state.grants.is_live(id, now_ms)
            && state.grants.get(id).is_some_and(|grant| request.scopes.iter().all(|scope| grant.scopes.contains(scope)))
    })
}

fn allow(shared: &Shared, state: &mut State, request: &AuthorizationRequest, user: &str) -> Reply {
    let life = state.client(&request.client_id).map_or(60, |client| client.code_life_seconds);
    let code = state.authorizations.issue_code(request.clone(), user, shared.clock.now_ms(), life);
    let pairs = vec![("code".to_owned(), code)];
    let location = back(shared, state, request, pairs);
    Reply::Back { location, error: None, user: Some(user.to_owned()) }
}

fn back_with_error(shared: &Shared, state: &State, request: &AuthorizationRequest, error: &str) -> Reply {
    let mut pairs = vec![("error".to_owned(), error.to_owned())];
    if let Some(description) = &state.settings.authorize.error_description {
        pairs.push(("error_description".to_owned(), description.clone()));
    }
    Reply::Back { location: back(shared, state, request, pairs), error: Some(error.to_owned()), user: None }
}

/// The address to send the browser back to.
fn back(shared: &Shared, state: &State, request: &AuthorizationRequest, mut pairs: Vec<(String, String)>) -> String {
    let AuthorizeSettings { iss, omit_state, wrong_state, doubled, extra, .. } = &state.settings.authorize;
    if let Some(value) = request.state.as_ref().filter(|_| !omit_state) {
        let value = if *wrong_state { "another-state" } else { value };
        pairs.push(("state".to_owned(), value.to_owned()));
    }
    match iss {
        IssParameter::Correct => pairs.push(("iss".to_owned(), shared.issuer(state))),
        IssParameter::Other(issuer) => pairs.push(("iss".to_owned(), issuer.clone())),
        IssParameter::Absent => {}
    }
    pairs.extend(extra.iter().map(|(name, value)| (name.clone(), value.clone())));
    let again: Vec<_> = pairs.iter().filter(|(name, _)| doubled.contains(name)).cloned().collect();
    pairs.extend(again);
    match Url::parse(&request.redirect_uri) {
        Ok(mut url) => {
            url.query_pairs_mut().extend_pairs(pairs);
            url.into()
        }
        // It was parsed when it was accepted.
        Err(_) => request.redirect_uri.clone(),
    }
}

fn finish(state: &mut State, sequence: u64, reply: Reply) -> Response {
    let (mut response, error, user) = match reply {
        Reply::Refusal(what) => (refusal(400, what), Some("refused".to_owned()), None),
        Reply::Page(page) => (html(200, page), None, None),
        Reply::Back { location, error, user } => {
            let mut response = (StatusCode::FOUND, "").into_response();
            if let Ok(location) = HeaderValue::from_str(&location) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            (response, error, user)
        }
    };
    if let Some(policy) = state.settings.authorize.coop.header() {
        response.headers_mut().insert("cross-origin-opener-policy", HeaderValue::from_static(policy));
    }
    let status = response.status().as_u16();
    state.ledger.processed(sequence, |event| {
        event.status = Some(status);
        event.shown_status = Some(status);
        event.error = error;
        event.user = user;
    });
    response
}

async fn wait(shared: &Shared) {
    let delay_ms = shared.lock().settings.authorize.delay_ms;
    if delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
}
