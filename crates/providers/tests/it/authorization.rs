//! Where browsers are sent.

use std::collections::BTreeMap;

use url::Url;
use valetkey_core::{Connector, Secret};
use valetkey_providers::{AuthorizationRequest, AuthorizationServer, OutboundSettings, ProviderError};

use crate::support::{connector, provider_with};

/// RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

async fn ask(connector: &Connector, scopes: &[&str], hint: Option<&str>) -> Result<Url, ProviderError> {
    ask_with(connector, scopes, hint, VERIFIER).await
}

async fn ask_with(
    connector: &Connector,
    scopes: &[&str],
    hint: Option<&str>,
    verifier: &str,
) -> Result<Url, ProviderError> {
    let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let request = AuthorizationRequest {
        redirect_uri: "https://vk.example/oauth/callback/ctr_1",
        state: &Secret::from("state-1"),
        verifier: &Secret::from(verifier),
        nonce: &Secret::from("nonce-1"),
        scopes: &scopes,
        login_hint: hint,
    };
    provider_with(OutboundSettings::default()).authorization_url(connector, &request).await
}

fn params(url: &Url) -> BTreeMap<String, String> {
    let pairs: Vec<_> = url.query_pairs().into_owned().collect();
    let params: BTreeMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(params.len(), pairs.len(), "no parameter twice: {url}");
    params
}

fn generic() -> Connector {
    let mut connector = connector("oauth2");
    connector.endpoints.authorization = Some("https://idp.example/authorize?keep=1".to_owned());
    connector.endpoints.token = Some("https://idp.example/token".to_owned());
    connector
}

#[tokio::test]
async fn the_generic_request_carries_state_and_challenge_and_nothing_odd() {
    let url = ask(&generic(), &["read", "write:all"], Some("ann@example.com")).await.unwrap();
    assert!(url.as_str().starts_with("https://idp.example/authorize?keep=1&"), "{url}");
    let expected: BTreeMap<String, String> = [
        ("keep", "1"),
        ("response_type", "code"),
        ("client_id", "client-1"),
        ("redirect_uri", "https://vk.example/oauth/callback/ctr_1"),
        ("state", "state-1"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
        ("scope", "read write:all"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    assert_eq!(params(&url), expected);
    assert!(!url.as_str().contains(VERIFIER));
}

#[tokio::test]
async fn no_scopes_no_parameter() {
    let url = ask(&generic(), &[], None).await.unwrap();
    assert!(!params(&url).contains_key("scope"));
}

#[tokio::test]
async fn a_nonce_goes_along_with_openid() {
    let mut connector = generic();
    assert!(!params(&ask(&connector, &["read"], None).await.unwrap()).contains_key("nonce"));
    connector.optional_scopes = vec!["openid".to_owned()];
    let url = ask(&connector, &["read"], None).await.unwrap();
    assert_eq!(params(&url)["nonce"], "nonce-1", "what comes back depends on the connector, not on one request");
}

#[tokio::test]
async fn a_verifier_of_wrong_length_is_refused() {
    for verifier in ["", "short", &"v".repeat(42), &"v".repeat(129)] {
        let found = ask_with(&generic(), &["read"], None, verifier).await;
        assert_eq!(found, Err(ProviderError::BadRequest { which: "verifier" }));
    }
    for verifier in [&"v".repeat(43), &"v".repeat(128)] {
        assert!(ask_with(&generic(), &["read"], None, verifier).await.is_ok());
    }
}

#[tokio::test]
async fn profiles_send_their_own_parameters() {
    let google = ask(&connector("google"), &["openid", "email"], Some("ann@example.com")).await.unwrap();
    assert_eq!(google.host_str(), Some("accounts.google.com"));
    let found = params(&google);
    assert_eq!(found["access_type"], "offline");
    assert_eq!(found["prompt"], "consent");
    assert_eq!(found["login_hint"], "ann@example.com");
    assert_eq!(found["scope"], "openid email");
    assert_eq!(found["nonce"], "nonce-1");

    let github = params(&ask(&connector("github"), &["repo"], Some("ann")).await.unwrap());
    assert_eq!(github["login"], "ann");
    assert_eq!(github["code_challenge_method"], "S256");

    let slack = params(&ask(&connector("slack"), &["chat:write", "users:read"], None).await.unwrap());
    assert_eq!(slack["scope"], "chat:write,users:read");
    assert!(!slack.contains_key("code_challenge"));

    let person = params(&ask(&connector("slack-user"), &["search:read"], None).await.unwrap());
    assert_eq!(person["user_scope"], "search:read");
    assert!(!person.contains_key("scope"));

    let atlassian = params(&ask(&connector("atlassian"), &["offline_access"], None).await.unwrap());
    assert_eq!(atlassian["audience"], "api.atlassian.com");

    let notion = params(&ask(&connector("notion"), &[], None).await.unwrap());
    assert_eq!(notion["owner"], "user");

    let dropbox = params(&ask(&connector("dropbox"), &[], None).await.unwrap());
    assert_eq!(dropbox["token_access_type"], "offline");
}

#[tokio::test]
async fn settings_fill_the_address() {
    let mut microsoft = connector("microsoft");
    let url = ask(&microsoft, &["offline_access"], None).await.unwrap();
    assert_eq!(url.path(), "/common/oauth2/v2.0/authorize");
    microsoft.settings.insert("tenant".to_owned(), "contoso.com".to_owned());
    let url = ask(&microsoft, &["offline_access"], None).await.unwrap();
    assert_eq!(url.path(), "/contoso.com/oauth2/v2.0/authorize");
    microsoft.settings.insert("tenant".to_owned(), "x/../evil".to_owned());
    assert!(matches!(ask(&microsoft, &[], None).await, Err(ProviderError::BadSetting { .. })));

    let mut gitlab = connector("gitlab");
    gitlab.settings.insert("host".to_owned(), "git.example.org:8443".to_owned());
    let url = ask(&gitlab, &["api"], None).await.unwrap();
    assert!(url.as_str().starts_with("https://git.example.org:8443/oauth/authorize?"), "{url}");
    gitlab.settings.insert("host".to_owned(), "10.0.0.1".to_owned());
    assert!(matches!(ask(&gitlab, &[], None).await, Err(ProviderError::AddressRefused { .. })));
}

#[tokio::test]
async fn a_fixed_provider_cannot_be_pointed_elsewhere() {
    let mut google = connector("google");
    google.endpoints.authorization = Some("https://evil.example/authorize".to_owned());
    assert_eq!(ask(&google, &[], None).await, Err(ProviderError::EndpointNotWanted { which: "authorization" }));
}
