use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;
use sha2::{Digest, Sha256};
use valetkey_sandbox::{AnswerShape, ClientAuth, ClientSettings, GrantEnd, ScopeAnswer};

use crate::support::{Bench, CLIENT, REDIRECT, Reply, SECRET, reply, value_of};

const VERIFIER: &str = "0123456789012345678901234567890123456789012";

fn challenge() -> String {
    BASE64URL_NOPAD.encode(&Sha256::digest(VERIFIER.as_bytes()))
}

async fn code(bench: &Bench, further: &[(&str, &str)]) -> String {
    value_of(&bench.authorize(further).await, "code").to_owned()
}

async fn redeem(bench: &Bench, code: &str, further: &[(&str, &str)]) -> Reply {
    let mut form = vec![("grant_type", "authorization_code"), ("code", code), ("redirect_uri", REDIRECT)];
    form.extend_from_slice(further);
    reply(bench.post_token(&form).send().await.unwrap()).await
}

#[tokio::test]
async fn a_code_with_its_verifier_yields_tokens_that_work() {
    let bench = Bench::with_client(ClientSettings { require_pkce: true, ..ClientSettings::default() }).await;
    let challenge = challenge();
    let pairs = bench
        .authorize(&[
            ("scope", "openid read"),
            ("nonce", "the-nonce"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("login_hint", "user-b"),
        ])
        .await;
    assert_eq!(value_of(&pairs, "state"), "the-state");
    assert_eq!(value_of(&pairs, "iss"), bench.sandbox.issuer());
    let (status, body) = redeem(&bench, value_of(&pairs, "code"), &[("code_verifier", VERIFIER)]).await;
    assert_eq!(status, 200);
    assert_eq!(body["scope"], "openid read");
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 3600);
    let claims = body["id_token"].as_str().unwrap().split('.').nth(1).unwrap().to_owned();
    let claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap()).unwrap();
    assert_eq!(claims["nonce"], "the-nonce");
    assert_eq!(claims["sub"], "user-b");
    assert_eq!(claims["aud"], CLIENT);
    let access = body["access_token"].as_str().unwrap();
    let call = bench.http.get(bench.url("/api/whoami")).bearer_auth(access);
    let (status, who) = reply(call.send().await.unwrap()).await;
    assert_eq!((status, who["subject"].as_str()), (200, Some("user-b")));
    bench.refreshed(body["refresh_token"].as_str().unwrap()).await;
}

#[tokio::test]
async fn a_wrong_or_missing_verifier_is_refused() {
    let bench = Bench::with_client(ClientSettings::default()).await;
    let challenge = challenge();
    let pkce = [("code_challenge", challenge.as_str()), ("code_challenge_method", "S256")];
    let wrong = VERIFIER.replace('0', "x");
    for further in [&[][..], &[("code_verifier", wrong.as_str())]] {
        let code = code(&bench, &pkce).await;
        assert_eq!(redeem(&bench, &code, further).await.1["error"], "invalid_grant");
        // The failure used nothing up.
        assert_eq!(redeem(&bench, &code, &[("code_verifier", VERIFIER)]).await.0, 200);
    }
    let code = code(&bench, &[]).await;
    assert_eq!(redeem(&bench, &code, &[("code_verifier", VERIFIER)]).await.1["error"], "invalid_grant");
}

#[tokio::test]
async fn plain_or_missing_challenges_are_refused_where_pkce_is_required() {
    let bench = Bench::with_client(ClientSettings { require_pkce: true, ..ClientSettings::default() }).await;
    for further in
        [&[][..], &[("code_challenge", VERIFIER)], &[("code_challenge", VERIFIER), ("code_challenge_method", "plain")]]
    {
        assert_eq!(value_of(&bench.authorize(further).await, "error"), "invalid_request");
    }
}

#[tokio::test]
async fn a_code_that_is_used_twice_takes_its_tokens_with_it() {
    let bench = Bench::with_client(ClientSettings::default()).await;
    let code = code(&bench, &[]).await;
    let (_, body) = redeem(&bench, &code, &[]).await;
    let access = body["access_token"].as_str().unwrap();
    assert_eq!(bench.whoami(access).await, 200);
    assert_eq!(redeem(&bench, &code, &[]).await.1["error"], "invalid_grant");
    assert_eq!(bench.whoami(access).await, 401);
    assert_eq!(bench.control.grants()[0].ended, Some(GrantEnd::CodeReused));
}

#[tokio::test]
async fn a_late_code_or_another_redirect_uri_is_refused() {
    let bench = Bench::with_client(ClientSettings::default()).await;
    let late = code(&bench, &[]).await;
    bench.control.advance(Duration::from_secs(61));
    assert_eq!(redeem(&bench, &late, &[]).await.1["error"], "invalid_grant");
    let code = code(&bench, &[]).await;
    let form = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", "http://127.0.0.1:9/other")];
    assert_eq!(reply(bench.post_token(&form).send().await.unwrap()).await.1["error"], "invalid_grant");
}

#[tokio::test]
async fn a_client_must_authenticate_in_its_own_way() {
    let bench = Bench::with_client(ClientSettings::default()).await;
    let basic = |secret: &'static str| {
        let call = bench.http.post(bench.url("/token")).form(&[("grant_type", "client_credentials")]);
        call.basic_auth(CLIENT, Some(secret)).send()
    };
    let in_body = || {
        let form = [("grant_type", "client_credentials"), ("client_id", CLIENT), ("client_secret", SECRET)];
        bench.http.post(bench.url("/token")).form(&form).send()
    };
    for (auth, basic_status, body_status) in
        [(ClientAuth::Either, 200, 200), (ClientAuth::Basic, 200, 401), (ClientAuth::Body, 401, 200)]
    {
        bench.control.update_client(CLIENT, |client| client.auth = auth).unwrap();
        assert_eq!(basic(SECRET).await.unwrap().status(), basic_status, "{auth:?}");
        assert_eq!(in_body().await.unwrap().status(), body_status, "{auth:?}");
    }
    bench.control.update_client(CLIENT, |client| client.auth = ClientAuth::Either).unwrap();
    let (status, body) = reply(basic("wrong").await.unwrap()).await;
    assert_eq!((status, body["error"].as_str()), (401, Some("invalid_client")));
    bench
        .control
        .update_client(CLIENT, |client| {
            client.secrets = vec!["next".to_owned(), SECRET.to_owned()];
        })
        .unwrap();
    assert_eq!(basic("next").await.unwrap().status(), 200);
    assert_eq!(basic(SECRET).await.unwrap().status(), 200);
    let used: Vec<_> = bench.control.token_requests().iter().map(|event| event.secret_index).collect();
    assert_eq!(used[used.len() - 3..], [None, Some(0), Some(1)]);
}

#[tokio::test]
async fn client_credentials_bring_an_access_token_and_no_refresh_token() {
    let bench = Bench::with_client(ClientSettings::default()).await;
    let form = [("grant_type", "client_credentials"), ("scope", "read")];
    let mut last = String::new();
    for _ in 0..2 {
        let (status, body) = reply(bench.post_token(&form).send().await.unwrap()).await;
        assert_eq!(status, 200);
        assert!(body.get("refresh_token").is_none());
        body["access_token"].as_str().unwrap().clone_into(&mut last);
        assert_eq!(bench.whoami(&last).await, 200);
    }
    assert_eq!(bench.control.grants().len(), 1);
    bench.control.update_client(CLIENT, |client| client.client_credentials = false).unwrap();
    let (_, body) = reply(bench.post_token(&form).send().await.unwrap()).await;
    assert_eq!(body["error"], "unauthorized_client");
}

#[tokio::test]
async fn the_user_may_grant_less_than_was_asked() {
    let client = ClientSettings {
        grantable_scopes: Some(vec!["read".to_owned()]),
        scope_answer: ScopeAnswer::WhenChanged,
        ..ClientSettings::default()
    };
    let bench = Bench::with_client(client).await;
    let fewer = code(&bench, &[("scope", "read write")]).await;
    assert_eq!(redeem(&bench, &fewer, &[]).await.1["scope"], "read");
    let same = code(&bench, &[("scope", "read")]).await;
    assert!(redeem(&bench, &same, &[]).await.1.get("scope").is_none());
}

#[tokio::test]
async fn answers_come_in_every_shape() {
    let bench = Bench::with_client(ClientSettings::default()).await;
    let form = [("grant_type", "client_credentials")];
    bench.control.update_client(CLIENT, |client| client.answer = AnswerShape::Form).unwrap();
    let response = bench.post_token(&form).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-www-form-urlencoded");
    assert!(response.text().await.unwrap().starts_with("access_token=sbx_at_"));
    bench.control.update_client(CLIENT, |client| client.answer = AnswerShape::Nested).unwrap();
    let (_, body) = reply(bench.post_token(&form).send().await.unwrap()).await;
    assert_eq!(body["ok"], true);
    assert!(body["authed_user"]["access_token"].is_string() && body.get("access_token").is_none());
}

#[tokio::test]
async fn a_json_request_body_is_understood_as_well() {
    let bench = Bench::with_client(ClientSettings::default()).await;
    let token = bench.seed().refresh_token.unwrap();
    let body = serde_json::json!({"grant_type": "refresh_token", "refresh_token": token, "audience": "x"});
    let call = bench.http.post(bench.url("/tenant/t-1/token")).basic_auth(CLIENT, Some(SECRET)).json(&body);
    assert_eq!(call.send().await.unwrap().status(), 200);
    let event = &bench.control.token_requests()[0];
    assert_eq!((event.path.as_str(), event.parameters["audience"].as_str()), ("/tenant/t-1/token", "x"));
    assert_eq!(event.parameters.len(), 1);
}

#[tokio::test]
async fn doubled_and_unknown_requests_are_refused() {
    let bench = Bench::with_client(ClientSettings::default()).await;
    let doubled = [("grant_type", "client_credentials"), ("scope", "a"), ("scope", "b")];
    assert_eq!(reply(bench.post_token(&doubled).send().await.unwrap()).await.1["error"], "invalid_request");
    let unknown = [("grant_type", "password")];
    assert_eq!(reply(bench.post_token(&unknown).send().await.unwrap()).await.1["error"], "unsupported_grant_type");
    assert_eq!(reply(bench.post_token(&[]).send().await.unwrap()).await.1["error"], "invalid_request");
}
