//! What token requests look like on the wire.

use valetkey_core::{Grant, Secret};
use valetkey_providers::{AuthorizationServer, RefreshRequest};

use crate::support::{Act, PROFILE_HEAD, Server, generic, provider, provider_with_profile, quirky, refresh, secrets};

fn good() -> Vec<Act> {
    vec![Act::json(200, r#"{"access_token":"a"}"#)]
}

#[tokio::test]
async fn a_refresh_is_a_form_with_basic_authentication() {
    let server = Server::start(good()).await;
    let mut connector = generic(&server);
    connector.client_id = "client:1 é".to_owned();
    let token = Secret::from("r+1/&=");
    let request =
        RefreshRequest { refresh_token: &token, redirect_uri: "https://vk.example/cb", scopes: &["read".to_owned()] };
    let outcome = provider(&server).refresh(&connector, &secrets(&["s:1 %"]), &request).await;
    assert_eq!(outcome.code(), "granted");
    let seen = &server.seen()[0];
    assert!(seen.head.starts_with("POST /token HTTP/1.1\r\n"), "{}", seen.head);
    assert_eq!(seen.header("accept"), Some("application/json"));
    assert_eq!(seen.header("content-type"), Some("application/x-www-form-urlencoded"));
    // Both parts are form-encoded before they are joined.
    let credentials = data_encoding::BASE64.encode(b"client%3A1+%C3%A9:s%3A1+%25");
    assert_eq!(seen.header("authorization"), Some(format!("Basic {credentials}").as_str()));
    assert_eq!(seen.form("grant_type").as_deref(), Some("refresh_token"));
    assert_eq!(seen.form("refresh_token").as_deref(), Some("r+1/&="));
    for absent in ["client_id", "client_secret", "scope", "redirect_uri"] {
        assert_eq!(seen.form(absent), None, "{absent}");
    }
    assert_eq!(seen.header("cookie"), None);
    assert_eq!(seen.header("referer"), None);
}

#[tokio::test]
async fn a_connector_may_choose_to_authenticate_in_the_body() {
    let server = Server::start(good()).await;
    let mut connector = generic(&server);
    connector.settings.insert("client_authentication".to_owned(), "body".to_owned());
    assert_eq!(refresh(&provider(&server), &connector).await.code(), "granted");
    let seen = &server.seen()[0];
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.form("client_id").as_deref(), Some("client-1"));
    assert_eq!(seen.form("client_secret").as_deref(), Some("s-1"));
}

#[tokio::test]
async fn a_public_client_names_itself_in_the_body() {
    let server = Server::start(good()).await;
    let token = Secret::from("r-1");
    let request = RefreshRequest { refresh_token: &token, redirect_uri: "https://vk.example/cb", scopes: &[] };
    let outcome = provider(&server).refresh(&generic(&server), &[], &request).await;
    assert_eq!(outcome.code(), "granted");
    let seen = &server.seen()[0];
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.form("client_id").as_deref(), Some("client-1"));
    assert_eq!(seen.form("client_secret"), None);
}

#[tokio::test]
async fn client_credentials_carry_their_scopes_and_bring_no_refresh_token() {
    let answer = r#"{"access_token":"a","refresh_token":"r","expires_in":60}"#;
    let server = Server::start(vec![Act::json(200, answer)]).await;
    let mut connector = generic(&server);
    connector.grant = Grant::ClientCredentials;
    let scopes = ["read".to_owned(), "write".to_owned()];
    let outcome = provider(&server).client_credentials(&connector, &secrets(&["s"]), &scopes).await;
    let valetkey_providers::TokenOutcome::Granted(tokens) = outcome else { panic!("{outcome:?}") };
    assert!(tokens.refresh_token.is_none());
    assert!(tokens.expires_at.is_some());
    let seen = &server.seen()[0];
    assert_eq!(seen.form("grant_type").as_deref(), Some("client_credentials"));
    assert_eq!(seen.form("scope").as_deref(), Some("read write"));
}

#[tokio::test]
async fn a_profile_shapes_the_refresh() {
    let shape = r#"
[endpoints]
source = "https://docs.example/"
authorization = "{origin}/authorize"
token = "{origin}/token"
refresh = "{origin}/refresh"
[client]
source = "https://docs.example/"
authentication = ["body"]
body = "json"
headers = { "X-Version" = "2026-01-01" }
[authorize]
source = "https://docs.example/"
scope_separator = ","
[refresh]
source = "https://docs.example/"
params = { type = "refresh" }
send_redirect_uri = true
send_scope = true
[revocation]
source = "https://docs.example/"
manual_url = "https://docs.example/"
"#;
    let server = Server::start(good()).await;
    let provider = provider_with_profile(&server, "quirky", &format!("{PROFILE_HEAD}{shape}"));
    let token = Secret::from("r-1");
    let request = RefreshRequest {
        refresh_token: &token,
        redirect_uri: "https://vk.example/cb",
        scopes: &["a".to_owned(), "b".to_owned()],
    };
    let outcome = provider.refresh(&quirky(&server), &secrets(&["s-1"]), &request).await;
    assert_eq!(outcome.code(), "granted");
    let seen = &server.seen()[0];
    assert!(seen.head.starts_with("POST /refresh "), "{}", seen.head);
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("x-version"), Some("2026-01-01"));
    let body: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(
        body,
        serde_json::json!({
            "grant_type": "refresh_token", "refresh_token": "r-1", "client_id": "client-1", "client_secret": "s-1",
            "redirect_uri": "https://vk.example/cb", "scope": "a,b", "type": "refresh",
        })
    );
}
