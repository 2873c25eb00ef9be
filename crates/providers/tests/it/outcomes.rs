//! How every kind of answer, and every kind of silence, is named.

use std::time::Duration;

use tokio::net::TcpListener;
use valetkey_core::{Clock, Endpoints, ManualClock, ReauthReason};
use valetkey_providers::{AuthorizationServer, NotSent, OutboundSettings, TokenOutcome, UnknownOutcome};

use crate::support::{
    Act, PROFILE_HEAD, Server, connector, generic, loopback, provider, provider_with, provider_with_profile, quirky,
    refresh,
};

const HTML: &str = "content-type: text/html\r\n";

/// Each answer of the token endpoint with the code of its outcome.
#[tokio::test]
async fn every_answer_has_its_outcome() {
    for (act, code) in answers().into_iter().chain(silences()) {
        let server = Server::start(vec![act.clone()]).await;
        let outcome = refresh(&provider(&server), &generic(&server)).await;
        assert_eq!(outcome.code(), code, "{act:?}");
        assert_eq!(server.seen().len(), 1, "sent once, and no redirect followed: {act:?}");
    }
}

fn answers() -> Vec<(Act, &'static str)> {
    let big = format!("{{\"access_token\":\"{}\"}}", "a".repeat(70_000));
    vec![
        (Act::json(200, r#"{"access_token":"a","token_type":"bearer"}"#), "granted"),
        (Act::json(201, r#"{"access_token":"a"}"#), "granted"),
        (Act::answer(200, "", r#"{"access_token":"a"}"#), "granted"),
        (Act::answer(200, "content-type: application/x-www-form-urlencoded\r\n", "access_token=a&scope=x"), "granted"),
        (Act::json(200, r#"{"token_type":"bearer"}"#), "no_access_token"),
        (Act::json(200, r#"{"access_token":""}"#), "no_access_token"),
        (Act::json(200, r#"{"access_token":"a\nb"}"#), "no_access_token"),
        (Act::json(200, r#"{"access_token":["a"]}"#), "no_access_token"),
        (Act::json(200, r#"{"access_token":"#), "unreadable"),
        (Act::json(200, "[]"), "unreadable"),
        (Act::json(200, ""), "unreadable"),
        (Act::answer(200, HTML, "<html>access_token=a</html>"), "unreadable"),
        (Act::json(200, &big), "too_large"),
        (Act::json(200, r#"{"error":"invalid_grant"}"#), "invalid_grant"),
        (Act::json(200, r#"{"error":"something"}"#), "other_error"),
        (Act::json(400, r#"{"error":"invalid_grant","error_description":"x"}"#), "invalid_grant"),
        (Act::json(403, r#"{"error":"invalid_grant"}"#), "invalid_grant"),
        (Act::json(400, r#"{"error":"interaction_required"}"#), "interaction_required"),
        (Act::json(400, r#"{"error":"invalid_client"}"#), "invalid_client"),
        (Act::json(401, r#"{"error":"invalid_client"}"#), "invalid_client"),
        (Act::json(400, r#"{"error":"unauthorized_client"}"#), "unauthorized_client"),
        (Act::answer(401, HTML, "no"), "unauthorized"),
        (Act::json(400, r#"{"error":"invalid_scope"}"#), "invalid_scope"),
        (Act::json(400, r#"{"error":"invalid_request"}"#), "invalid_request"),
        (Act::json(400, r#"{"error":"unsupported_grant_type"}"#), "unsupported_grant_type"),
        (Act::json(400, r#"{"error":"<script>"}"#), "other_error"),
        (Act::json(400, r#"{"error":{"code":"invalid_grant"}}"#), "invalid_grant"),
        (Act::json(400, r#"{"message":"no"}"#), "no_error_code"),
        (Act::answer(400, HTML, "<h1>Bad Request</h1>"), "unreadable"),
        (Act::answer(404, HTML, "<h1>Not Found</h1>"), "endpoint_refused"),
        (Act::json(405, "{}"), "endpoint_refused"),
        (Act::json(408, "{}"), "server_error"),
        (Act::json(429, "{}"), "limited"),
        (Act::json(429, r#"{"error":"invalid_grant"}"#), "limited"),
        (Act::json(400, r#"{"error":"slow_down"}"#), "limited"),
        (Act::json(500, r#"{"error":"invalid_grant"}"#), "server_error"),
        (Act::answer(502, HTML, "<h1>Bad Gateway</h1>"), "server_error"),
        (Act::json(503, r#"{"error":"temporarily_unavailable"}"#), "server_error"),
        (Act::json(200, r#"{"access_token":"a","refresh_token":"r\u0000"}"#), "unusable_refresh_token"),
        (Act::json(200, r#"{"access_token":"a","refresh_token":7}"#), "unusable_refresh_token"),
        (Act::json(200, r#"{"access_token":"a","refresh_token":""}"#), "granted"),
        (Act::json(200, r#"{"access_token":"a","refresh_token":null}"#), "granted"),
        (Act::json(200, "null"), "unreadable"),
        (Act::json(200, "17"), "unreadable"),
        (Act::json(204, ""), "unreadable"),
        (Act::json(400, r#"{"error":["invalid_grant"]}"#), "no_error_code"),
        (Act::json(409, "{}"), "no_error_code"),
        (Act::json(425, "{}"), "too_early"),
        (Act::json(504, "{}"), "server_error"),
        (Act::answer(301, "location: /elsewhere\r\n", ""), "redirect"),
        (Act::answer(308, "location: /elsewhere\r\n", ""), "redirect"),
        (Act::answer(302, "location: /elsewhere\r\n", ""), "redirect"),
        (Act::answer(307, "location: http://169.254.169.254/\r\n", ""), "redirect"),
    ]
}

fn silences() -> Vec<(Act, &'static str)> {
    vec![
        (Act::Reset, "connection_lost"),
        (Act::SayAndClose(String::new()), "connection_lost"),
        (Act::SayAndClose("HTTP/1.1 200".to_owned()), "connection_lost"),
        (Act::SayAndClose("no HTTP at all\r\n\r\n".to_owned()), "connection_lost"),
        (Act::SayAndClose("HTTP/1.1 200 X\r\ncontent-le".to_owned()), "connection_lost"),
        (
            Act::answer(200, &"x-padding: nobody reads this\r\n".repeat(200), r#"{"access_token":"a"}"#),
            "connection_lost",
        ),
        (Act::answer(200, &format!("x-padding: {}\r\n", "a".repeat(1 << 20)), "{}"), "connection_lost"),
        (Act::SayAndClose("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"a\"".to_owned()), "truncated"),
        (
            Act::SayAndClose("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\nnot a number\r\n".to_owned()),
            "truncated",
        ),
        (
            Act::SayAndClose("HTTP/1.1 200 X\r\ncontent-length: 90\r\n\r\n{\"access_token\":\"a\"}".to_owned()),
            "truncated",
        ),
        (Act::Hang, "timeout"),
        (Act::Say("HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\n{".to_owned()), "timeout"),
    ]
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let endless = format!(
        "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n{}",
        "ffff\r\n".to_owned() + &"a".repeat(0xffff) + "\r\nffff\r\n" + &"a".repeat(0xffff)
    );
    let server = Server::start(vec![Act::Say(endless)]).await;
    let outcome = refresh(&provider(&server), &generic(&server)).await;
    assert!(matches!(outcome, TokenOutcome::Unknown { cause: UnknownOutcome::TooLarge, .. }), "{outcome:?}");
}

#[tokio::test]
async fn nothing_was_sent_where_nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut connector = connector("oauth2");
    connector.endpoints.token = Some(format!("http://{address}/token"));
    let outcome = refresh(&provider_with(loopback(address)), &connector).await;
    assert!(matches!(outcome, TokenOutcome::NotSent(NotSent::Connect)), "{outcome:?}");
}

#[tokio::test]
async fn nothing_was_sent_where_no_tls_is_spoken() {
    let server = Server::greeting("HTTP/1.1 400 X\r\ncontent-length: 0\r\n\r\n").await;
    let mut connector = generic(&server);
    connector.endpoints.token = Some(format!("https://{}/token", server.address));
    let outcome = refresh(&provider(&server), &connector).await;
    assert!(matches!(outcome, TokenOutcome::NotSent(NotSent::Tls)), "{outcome:?}");
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_handshake_is_before_the_request() {
    let server = Server::start(vec![Act::Hang]).await;
    let mut connector = generic(&server);
    connector.endpoints.token = Some(format!("https://{}/token", server.address));
    let outcome = refresh(&provider(&server), &connector).await;
    assert!(matches!(outcome, TokenOutcome::NotSent(NotSent::Deadline)), "{outcome:?}");
}

#[tokio::test]
async fn a_name_that_leads_inside_is_not_sent_to() {
    let server = Server::start(vec![Act::json(200, r#"{"access_token":"a"}"#)]).await;
    let mut connector = connector("oauth2");
    connector.endpoints.token = Some(format!("https://localhost:{}/token", server.address.port()));
    let outcome = refresh(&provider_with(OutboundSettings::default()), &connector).await;
    assert!(matches!(outcome, TokenOutcome::NotSent(NotSent::AddressRefused)), "{outcome:?}");
    assert_eq!(server.connections(), 0, "the address was not even connected to");
}

#[tokio::test]
async fn an_address_inside_is_not_sent_to() {
    let server = Server::start(vec![Act::json(200, r#"{"access_token":"a"}"#)]).await;
    for settings in [
        OutboundSettings::default(),
        OutboundSettings { allow_http_hosts: vec![server.address.to_string()], ..Default::default() },
        OutboundSettings { allow_networks: vec!["127.0.0.0/8".parse().unwrap()], ..Default::default() },
    ] {
        let outcome = refresh(&provider_with(settings), &generic(&server)).await;
        assert!(matches!(outcome, TokenOutcome::NotSent(NotSent::AddressRefused)), "{outcome:?}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_connector_without_endpoints_is_misconfigured() {
    let server = Server::start(vec![Act::Hang]).await;
    let mut connector = generic(&server);
    connector.endpoints = Endpoints::default();
    let outcome = refresh(&provider(&server), &connector).await;
    assert!(matches!(outcome, TokenOutcome::NotSent(NotSent::Misconfigured)), "{outcome:?}");
    connector.provider = "nobody".to_owned();
    let outcome = refresh(&provider(&server), &connector).await;
    assert!(matches!(outcome, TokenOutcome::NotSent(NotSent::Misconfigured)), "{outcome:?}");
}

#[tokio::test]
async fn retry_after_is_honoured_in_seconds_and_as_a_date() {
    async fn wait(header: &str) -> Option<Duration> {
        let server = Server::start(vec![Act::answer(429, &format!("retry-after: {header}\r\n"), "{}")]).await;
        match refresh(&provider(&server), &generic(&server)).await {
            TokenOutcome::Limited { retry_after } => retry_after,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(wait("17").await, Some(Duration::from_secs(17)));
    assert_eq!(wait("0").await, Some(Duration::ZERO));
    assert_eq!(wait("99999999999").await, Some(Duration::from_secs(86_400)));
    assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT").await, Some(Duration::ZERO));
    assert_eq!(wait("Fri, 31 Dec 2100 23:59:59 GMT").await, Some(Duration::from_secs(86_400)));
    for nonsense in ["-1", "1.5", "soon", ""] {
        assert_eq!(wait(nonsense).await, None, "{nonsense}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_says_when_it_is_back_and_leaves_the_outcome_open() {
    async fn wait(status: u16, header: &str, body: &str) -> Option<Duration> {
        let server = Server::start(vec![Act::answer(status, &format!("retry-after: {header}\r\n"), body)]).await;
        match refresh(&provider(&server), &generic(&server)).await {
            TokenOutcome::Unknown { cause: UnknownOutcome::ServerError, retry_after } => retry_after,
            other => panic!("{other:?}"),
        }
    }
    for status in [500, 502, 503, 504] {
        assert_eq!(wait(status, "17", "{}").await, Some(Duration::from_secs(17)), "{status}");
    }
    assert_eq!(wait(503, "99999999999", "").await, Some(Duration::from_secs(86_400)));
    assert_eq!(wait(503, "Sun, 06 Nov 1994 08:49:37 GMT", "").await, Some(Duration::ZERO));
    assert_eq!(wait(503, "Fri, 31 Dec 2100 23:59:59 GMT", "").await, Some(Duration::from_secs(86_400)));
    assert_eq!(wait(503, "soon", "").await, None);
    let body = r#"{"error":"temporarily_unavailable"}"#;
    assert_eq!(wait(400, "17", body).await, Some(Duration::from_secs(17)));
}

#[tokio::test]
async fn the_next_secret_is_tried_after_invalid_client_and_after_nothing_else() {
    let good = Act::json(200, r#"{"access_token":"a"}"#);
    for (first, tries, code) in [
        (Act::json(401, r#"{"error":"invalid_client"}"#), 2, "granted"),
        (Act::json(400, r#"{"error":"invalid_client"}"#), 2, "granted"),
        (Act::answer(401, "", ""), 2, "granted"),
        (Act::json(400, r#"{"error":"unauthorized_client"}"#), 1, "unauthorized_client"),
        (Act::json(400, r#"{"error":"invalid_grant"}"#), 1, "invalid_grant"),
        (Act::json(500, "{}"), 1, "server_error"),
        (Act::Reset, 1, "connection_lost"),
    ] {
        let server = Server::start(vec![first.clone(), good.clone()]).await;
        let token = valetkey_core::Secret::from("r-1");
        let request = valetkey_providers::RefreshRequest {
            refresh_token: &token,
            redirect_uri: "https://vk.example/cb",
            scopes: &[],
        };
        let secrets = crate::support::secrets(&["old", "new"]);
        let provider = provider(&server);
        let outcome =
            valetkey_providers::AuthorizationServer::refresh(&provider, &generic(&server), &secrets, &request).await;
        assert_eq!(outcome.code(), code, "{first:?}");
        assert_eq!(server.seen().len(), tries, "{first:?}");
    }
}

#[tokio::test]
async fn when_no_secret_is_accepted_our_client_is_at_fault() {
    let server = Server::start(vec![Act::json(401, r#"{"error":"invalid_client"}"#)]).await;
    let outcome = refresh(&provider(&server), &generic(&server)).await;
    assert!(matches!(outcome, TokenOutcome::Client { code: "invalid_client" }), "{outcome:?}");
}

#[tokio::test]
async fn a_profile_is_asked_before_the_general_rules() {
    let rules = r#"
[endpoints]
source = "https://docs.example/"
authorization = "{origin}/authorize"
token = "{origin}/token"
[answer]
source = "https://docs.example/"
failure = { path = "ok", equals = false }
[revocation]
source = "https://docs.example/"
manual_url = "https://docs.example/"
[[errors]]
source = "https://docs.example/"
status = 403
field = "error_description"
contains = "refresh_token is invalid"
at = "refresh"
means = "dead"
[[errors]]
source = "https://docs.example/"
field = "error_codes"
code = 50076
means = "interaction"
[[errors]]
source = "https://docs.example/"
code = "fatal_error"
means = "unknown"
[[errors]]
source = "https://docs.example/"
code = "busy"
means = "transient"
[[errors]]
source = "https://docs.example/"
code = "ip_restricted"
means = "admin"
[[errors]]
source = "https://docs.example/"
code = "bad_client_secret"
means = "client_secret"
[[errors]]
source = "https://docs.example/"
code = "malformed"
means = "refused"
[[errors]]
source = "https://docs.example/"
field = "code"
code = 17
means = "client"
"#;
    for (status, body, code) in [
        (403, r#"{"error":"unauthorized_client","error_description":"Refresh_token is INVALID."}"#, "grant_dead"),
        (403, r#"{"error":"unauthorized_client","error_description":"no"}"#, "unauthorized_client"),
        (
            400,
            r#"{"error":"unauthorized_client","error_description":"refresh_token is invalid"}"#,
            "unauthorized_client",
        ),
        (400, r#"{"error":"invalid_grant","error_codes":[1,50076]}"#, "interaction_required"),
        (400, r#"{"error":"invalid_grant","error_codes":[1]}"#, "invalid_grant"),
        (200, r#"{"ok":false,"error":"fatal_error"}"#, "outcome_open"),
        (200, r#"{"ok":false,"error":"busy"}"#, "limited"),
        (503, r#"{"error":"busy"}"#, "limited"),
        (200, r#"{"ok":false,"error":"ip_restricted"}"#, "policy"),
        (400, r#"{"ok":false,"error":"malformed"}"#, "refused"),
        (200, r#"{"ok":false,"error":"bad_client_secret"}"#, "invalid_client"),
        (200, r#"{"ok":false,"code":"17"}"#, "client_refused"),
        (200, r#"{"ok":false,"error":"else"}"#, "other_error"),
        (200, r#"{"ok":false,"access_token":"a"}"#, "no_access_token"),
        (200, r#"{"ok":true,"access_token":"a"}"#, "granted"),
    ] {
        let server = Server::start(vec![Act::json(status, body)]).await;
        let provider = provider_with_profile(&server, "quirky", &format!("{PROFILE_HEAD}{rules}"));
        let outcome = refresh(&provider, &quirky(&server)).await;
        assert_eq!(outcome.code(), code, "{status} {body}");
    }
}

#[tokio::test]
async fn dead_says_what_the_owner_has_to_do() {
    for (error, wanted) in
        [("invalid_grant", ReauthReason::GrantRevoked), ("login_required", ReauthReason::InteractionRequired)]
    {
        let server = Server::start(vec![Act::json(400, &format!("{{\"error\":\"{error}\"}}"))]).await;
        match refresh(&provider(&server), &generic(&server)).await {
            TokenOutcome::Dead { reason, .. } => assert_eq!(reason, wanted),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_connection_is_used_again_within_its_idle_time() {
    let server = Server::start(vec![Act::json(200, r#"{"access_token":"a"}"#)]).await;
    let provider = provider(&server);
    let connector = generic(&server);
    for _ in 0..5 {
        assert_eq!(refresh(&provider, &connector).await.code(), "granted");
    }
    assert_eq!(server.seen().len(), 5);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_request_that_meets_a_dying_connection_is_not_repeated() {
    let good = Act::json(200, r#"{"access_token":"a"}"#);
    let server = Server::start(vec![good.clone(), Act::Reset, good]).await;
    let provider = provider(&server);
    let connector = generic(&server);
    assert_eq!(refresh(&provider, &connector).await.code(), "granted");
    assert_eq!(refresh(&provider, &connector).await.code(), "connection_lost");
    assert_eq!(server.seen().len(), 2, "the refresh token was presented once in each call");
}

#[tokio::test]
async fn a_compressed_answer_is_neither_asked_for_nor_unpacked() {
    // Ten megabytes of zeros in a gzip of ten kilobytes would be announced so.
    let body = "\u{1f}\u{8b}".to_owned() + &"A".repeat(10_000);
    let server = Server::start(vec![Act::answer(200, "content-encoding: gzip\r\n", &body)]).await;
    let outcome = refresh(&provider(&server), &generic(&server)).await;
    assert!(matches!(outcome, TokenOutcome::Unknown { cause: UnknownOutcome::Unreadable, .. }), "{outcome:?}");
    assert_eq!(server.seen()[0].header("accept-encoding"), None);
}

#[tokio::test]
async fn a_providers_clock_is_measured_and_lives_are_counted_by_ours() {
    let now = ManualClock::new();
    let dated = |date: &str| {
        let body = r#"{"access_token":"a","expires_in":3600}"#;
        Act::answer(200, &format!("content-type: application/json\r\ndate: {date}\r\n"), body)
    };
    let server = Server::start(vec![
        Act::json(200, r#"{"access_token":"a","expires_in":3600}"#),
        dated("yesterday"),
        dated("Fri, 31 Dec 2100 23:59:59 GMT"),
        Act::answer(500, "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", ""),
    ])
    .await;
    let provider = provider(&server);
    let connector = generic(&server);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let outcome = refresh(&provider, &connector).await;
        if let TokenOutcome::Granted(tokens) = &outcome {
            let ends_in = tokens.expires_at.unwrap().since(now.now()).as_secs();
            assert!((3_590..=3_610).contains(&ends_in), "{ends_in}");
        }
        seen.push(provider.clock_skews());
    }
    assert_eq!((seen[0].as_slice(), seen[1].as_slice()), ([].as_slice(), [].as_slice()));
    let years = 365 * 86_400 * 1_000;
    assert_eq!((seen[2].len(), seen[2][0].provider.as_str()), (1, "oauth2"));
    assert!(seen[2][0].millis > 70 * years, "{:?}", seen[2]);
    assert!(seen[3][0].millis < -30 * years, "{:?}", seen[3]);
}
