//! What fuzzing calls: the parsers of what providers send, and what must hold of their results.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use url::{Host, Url};
use valetkey_core::Timestamp;

use crate::{
    Catalogue, Guard, answer,
    classify::{self, Reading},
    discovery, is_public,
    outbound::Answer,
    profile::Call,
    skew,
};

const CALLS: [Call; 3] = [Call::Exchange, Call::Refresh, Call::ClientCredentials];
const KINDS: [&str; 4] = ["application/json", "application/x-www-form-urlencoded", "text/html", ""];

/// The answer of a token endpoint, read by every profile of `catalogue`. The first two bytes of `data` are status and kind.
pub fn token_answer(catalogue: &Catalogue, data: &[u8]) {
    let [status, kind, body @ ..] = data else { return };
    let status = StatusCode::from_u16(200 + u16::from(*status) * 2).unwrap_or(StatusCode::OK);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(KINDS[usize::from(*kind) % KINDS.len()]));
    let now = Timestamp::from_millis(1_800_000_000_000);
    let answer = Answer { status, headers, body: body.to_vec() };
    for profile in catalogue.iter() {
        for call in CALLS {
            let Reading::Success(members) = classify::read(profile, call, &answer, now) else { continue };
            let Some(tokens) = answer::token_set(&members, profile, now) else { continue };
            assert!(!tokens.access_token.expose().is_empty(), "an empty token was taken");
            assert!(tokens.expires_at.is_none_or(|at| at >= now), "a token that ended before it was asked for");
        }
    }
}

/// The metadata of an issuer.
pub fn discovery_document(guard: &Guard, data: &[u8]) {
    let Ok(metadata) = discovery::read(data, "https://idp.example", guard) else { return };
    let endpoints = [metadata.authorization, metadata.token, metadata.revocation, metadata.userinfo];
    for url in endpoints.into_iter().flatten() {
        must_be_outside(&url);
    }
}

/// The address of a provider.
pub fn provider_url(guard: &Guard, text: &str) {
    if let Ok(url) = guard.parse(text) {
        must_be_outside(&url);
    }
}

/// `Retry-After` and `Date`.
pub fn waits(data: &[u8]) {
    const DAY: Duration = Duration::from_secs(86_400);
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let now = Timestamp::from_millis(1_800_000_000_000);
    let mut headers = HeaderMap::new();
    headers.insert(header::RETRY_AFTER, value.clone());
    headers.insert(header::DATE, value);
    assert!(answer::retry_after(&headers, now).is_none_or(|wait| wait <= DAY), "a wait of more than a day");
    let _ = skew::measure(&headers, now, now);
}

fn must_be_outside(url: &Url) {
    assert_eq!(url.scheme(), "https", "not HTTPS: {url}");
    assert!(url.username().is_empty() && url.password().is_none(), "user information: {url}");
    match url.host() {
        Some(Host::Ipv4(address)) => assert!(is_public(address.into()), "not public: {url}"),
        Some(Host::Ipv6(address)) => assert!(is_public(address.into()), "not public: {url}"),
        Some(Host::Domain(name)) => assert!(!name.is_empty() && name != "localhost", "not public: {url}"),
        None => panic!("no host: {url}"),
    }
}
