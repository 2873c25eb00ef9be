use serde_json::json;
use valetkey_sandbox::{AuthMethod, Commit, Fault, FaultRule, GrantEnd, RevocationReach, Rotation, fingerprint};

use crate::support::{Bench, CLIENT, SECRET, reply};

async fn revoke(bench: &Bench, token: &str) -> u16 {
    let call = bench.http.post(bench.url("/revoke")).basic_auth(CLIENT, Some(SECRET));
    call.form(&[("token", token)]).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_revoked_refresh_token_ends_its_grant() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let grant = bench.seed();
    let token = grant.refresh_token.unwrap();
    assert_eq!(revoke(&bench, &token).await, 200);
    assert_eq!(bench.whoami(&grant.access_token).await, 401);
    bench.assert_dead(&token).await;
    let event = &bench.control.revocations()[0];
    assert_eq!(event.presented.as_deref(), Some(fingerprint(&token).as_str()));
    assert_eq!(event.committed.as_ref().unwrap().ended, [grant.grant.as_str()]);
    assert_eq!(bench.control.grant(&grant.grant).unwrap().ended, Some(GrantEnd::RevokedByClient));
    assert_eq!(revoke(&bench, "unknown").await, 200);
}

#[tokio::test]
async fn a_revocation_reaches_as_far_as_the_client_is_told() {
    // Reach, then what lives after an access token was revoked: its refresh token, its sibling.
    let cases = [
        (RevocationReach::Token, true, true),
        (RevocationReach::RefreshEndsGrant, true, true),
        (RevocationReach::Grant, false, true),
        (RevocationReach::UserClient, false, false),
    ];
    for (reach, refresh_lives, sibling_lives) in cases {
        let bench = Bench::of_class(Rotation::NonRotating).await;
        bench.control.update_client(CLIENT, |client| client.revocation = reach).unwrap();
        let (grant, sibling) = (bench.seed(), bench.seed());
        assert_eq!(revoke(&bench, &grant.access_token).await, 200);
        assert_eq!(bench.whoami(&grant.access_token).await, 401);
        assert_eq!(bench.control.is_refresh_token_live(&grant.refresh_token.unwrap()), refresh_lives, "{reach:?}");
        assert_eq!(bench.control.is_access_token_live(&sibling.access_token), sibling_lives, "{reach:?}");
    }
}

#[tokio::test]
async fn other_styles_of_revocation_work() {
    let bench = Bench::of_class(Rotation::Strict).await;
    bench.control.update_client(CLIENT, |client| client.revocation = RevocationReach::Grant).unwrap();
    let (bearer, application, query) = (bench.seed(), bench.seed(), bench.seed());
    let post = |token: &str| bench.http.post(bench.url("/revoke/bearer")).bearer_auth(token.to_owned()).send();
    assert_eq!(reply(post(&bearer.access_token).await.unwrap()).await.1, json!({"ok": true, "revoked": true}));
    assert_eq!(reply(post("unknown").await.unwrap()).await.1["ok"], false);
    let delete = || {
        let call = bench.http.delete(bench.url("/applications/sandbox-client/grant"));
        let body = json!({"access_token": application.access_token}).to_string();
        call.basic_auth(CLIENT, Some(SECRET)).body(body).send()
    };
    assert_eq!(delete().await.unwrap().status(), 204);
    let by_query = bench.url(&format!("/revoke?token={}", query.access_token));
    let call = bench.http.post(by_query).basic_auth(CLIENT, Some(SECRET));
    assert_eq!(call.send().await.unwrap().status(), 200);
    for grant in [&bearer, &application, &query] {
        assert!(!bench.control.grant(&grant.grant).unwrap().alive);
    }
    assert_eq!(bench.control.revocations()[0].auth_method, Some(AuthMethod::Token));
}

#[tokio::test]
async fn a_client_cannot_revoke_what_it_does_not_hold() {
    let bench = Bench::of_class(Rotation::Strict).await;
    bench.control.put_client(valetkey_sandbox::ClientSettings::new("other", "other-secret"));
    let foreign = bench.control.seed_grant("other", "user-a", &[]).unwrap();
    assert_eq!(revoke(&bench, &foreign.access_token).await, 200);
    assert!(bench.control.is_access_token_live(&foreign.access_token));
    let call = bench.http.post(bench.url("/revoke")).basic_auth(CLIENT, Some("wrong"));
    let form = [("token", foreign.access_token.as_str())];
    assert_eq!(call.form(&form).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_revocation_meets_faults_before_and_after_its_commit() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let grant = bench.seed();
    let down = || Fault::OAuthError { status: 503, error: "temporarily_unavailable".to_owned() };
    bench.control.inject(FaultRule::revoke(down()).client(CLIENT));
    bench.control.inject(FaultRule::revoke(down()).commit(Commit::Before));
    assert_eq!(revoke(&bench, &grant.access_token).await, 503);
    assert!(bench.control.is_access_token_live(&grant.access_token));
    assert_eq!(revoke(&bench, &grant.access_token).await, 503);
    assert!(!bench.control.is_access_token_live(&grant.access_token));
}

#[tokio::test]
async fn the_user_takes_access_back_at_the_provider() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let (one, two) = (bench.seed(), bench.seed());
    assert_eq!(bench.control.revoke_grants_by_user(CLIENT, "user-a"), [one.grant.as_str(), &two.grant]);
    bench.assert_dead(&one.refresh_token.unwrap()).await;
    assert_eq!(bench.whoami(&two.access_token).await, 401);
    assert!(!bench.control.revoke_grant_by_user(&one.grant));
}
