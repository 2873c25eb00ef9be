use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use valetkey_sandbox::{Commit, Endpoint, Fault, FaultRule, Outage, RetryAfter, Rotation};

use crate::support::{Bench, CLIENT, reply};

/// Meets one fault at a refresh, as text, and answers the response's parts.
async fn meet(bench: &Bench, rule: FaultRule, token: &str) -> (u16, reqwest::header::HeaderMap, String) {
    bench.control.inject(rule);
    let response = bench.post_refresh(token).send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    (status, headers, response.text().await.unwrap())
}

#[tokio::test]
async fn an_error_that_was_not_committed_leaves_the_token_current() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    let fault = Fault::Status {
        code: 502,
        body: "bad gateway".to_owned(),
        headers: BTreeMap::from([("x-gateway".to_owned(), "1".to_owned())]),
    };
    let (status, headers, body) = meet(&bench, FaultRule::refresh(fault), &token).await;
    assert_eq!((status, body.as_str()), (502, "bad gateway"));
    assert_eq!(headers["x-gateway"], "1");
    bench.refreshed(&token).await;
    let events = bench.control.token_requests();
    assert!(!events[0].processed && events[0].committed.is_none());
    assert_eq!(events[0].shown_status, Some(502));
    assert_eq!(events[0].fault.as_deref(), Some("status"));
    assert_eq!((events[1].presentation, events[1].was_current), (2, true));
}

#[tokio::test]
async fn an_error_that_was_committed_has_spent_the_token() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    let fault = Fault::OAuthError { status: 503, error: "temporarily_unavailable".to_owned() };
    let (status, _, _) = meet(&bench, FaultRule::refresh(fault).commit(Commit::Before), &token).await;
    assert_eq!(status, 503);
    let event = &bench.control.token_requests()[0];
    assert_eq!((event.status, event.shown_status), (Some(200), Some(503)));
    assert!(event.committed.as_ref().unwrap().refresh.is_some());
    bench.assert_dead(&token).await;
}

#[tokio::test]
async fn a_connection_is_reset_without_an_answer() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    bench.control.inject(FaultRule::refresh(Fault::ResetBeforeAnswer).commit(Commit::Before));
    let error = bench.post_refresh(&token).send().await.unwrap_err();
    assert!(error.is_request() && !error.is_connect() && !error.is_timeout());
    let event = &bench.control.token_requests()[0];
    assert!(event.processed);
    assert_eq!(event.shown_status, None);
    bench.assert_dead(&token).await;
}

#[tokio::test]
async fn a_truncated_body_breaks_in_the_middle_after_the_commit() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    bench.control.inject(FaultRule::refresh(Fault::TruncatedBody));
    let mut response = bench.post_refresh(&token).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let half = response.chunk().await.unwrap().unwrap();
    assert!(half.starts_with(b"{\"access_token\":\"sbx_at_"));
    assert!(response.chunk().await.is_err());
    bench.assert_dead(&token).await;
}

#[tokio::test]
async fn an_endless_body_goes_on_as_long_as_it_is_read() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    bench.control.inject(FaultRule::refresh(Fault::EndlessBody));
    let mut response = bench.post_refresh(&token).send().await.unwrap();
    let mut read = 0;
    while read < 4 << 20 {
        read += response.chunk().await.unwrap().unwrap().len();
    }
    drop(response);
    bench.refreshed(&token).await;
}

#[tokio::test]
async fn an_oversized_body_is_the_true_answer_with_padding() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    let rule = FaultRule::refresh(Fault::OversizedBody { bytes: 100_000 });
    let (status, _, body) = meet(&bench, rule, &token).await;
    assert_eq!(status, 200);
    assert!(body.len() > 100_000);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert!(bench.control.is_access_token_live(body["access_token"].as_str().unwrap()));
}

#[tokio::test]
async fn a_slow_body_arrives_whole() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    let (_, _, body) = meet(&bench, FaultRule::refresh(Fault::SlowBody { ms_per_chunk: 1 }), &token).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    bench.refreshed(body["refresh_token"].as_str().unwrap()).await;
}

#[tokio::test]
async fn answers_that_are_no_token_answers_are_shown() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    let (status, headers, body) = meet(&bench, FaultRule::refresh(Fault::NotJson), &token).await;
    assert_eq!((status, headers["content-type"].as_bytes()), (200, b"text/html".as_slice()));
    assert!(body.starts_with('<'));
    let to = Fault::RedirectTo { url: "http://127.0.0.1:9/trap".to_owned() };
    let (status, headers, _) = meet(&bench, FaultRule::refresh(to), &token).await;
    assert_eq!((status, headers["location"].as_bytes()), (307, b"http://127.0.0.1:9/trap".as_slice()));
    let inside = Fault::ErrorInside200 { error: "invalid_refresh_token".to_owned() };
    let (status, _, body) = meet(&bench, FaultRule::refresh(inside), &token).await;
    assert_eq!((status, body.as_str()), (200, r#"{"error":"invalid_refresh_token","ok":false}"#));
    bench.refreshed(&token).await;
}

#[tokio::test]
async fn a_rate_limit_and_a_maintenance_say_when_to_come_back() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    bench.control.set_now_ms(784_111_777_000);
    let cases = [
        (RetryAfter::Seconds(7), Some("7")),
        (RetryAfter::DateIn(60), Some("Sun, 06 Nov 1994 08:50:37 GMT")),
        (RetryAfter::Text("soon".to_owned()), Some("soon")),
        (RetryAfter::Absent, None),
    ];
    for (retry_after, expected) in cases {
        let away = Fault::Unavailable { retry_after: retry_after.clone() };
        for (fault, said) in [(Fault::RateLimited { retry_after }, 429), (away, 503)] {
            let (status, headers, _) = meet(&bench, FaultRule::refresh(fault), &token).await;
            assert_eq!(status, said);
            let found = headers.get("retry-after").map(|value| value.to_str().unwrap());
            assert!(found == expected || found == Some("Sun, 06 Nov 1994 08:50:38 GMT"), "{found:?}");
        }
    }
}

#[tokio::test]
async fn the_true_answer_is_bent_as_scripted() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let mut token = bench.seed().refresh_token.unwrap();
    let (_, _, body) = meet(&bench, FaultRule::refresh(Fault::DuplicateKeys), &token).await;
    assert_eq!(body.matches("\"access_token\"").count(), 2);
    let parsed: Value = serde_json::from_str(&body).unwrap();
    parsed["refresh_token"].as_str().unwrap().clone_into(&mut token);
    let (_, _, body) = meet(&bench, FaultRule::refresh(Fault::MissingTokenType), &token).await;
    let parsed: Value = serde_json::from_str(&body).unwrap();
    assert!(parsed.get("token_type").is_none());
    parsed["refresh_token"].as_str().unwrap().clone_into(&mut token);
    let (_, _, body) = meet(&bench, FaultRule::refresh(Fault::NestedTokens), &token).await;
    let parsed: Value = serde_json::from_str(&body).unwrap();
    parsed["authed_user"]["refresh_token"].as_str().unwrap().clone_into(&mut token);
    let (_, headers, body) = meet(&bench, FaultRule::refresh(Fault::FormEncoded), &token).await;
    assert_eq!(headers["content-type"], "application/x-www-form-urlencoded");
    let (_, form_token) = body.split_once("refresh_token=").unwrap();
    form_token.split('&').next().unwrap().clone_into(&mut token);
    let (_, _, body) = meet(&bench, FaultRule::refresh(Fault::WithoutRefreshToken), &token).await;
    assert!(!body.contains("refresh_token"));
    bench.assert_dead(&token).await;
}

#[tokio::test]
async fn a_provider_that_never_rotates_can_do_it_once() {
    let bench = Bench::of_class(Rotation::NonRotating).await;
    let token = bench.seed().refresh_token.unwrap();
    bench.control.inject(FaultRule::refresh(Fault::WithRotation));
    let (_, rotated) = bench.refreshed(&token).await;
    assert!(rotated.starts_with("sbx_rt_") && rotated != token);
    assert_eq!(bench.refreshed(&token).await.1, "");
    bench.refreshed(&rotated).await;
}

#[tokio::test]
async fn a_fault_finds_its_client_grant_and_count() {
    let bench = Bench::of_class(Rotation::NonRotating).await;
    let (hit, spared) = (bench.seed(), bench.seed());
    let down = || Fault::OAuthError { status: 500, error: "server_error".to_owned() };
    bench.control.inject(FaultRule::refresh(down()).client("another-client"));
    bench.control.inject(FaultRule::token(down()).grant_type("client_credentials"));
    bench.control.inject(FaultRule::refresh(down()).client(CLIENT).grant(&hit.grant).after(1).times(2));
    let (hit, spared) = (hit.refresh_token.unwrap(), spared.refresh_token.unwrap());
    let mut seen = Vec::new();
    for _ in 0..4 {
        bench.refreshed(&spared).await;
        seen.push(bench.refresh(&hit).await.0);
    }
    assert_eq!(seen, [200, 500, 500, 200]);
    assert_eq!(bench.control.pending_faults().len(), 2);
    bench.control.clear_faults();
    assert!(bench.control.pending_faults().is_empty());
}

#[tokio::test]
async fn other_endpoints_have_faults_too() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let grant = bench.seed();
    let get = async |path: &str| {
        let call = bench.http.get(bench.url(path)).bearer_auth(&grant.access_token);
        reply(call.send().await.unwrap()).await
    };
    let limited = Fault::RateLimited { retry_after: RetryAfter::Seconds(1) };
    bench.control.inject(FaultRule::new(Endpoint::Api, limited));
    assert_eq!(get("/api/whoami").await.0, 429);
    assert_eq!(get("/api/whoami").await.0, 200);
    bench.control.inject(FaultRule::new(Endpoint::Discovery, Fault::NotJson));
    assert!(get("/.well-known/openid-configuration").await.1.is_string());
    bench.control.inject(FaultRule::new(Endpoint::Discovery, Fault::OversizedBody { bytes: 1000 }));
    let (_, document) = get("/.well-known/openid-configuration").await;
    assert_eq!(document["issuer"], bench.sandbox.issuer());
    assert_eq!(document["padding"].as_str().unwrap().len(), 1000);
    bench.control.inject(FaultRule::new(Endpoint::Userinfo, Fault::Delay { ms: 1 }));
    assert_eq!(get("/userinfo").await.1["sub"], "user-a");
    bench.control.inject(FaultRule::new(Endpoint::Jwks, Fault::TruncatedBody));
    let response = bench.http.get(bench.url("/jwks")).send().await.unwrap();
    assert!(response.text().await.is_err());
}

#[tokio::test]
async fn a_provider_that_is_down_processes_nothing_and_still_counts_what_it_was_shown() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let grant = bench.seed();
    let token = grant.refresh_token.unwrap();
    bench.control.set_down(true);
    assert_eq!(bench.refresh(&token).await.0, 503);
    assert_eq!(bench.whoami(&grant.access_token).await, 503);
    bench.control.set_outage(Outage::Drop);
    bench.post_refresh(&token).send().await.unwrap_err();
    bench.http.get(bench.authorize_url(&[])).send().await.unwrap_err();
    bench.control.set_down(false);
    bench.refreshed(&token).await;
    assert_eq!(bench.control.second_presentations().len(), 2);
    assert_eq!(bench.control.refreshes_for(&grant.grant).iter().filter(|event| event.processed).count(), 1);
}

#[tokio::test]
async fn a_hanging_request_ends_with_its_caller() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    bench.control.inject(FaultRule::refresh(Fault::Hang));
    let patience = Duration::from_millis(50);
    assert!(bench.post_refresh(&token).timeout(patience).send().await.unwrap_err().is_timeout());
    bench.refreshed(&token).await;
}

#[tokio::test]
async fn the_true_answer_can_be_given_other_members_and_headers() {
    let bench = Bench::of_class(Rotation::NonRotating).await;
    let token = bench.seed().refresh_token.unwrap();
    let members = serde_json::json!({ "expires_in": "soon", "odd": null });
    let members = members.as_object().unwrap().clone();
    let (status, _, body) = meet(&bench, FaultRule::refresh(Fault::WithMembers { members }), &token).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["expires_in"], body.get("odd")), (200, &Value::from("soon"), Some(&Value::Null)));
    assert!(bench.control.is_access_token_live(body["access_token"].as_str().unwrap()));

    let headers = BTreeMap::from([("content-type".to_owned(), "text/html".to_owned())]);
    let (_, headers, body) = meet(&bench, FaultRule::refresh(Fault::WithHeaders { headers }), &token).await;
    assert_eq!(headers["content-type"], "text/html");
    assert!(body.starts_with("{\"access_token\":\"sbx_at_"));

    bench.control.inject(FaultRule::refresh(Fault::ManyHeaders { count: 90 }));
    let headers = bench.post_refresh(&token).send().await.unwrap().headers().clone();
    assert!(headers.len() >= 90, "{}", headers.len());
}

#[tokio::test]
async fn a_body_need_not_be_text() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    let headers = BTreeMap::from([("content-encoding".to_owned(), "gzip".to_owned())]);
    bench.control.inject(FaultRule::refresh(Fault::Bytes { code: 200, base64: "//79AA==".to_owned(), headers }));
    let response = bench.post_refresh(&token).send().await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(response.bytes().await.unwrap().as_ref(), b"\xff\xfe\xfd\x00");
    bench.refreshed(&token).await;
}

#[tokio::test]
async fn answers_are_dated_by_the_sandboxs_clock() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    bench.control.set_now_ms(784_111_777_000);
    let response = bench.post_refresh(&token).send().await.unwrap();
    let date = response.headers()["date"].to_str().unwrap();
    assert!(date.starts_with("Sun, 06 Nov 1994 08:49:"), "{date}");
    let date = "Thu, 01 Jan 1970 00:00:00 GMT".to_owned();
    let headers = BTreeMap::from([("date".to_owned(), date.clone())]);
    let (_, headers, _) = meet(&bench, FaultRule::refresh(Fault::WithHeaders { headers }), &token).await;
    assert_eq!(headers["date"], date.as_str());
}
