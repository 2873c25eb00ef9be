//! The redemption of a code, and the account behind it.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use valetkey_core::{Account, Clock, Connector, Secret, SystemClock, TokenSet};
use valetkey_providers::{AuthorizationServer, CodeExchange, HttpAuthorizationServer, TokenOutcome};

use crate::support::{Act, PROFILE_HEAD, Server, generic, provider, provider_with_profile, quirky, secrets};

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

async fn exchange(provider: &HttpAuthorizationServer, connector: &Connector) -> TokenOutcome {
    exchange_with(provider, connector, &BTreeMap::new()).await
}

async fn exchange_with(
    provider: &HttpAuthorizationServer,
    connector: &Connector,
    kept: &BTreeMap<String, String>,
) -> TokenOutcome {
    let request = CodeExchange {
        code: &Secret::from("c/1"),
        redirect_uri: "https://vk.example/oauth/callback/ctr_1",
        verifier: &Secret::from(VERIFIER),
        nonce: &Secret::from("nonce-1"),
        kept,
    };
    provider.exchange(connector, &secrets(&["s-1"]), &request).await
}

fn granted(outcome: TokenOutcome) -> TokenSet {
    match outcome {
        TokenOutcome::Granted(tokens) => *tokens,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_code_is_redeemed_with_its_verifier() {
    let answer = r#"{"access_token":"a-1","refresh_token":"r-1","expires_in":3600,"scope":"read write"}"#;
    let server = Server::start(vec![Act::json(200, answer)]).await;
    let tokens = granted(exchange(&provider(&server), &generic(&server)).await);
    assert_eq!(tokens.access_token.expose(), "a-1");
    assert_eq!(tokens.refresh_token.unwrap().expose(), "r-1");
    assert_eq!(tokens.token_type, "Bearer");
    assert_eq!(tokens.scopes.unwrap(), ["read", "write"]);
    assert_eq!(tokens.expires_at.unwrap().since(tokens.issued_at).as_secs(), 3600);
    assert_eq!(tokens.account, None);
    let seen = &server.seen()[0];
    assert_eq!(seen.form("grant_type").as_deref(), Some("authorization_code"));
    assert_eq!(seen.form("code").as_deref(), Some("c/1"));
    assert_eq!(seen.form("code_verifier").as_deref(), Some(VERIFIER));
    assert_eq!(seen.form("redirect_uri").as_deref(), Some("https://vk.example/oauth/callback/ctr_1"));
}

fn id_token(change: impl FnOnce(&mut Value)) -> String {
    let now = SystemClock::new().now().as_millis() / 1000;
    let mut claims = json!({
        "iss": "https://idp.example", "aud": "client-1", "sub": "s-17", "exp": now + 300, "iat": now,
        "nonce": "nonce-1", "email": "ann@example.com",
    });
    change(&mut claims);
    format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()))
}

async fn with_id_token(token: &str) -> TokenOutcome {
    let body = json!({"access_token": "a", "refresh_token": "r", "id_token": token}).to_string();
    let server = Server::start(vec![Act::json(200, &body)]).await;
    let mut connector = generic(&server);
    connector.issuer = Some("https://idp.example".to_owned());
    connector.scopes = vec!["openid".to_owned()];
    exchange(&provider(&server), &connector).await
}

#[tokio::test]
async fn the_id_token_names_the_account() {
    let tokens = granted(with_id_token(&id_token(|_| {})).await);
    assert_eq!(
        tokens.account,
        Some(Account {
            issuer: "https://idp.example".to_owned(),
            subject: "s-17".to_owned(),
            name: Some("ann@example.com".to_owned()),
        })
    );
}

#[tokio::test]
async fn tokens_with_a_wrong_id_token_are_handed_out_for_revocation_only() {
    for (claim, wrong) in [
        ("iss", json!("https://evil.example")),
        ("aud", json!("client-2")),
        ("azp", json!("client-2")),
        ("exp", json!(1)),
        ("nonce", json!("nonce-2")),
        ("nonce", Value::Null),
        ("sub", Value::Null),
    ] {
        let outcome = with_id_token(&id_token(|claims| claims[claim] = wrong.clone())).await;
        let TokenOutcome::GrantedButUnusable { tokens, code } = outcome else { panic!("{claim}: {outcome:?}") };
        assert_eq!(code, "id_token_invalid");
        assert_eq!(tokens.refresh_token.unwrap().expose(), "r");
    }
    let outcome = with_id_token("nonsense").await;
    assert_eq!(outcome.code(), "id_token_invalid");
}

#[tokio::test]
async fn without_openid_a_missing_nonce_is_fine_and_a_wrong_one_is_not() {
    for (nonce, code) in [(Value::Null, "granted"), (json!("nonce-2"), "id_token_invalid")] {
        let token = id_token(|claims| claims["nonce"] = nonce.clone());
        let body = json!({"access_token": "a", "id_token": token}).to_string();
        let server = Server::start(vec![Act::json(200, &body)]).await;
        let mut connector = generic(&server);
        connector.issuer = Some("https://idp.example".to_owned());
        assert_eq!(exchange(&provider(&server), &connector).await.code(), code, "{nonce}");
    }
}

const ENDPOINTS: &str = r#"
[endpoints]
source = "https://docs.example/"
authorization = "{origin}/authorize"
token = "{origin}/token"
[revocation]
source = "https://docs.example/"
manual_url = "https://docs.example/"
"#;

async fn quirk(script: Vec<Act>, profile: &str, kept: &BTreeMap<String, String>) -> (TokenOutcome, Server) {
    let server = Server::start(script).await;
    let provider = provider_with_profile(&server, "quirky", &format!("{PROFILE_HEAD}{ENDPOINTS}{profile}"));
    let outcome = exchange_with(&provider, &quirky(&server), kept).await;
    (outcome, server)
}

#[tokio::test]
async fn nested_tokens_and_the_account_are_found_by_path() {
    let body = r#"{"ok":true,"authed_user":{"id":"U1","access_token":"xoxp-1","scope":"a,b","token_type":"user"},
        "team":{"id":"T1","name":"Team"}}"#;
    let profile = r#"
[authorize]
source = "https://docs.example/"
scope_separator = ","
[answer]
source = "https://docs.example/"
access_token = ["authed_user.access_token", "access_token"]
scope = ["authed_user.scope", "scope"]
token_type = "Bearer"
[[account]]
source = "https://docs.example/"
from = "answer"
subject = ["team.id", "authed_user.id"]
name = "team.name"
"#;
    let (outcome, server) = quirk(vec![Act::json(200, body)], profile, &BTreeMap::new()).await;
    let tokens = granted(outcome);
    assert_eq!(tokens.access_token.expose(), "xoxp-1");
    assert_eq!(tokens.scopes.unwrap(), ["a", "b"]);
    assert_eq!(tokens.token_type, "Bearer");
    let account = tokens.account.unwrap();
    assert_eq!(account.subject, "T1:U1");
    assert_eq!(account.name.as_deref(), Some("Team"));
    assert_eq!(account.issuer, server.url(""));
}

#[tokio::test]
async fn userinfo_names_the_account_and_its_failure_costs_nothing() {
    let profile = r#"
[[account]]
source = "https://docs.example/"
from = "userinfo"
url = "{origin}/me"
method = "post"
subject = ["id"]
"#;
    let token = Act::json(200, r#"{"access_token":"a-1"}"#);
    let script = vec![token.clone(), Act::json(200, r#"{"id":42}"#)];
    let (outcome, server) = quirk(script, profile, &BTreeMap::new()).await;
    assert_eq!(granted(outcome).account.unwrap().subject, "42");
    let seen = &server.seen()[1];
    assert!(seen.head.starts_with("POST /me "), "{}", seen.head);
    assert_eq!(seen.header("authorization"), Some("Bearer a-1"));
    assert_eq!(seen.body, "");
    for failing in [Act::json(403, "{}"), Act::Reset, Act::json(200, "{}"), Act::json(200, "x")] {
        let (outcome, _server) = quirk(vec![token.clone(), failing], profile, &BTreeMap::new()).await;
        assert_eq!(granted(outcome).account, None);
    }
}

#[tokio::test]
async fn a_source_that_needs_a_scope_is_skipped_without_it() {
    let profile = r#"
[[account]]
source = "https://docs.example/"
from = "userinfo"
when_scope = "read:me"
url = "{origin}/me"
"#;
    let token = Act::json(200, r#"{"access_token":"a-1","scope":"read"}"#);
    let (outcome, server) = quirk(vec![token], profile, &BTreeMap::new()).await;
    assert_eq!(granted(outcome).account, None);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn what_the_callback_must_bring_is_asked_for_before_the_code_is_spent() {
    let profile = r#"
[callback]
source = "https://docs.example/"
keep = [{ param = "realmId", required = true }]
[[account]]
source = "https://docs.example/"
from = "callback"
subject = ["realmId"]
"#;
    let script = vec![Act::json(200, r#"{"access_token":"a-1"}"#)];
    let (outcome, server) = quirk(script.clone(), profile, &BTreeMap::new()).await;
    assert_eq!(outcome.code(), "callback_parameter_missing");
    assert_eq!(server.seen().len(), 0);
    let kept = BTreeMap::from([("realmId".to_owned(), "9130".to_owned())]);
    let (outcome, _server) = quirk(script, profile, &kept).await;
    assert_eq!(granted(outcome).account.unwrap().subject, "9130");
}

#[tokio::test]
async fn an_absolute_end_is_counted_from_the_consent() {
    let profile = r#"
[lives]
source = "https://docs.example/"
access_s = 600
refresh_idle_s = 1000
refresh_absolute_s = 2000
"#;
    let script = vec![Act::json(200, r#"{"access_token":"a","refresh_token":"r"}"#)];
    let tokens = granted(quirk(script, profile, &BTreeMap::new()).await.0);
    let after = |at: Option<valetkey_core::Timestamp>| at.unwrap().since(tokens.issued_at).as_secs();
    assert_eq!(after(tokens.expires_at), 600);
    assert_eq!(after(tokens.refresh_expires_at), 1000);
    assert_eq!(after(tokens.reconnect_by), 2000);
}

#[tokio::test]
async fn nothing_of_the_provider_and_no_secret_shows_in_debug() {
    let body = r#"{"access_token":"canary-a","refresh_token":"canary-r","token_type":"bearer"}"#;
    let server = Server::start(vec![Act::json(200, body)]).await;
    let outcome = exchange(&provider(&server), &generic(&server)).await;
    assert!(!format!("{outcome:?}").contains("canary"));
    let body = r#"{"error":"canary-e","error_description":"canary-d"}"#;
    let server = Server::start(vec![Act::json(400, body)]).await;
    let outcome = exchange(&provider(&server), &generic(&server)).await;
    assert!(!format!("{outcome:?}").contains("canary"));
}

#[tokio::test]
async fn a_rule_for_refreshes_says_nothing_of_an_exchange() {
    let profile = r#"
[[errors]]
source = "https://docs.example/"
at = "refresh"
code = "unauthorized_client"
means = "dead"
"#;
    let script = vec![Act::json(403, r#"{"error":"unauthorized_client"}"#)];
    let (outcome, _server) = quirk(script, profile, &BTreeMap::new()).await;
    assert_eq!(outcome.code(), "unauthorized_client");
}
