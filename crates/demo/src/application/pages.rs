//! The page, the relay page, and what they load.

use std::{fmt::Write, sync::Arc};

use axum::{
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{Backend, USERS};

const PAGE: &str = include_str!("../../assets/page.html");
const RELAY: &str = include_str!("../../assets/relay.html");

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// `GET /` and `GET /return`: the page, and a session for whoever has none.
pub(super) async fn page(State(backend): State<Arc<Backend>>, headers: HeaderMap) -> Response {
    let mut response = respond(&backend, HTML, PAGE);
    if let Some(cookie) = backend.sessions.open(&headers).and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// `GET /relay`: brings what a popup carries to the page that opened it.
pub(super) async fn relay(State(backend): State<Arc<Backend>>) -> Response {
    respond(&backend, HTML, RELAY)
}

/// `GET /{file}`: scripts, style, mark.
pub(super) async fn file(State(backend): State<Arc<Backend>>, Path(name): Path<String>) -> Response {
    let (content_type, text) = match name.as_str() {
        "app.js" => (SCRIPT, include_str!("../../assets/app.js")),
        "log.js" => (SCRIPT, include_str!("../../assets/log.js")),
        "texts.js" => (SCRIPT, include_str!("../../assets/texts.js")),
        "token.js" => (SCRIPT, include_str!("../../assets/token.js")),
        "relay.js" => (SCRIPT, include_str!("../../assets/relay.js")),
        "app.css" => (STYLE, include_str!("../../assets/app.css")),
        "mark.svg" => (IMAGE, include_str!("../../assets/mark.svg")),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    respond(&backend, content_type, text)
}

/// A file with the addresses of this run filled in, under a policy that lets one other origin in: the broker's script.
fn respond(backend: &Backend, content_type: &'static str, text: &str) -> Response {
    let addresses = &backend.addresses;
    let text = text
        .replace("{{app}}", &addresses.app)
        .replace("{{broker}}", &addresses.broker)
        .replace("{{sandbox}}", &addresses.sandbox)
        .replace("{{users}}", &users());
    let policy = format!(
        "default-src 'none'; script-src 'self' {}; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
        addresses.broker
    );
    let mut response = text.into_response();
    let headers = response.headers_mut();
    let fixed: [(HeaderName, &'static str); 4] = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn users() -> String {
    let mut inputs = String::new();
    for user in USERS {
        // Both are constants of ours without anything to escape.
        let (id, name) = (user.id, user.name);
        let _ = writeln!(
            inputs,
            r#"<label><input type="radio" name="user" value="{id}" data-name="{name}"><span>{name}</span></label>"#
        );
    }
    inputs
}
