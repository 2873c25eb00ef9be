//! Discovery by issuer: fetched, checked, kept for an hour, used stale for a day when the issuer cannot be reached.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::StatusCode;
use serde_json::Value;
use tokio::time::Instant;
use url::Url;
use valetkey_core::Clock;

use crate::{
    DiscoveryFault, Guard,
    outbound::{Outbound, SendFault},
    profile::{ClientAuthentication, Discovery},
};

/// How long metadata is used without asking again.
const FRESH: Duration = Duration::from_secs(3600);

/// How long it is used when asking again fails.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// How long a failure is believed.
const FAILED: Duration = Duration::from_secs(10);

/// How many issuers are kept.
const ISSUERS: usize = 1024;

/// What an issuer says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) authorization: Option<Url>,
    pub(crate) token: Option<Url>,
    pub(crate) revocation: Option<Url>,
    pub(crate) userinfo: Option<Url>,
    pub(crate) iss_in_callback: bool,
    /// Ways to authenticate that it lists and we know; empty if it lists none.
    pub(crate) authentication: Vec<ClientAuthentication>,
}

#[derive(Debug, Default)]
struct Entry {
    found: Option<(Arc<Metadata>, Duration)>,
    failed: Option<(DiscoveryFault, Duration)>,
}

type Slot = Arc<tokio::sync::Mutex<Entry>>;

/// The metadata of the issuers that were asked, one request at a time for each.
#[derive(Debug)]
pub(crate) struct DiscoveryCache {
    outbound: Outbound,
    clock: Arc<dyn Clock>,
    slots: Mutex<HashMap<String, Slot>>,
}

impl DiscoveryCache {
    pub(crate) fn new(outbound: Outbound, clock: Arc<dyn Clock>) -> Self {
        Self { outbound, clock, slots: Mutex::default() }
    }

    /// The metadata of an issuer.
    pub(crate) async fn metadata(
        &self,
        issuer: &str,
        kind: Discovery,
        deadline: Instant,
    ) -> Result<Arc<Metadata>, DiscoveryFault> {
        let slot = self.slot(issuer, kind);
        let mut entry =
            tokio::time::timeout_at(deadline, slot.lock()).await.map_err(|_| DiscoveryFault::Unreachable)?;
        let now = self.clock.monotonic();
        let age = |since: Duration| now.saturating_sub(since);
        if let Some((metadata, since)) = &entry.found
            && age(*since) < FRESH
        {
            return Ok(metadata.clone());
        }
        let stale = entry.found.as_ref().filter(|(_, since)| age(*since) < STALE).map(|(metadata, _)| metadata.clone());
        if let Some((fault, since)) = entry.failed
            && age(since) < FAILED
        {
            return stale.ok_or(fault);
        }
        match fetch(&self.outbound, issuer, kind, deadline).await {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                entry.found = Some((metadata.clone(), now));
                entry.failed = None;
                Ok(metadata)
            }
            Err(fault) => {
                tracing::warn!(%fault, stale = stale.is_some(), "discovery at an issuer failed");
                entry.failed = Some((fault, now));
                stale.ok_or(fault)
            }
        }
    }

    fn slot(&self, issuer: &str, kind: Discovery) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{kind:?} {issuer}");
        if !slots.contains_key(&key) && slots.len() >= ISSUERS {
            // Which one goes does not matter: it is asked again when it is needed.
            let victim = slots.keys().next().cloned();
            victim.map(|victim| slots.remove(&victim));
        }
        slots.entry(key).or_default().clone()
    }
}

async fn fetch(
    outbound: &Outbound,
    issuer: &str,
    kind: Discovery,
    deadline: Instant,
) -> Result<Metadata, DiscoveryFault> {
    let base = outbound.guard().parse(issuer).map_err(|_| DiscoveryFault::BadEndpoint)?;
    let mut fault = DiscoveryFault::Unreachable;
    for url in addresses(issuer, &base, kind) {
        let answer = match outbound.get(&url, deadline).await {
            Ok(answer) => answer,
            Err(SendFault::NotSent(_) | SendFault::Unknown(_)) => return Err(fault),
        };
        match answer.status {
            StatusCode::OK => return read(&answer.body, issuer, outbound.guard()),
            status => fault = DiscoveryFault::Status { status: status.as_u16() },
        }
        if answer.status != StatusCode::NOT_FOUND {
            break;
        }
    }
    Err(fault)
}

/// Where the metadata may be: OIDC appends its path to the issuer, RFC 8414 puts its own before the issuer's path.
fn addresses(issuer: &str, base: &Url, kind: Discovery) -> Vec<Url> {
    let appended = Url::parse(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')));
    let mut inserted = base.clone();
    inserted.set_path(&format!("/.well-known/oauth-authorization-server{}", base.path().trim_end_matches('/')));
    match kind {
        Discovery::Oidc => appended.into_iter().chain([inserted]).collect(),
        Discovery::Rfc8414 => vec![inserted],
        Discovery::None => Vec::new(),
    }
}

pub(crate) fn read(body: &[u8], issuer: &str, guard: &Guard) -> Result<Metadata, DiscoveryFault> {
    let document: Value = serde_json::from_slice(body).map_err(|_| DiscoveryFault::Unreadable)?;
    if !document.is_object() {
        return Err(DiscoveryFault::Unreadable);
    }
    if document["issuer"].as_str() != Some(issuer) {
        return Err(DiscoveryFault::OtherIssuer);
    }
    let needed = |name: &str| match document[name].as_str() {
        None => Ok(None),
        Some(text) => guard.parse(text).map(Some).map_err(|_| DiscoveryFault::BadEndpoint),
    };
    let optional = |name: &str| document[name].as_str().and_then(|text| guard.parse(text).ok());
    let token = needed("token_endpoint")?;
    let listed = document["token_endpoint_auth_methods_supported"].as_array();
    let authentication = listed
        .into_iter()
        .flatten()
        .filter_map(|way| match way.as_str() {
            Some("client_secret_basic") => Some(ClientAuthentication::Basic),
            Some("client_secret_post") => Some(ClientAuthentication::Body),
            _ => None,
        })
        .collect();
    Ok(Metadata {
        authorization: needed("authorization_endpoint")?,
        // Some servers publish the token endpoint here, and would take a revocation for a broken token request.
        revocation: optional("revocation_endpoint").filter(|url| Some(url) != token.as_ref()),
        userinfo: optional("userinfo_endpoint"),
        iss_in_callback: document["authorization_response_iss_parameter_supported"] == true,
        token,
        authentication,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn urls(issuer: &str, kind: Discovery) -> Vec<String> {
        addresses(issuer, &Url::parse(issuer).unwrap(), kind).into_iter().map(String::from).collect()
    }

    #[test]
    fn the_path_of_an_issuer_stays_before_or_after_the_well_known_part() {
        assert_eq!(
            urls("https://idp.example/tenant/", Discovery::Oidc),
            [
                "https://idp.example/tenant/.well-known/openid-configuration",
                "https://idp.example/.well-known/oauth-authorization-server/tenant"
            ]
        );
        assert_eq!(
            urls("https://idp.example", Discovery::Rfc8414),
            ["https://idp.example/.well-known/oauth-authorization-server"]
        );
    }

    fn document(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut document = json!({
            "issuer": "https://idp.example/",
            "authorization_endpoint": "https://idp.example/auth",
            "token_endpoint": "https://idp.example/token",
            "revocation_endpoint": "https://idp.example/revoke",
            "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_post"],
            "authorization_response_iss_parameter_supported": true,
        });
        change(&mut document);
        document.to_string().into_bytes()
    }

    fn check(body: &[u8]) -> Result<Metadata, DiscoveryFault> {
        read(body, "https://idp.example/", &Guard::default())
    }

    #[test]
    fn a_document_is_read() {
        let metadata = check(&document(|_| {})).unwrap();
        assert_eq!(metadata.token.unwrap().as_str(), "https://idp.example/token");
        assert!(metadata.revocation.is_some());
        assert!(metadata.iss_in_callback);
        assert_eq!(metadata.authentication, [ClientAuthentication::Body]);
    }

    #[test]
    fn the_issuer_is_compared_byte_for_byte() {
        for other in ["https://idp.example", "https://IDP.example/", "https://evil.example/"] {
            let body = document(|document| document["issuer"] = json!(other));
            assert_eq!(check(&body), Err(DiscoveryFault::OtherIssuer), "{other}");
        }
        let body = document(|document| document["issuer"] = json!(null));
        assert_eq!(check(&body), Err(DiscoveryFault::OtherIssuer));
    }

    #[test]
    fn an_endpoint_inside_the_network_is_refused() {
        for bad in ["http://idp.example/token", "https://127.0.0.1/token", "https://169.254.169.254/", "token"] {
            let body = document(|document| document["token_endpoint"] = json!(bad));
            assert_eq!(check(&body), Err(DiscoveryFault::BadEndpoint), "{bad}");
        }
    }

    #[test]
    fn a_revocation_endpoint_that_is_the_token_endpoint_is_none() {
        let body = document(|document| {
            document["revocation_endpoint"] = json!("https://idp.example/token");
        });
        assert_eq!(check(&body).unwrap().revocation, None);
    }

    #[test]
    fn what_is_not_a_document_is_refused() {
        for bad in ["", "null", "[]", "<html>", "{\"issuer\":"] {
            assert!(check(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
