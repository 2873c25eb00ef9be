//! Revocation in every style.

use std::time::Duration;

use valetkey_core::{Connector, Secret, TokenKind};
use valetkey_providers::{AuthorizationServer, HttpAuthorizationServer, OutboundSettings, RevokeOutcome};

use crate::support::{
    Act, PROFILE_HEAD, Server, connector, generic, provider, provider_with, provider_with_profile, quirky, secrets,
};

async fn revoke(provider: &HttpAuthorizationServer, connector: &Connector, kind: TokenKind) -> RevokeOutcome {
    provider.revoke(connector, &secrets(&["s-1", "s-2"]), &Secret::from("t-1"), kind).await
}

#[tokio::test]
async fn rfc_7009_says_which_token_and_who_asks() {
    let server = Server::start(vec![Act::answer(200, "", "")]).await;
    let provider = provider(&server);
    let connector = generic(&server);
    assert_eq!(revoke(&provider, &connector, TokenKind::Refresh).await, RevokeOutcome::Confirmed);
    assert_eq!(revoke(&provider, &connector, TokenKind::Access).await, RevokeOutcome::Confirmed);
    let seen = server.seen();
    assert!(seen[0].head.starts_with("POST /revoke "));
    assert_eq!(seen[0].form("token").as_deref(), Some("t-1"));
    assert_eq!(seen[0].form("token_type_hint").as_deref(), Some("refresh_token"));
    assert_eq!(seen[1].form("token_type_hint").as_deref(), Some("access_token"));
    assert!(seen[0].header("authorization").unwrap().starts_with("Basic "));
}

#[tokio::test]
async fn every_answer_has_its_outcome() {
    let retry =
        |code, seconds: Option<u64>| RevokeOutcome::Retry { code, retry_after: seconds.map(Duration::from_secs) };
    let failed = |code| RevokeOutcome::Failed { code };
    for (act, wanted) in [
        (Act::answer(200, "", ""), RevokeOutcome::Confirmed),
        (Act::answer(204, "", ""), RevokeOutcome::Confirmed),
        (Act::json(400, r#"{"error":"invalid_token"}"#), RevokeOutcome::Confirmed),
        (Act::json(400, r#"{"error":"unsupported_token_type"}"#), RevokeOutcome::Unsupported),
        (Act::json(400, r#"{"error":"invalid_request"}"#), failed("refused")),
        (Act::json(200, r#"{"error":"nope"}"#), failed("refused")),
        (Act::json(403, "{}"), failed("refused")),
        (Act::json(404, "{}"), failed("not_found")),
        (Act::json(401, r#"{"error":"invalid_client"}"#), failed("invalid_client")),
        (Act::answer(302, "location: /x\r\n", ""), failed("redirect")),
        (Act::answer(429, "retry-after: 9\r\n", ""), retry("limited", Some(9))),
        (Act::answer(503, "retry-after: 7\r\n", ""), retry("server_error", Some(7))),
        (Act::Reset, retry("connection_lost", None)),
        (Act::Hang, retry("timeout", None)),
    ] {
        let server = Server::start(vec![act.clone()]).await;
        let found = revoke(&provider(&server), &generic(&server), TokenKind::Refresh).await;
        assert_eq!(found, wanted, "{act:?}");
    }
}

#[tokio::test]
async fn the_next_secret_is_tried() {
    let script = vec![Act::json(401, r#"{"error":"invalid_client"}"#), Act::answer(200, "", "")];
    let server = Server::start(script).await;
    let found = revoke(&provider(&server), &generic(&server), TokenKind::Refresh).await;
    assert_eq!(found, RevokeOutcome::Confirmed);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_provider_without_a_way_is_unsupported() {
    let provider = provider_with(OutboundSettings::default());
    for name in ["microsoft", "atlassian"] {
        assert_eq!(revoke(&provider, &connector(name), TokenKind::Refresh).await, RevokeOutcome::Unsupported);
        let facts = provider.facts(&connector(name)).await.unwrap();
        assert!(!facts.revocable);
        assert!(facts.manual_url.is_some());
    }
    // Only the kind that the provider takes.
    assert_eq!(revoke(&provider, &connector("github"), TokenKind::Refresh).await, RevokeOutcome::Unsupported);
    let mut generic = connector("oauth2");
    generic.endpoints.token = Some("https://idp.example/token".to_owned());
    assert_eq!(revoke(&provider, &generic, TokenKind::Refresh).await, RevokeOutcome::Unsupported);
}

#[tokio::test]
async fn an_address_inside_is_not_told() {
    let server = Server::start(vec![Act::answer(200, "", "")]).await;
    let found = revoke(&provider_with(OutboundSettings::default()), &generic(&server), TokenKind::Access).await;
    assert_eq!(found, RevokeOutcome::Failed { code: "address_refused" });
    assert_eq!(server.connections(), 0);
}

async fn styled(script: Vec<Act>, style: &str, kind: TokenKind) -> (RevokeOutcome, Server) {
    let server = Server::start(script).await;
    let profile = format!(
        r#"{PROFILE_HEAD}
[endpoints]
source = "https://docs.example/"
authorization = "{{origin}}/authorize"
token = "{{origin}}/token"
revocation = "{{origin}}/applications/{{client_id}}/token"
[rotation]
source = "https://docs.example/"
class = "N"
[answer]
source = "https://docs.example/"
failure = {{ path = "ok", equals = false }}
[revocation]
source = "https://docs.example/"
{style}
"#
    );
    let provider = provider_with_profile(&server, "quirky", &profile);
    let mut connector = quirky(&server);
    "Iv1.a/b".clone_into(&mut connector.client_id);
    (revoke(&provider, &connector, kind).await, server)
}

#[tokio::test]
async fn github_wants_a_delete_with_json() {
    let style = "style = \"github_delete\"\ntoken = \"access\"";
    let (found, server) = styled(vec![Act::answer(204, "", "")], style, TokenKind::Access).await;
    assert_eq!(found, RevokeOutcome::Confirmed);
    let seen = &server.seen()[0];
    assert!(seen.head.starts_with("DELETE /applications/Iv1.a%2Fb/token "), "{}", seen.head);
    assert_eq!(seen.body, r#"{"access_token":"t-1"}"#);
    assert!(seen.header("authorization").unwrap().starts_with("Basic "));
    let (found, _server) = styled(vec![Act::json(422, "{}")], style, TokenKind::Access).await;
    assert_eq!(found, RevokeOutcome::Failed { code: "refused" });
}

#[tokio::test]
async fn slack_wants_the_token_itself_and_fails_with_status_200() {
    let style = "style = \"bearer\"\ntoken = \"access\"\nalready_gone = [\"token_revoked\"]";
    for (body, wanted) in [
        (r#"{"ok":true,"revoked":true}"#, RevokeOutcome::Confirmed),
        (r#"{"ok":false,"error":"token_revoked"}"#, RevokeOutcome::Confirmed),
        (r#"{"ok":false,"error":"invalid_auth"}"#, RevokeOutcome::Failed { code: "refused" }),
        (r#"{"ok":false,"error":"internal_error"}"#, RevokeOutcome::Retry { code: "server_error", retry_after: None }),
    ] {
        let (found, server) = styled(vec![Act::json(200, body)], style, TokenKind::Access).await;
        assert_eq!(found, wanted, "{body}");
        let seen = &server.seen()[0];
        assert_eq!(seen.header("authorization"), Some("Bearer t-1"));
        assert_eq!(seen.body, "");
    }
}

#[tokio::test]
async fn dropbox_gets_a_fresh_access_token_first() {
    let style = "style = \"bearer\"\ntoken = \"access\"\nrefresh_first = true";
    let script = vec![Act::json(200, r#"{"access_token":"fresh"}"#), Act::json(200, "null")];
    let (found, server) = styled(script, style, TokenKind::Refresh).await;
    assert_eq!(found, RevokeOutcome::Confirmed);
    let seen = server.seen();
    assert_eq!(seen[0].form("refresh_token").as_deref(), Some("t-1"));
    assert_eq!(seen[1].header("authorization"), Some("Bearer fresh"));
    // A refresh token that is dead needs no revocation.
    let script = vec![Act::json(400, r#"{"error":"invalid_grant"}"#)];
    let (found, server) = styled(script, style, TokenKind::Refresh).await;
    assert_eq!(found, RevokeOutcome::Confirmed);
    assert_eq!(server.seen().len(), 1);
    // An access token that authenticates nothing is dead.
    let (found, _server) = styled(vec![Act::json(401, "{}")], style, TokenKind::Access).await;
    assert_eq!(found, RevokeOutcome::Confirmed);
}

#[tokio::test]
async fn forms_and_json_carry_the_token_as_the_style_says() {
    let (found, server) =
        styled(vec![Act::answer(200, "", "")], "style = \"form_token_only\"", TokenKind::Refresh).await;
    assert_eq!(found, RevokeOutcome::Confirmed);
    let seen = &server.seen()[0];
    assert_eq!(seen.body, "token=t-1");
    assert_eq!(seen.header("authorization"), None);
    let (found, server) = styled(vec![Act::json(200, "{}")], "style = \"json_basic\"", TokenKind::Access).await;
    assert_eq!(found, RevokeOutcome::Confirmed);
    let seen = &server.seen()[0];
    assert_eq!(seen.body, r#"{"token":"t-1"}"#);
    assert!(seen.header("authorization").unwrap().starts_with("Basic "));
}
