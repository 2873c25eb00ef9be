use std::time::Duration;

use valetkey_sandbox::{ClientSettings, ExpiresIn, GrantEnd, Rotation};

use crate::support::{Bench, CLIENT};

#[tokio::test]
async fn a_non_rotating_token_works_on_and_is_not_repeated() {
    let bench = Bench::of_class(Rotation::NonRotating).await;
    let grant = bench.seed();
    let token = grant.refresh_token.unwrap();
    assert_eq!(bench.refreshed(&token).await.1, "");
    assert_eq!(bench.refreshed(&token).await.1, "");
    bench.control.update_client(CLIENT, |client| client.echo_refresh_token = true).unwrap();
    assert_eq!(bench.refreshed(&token).await.1, token);
    assert_eq!(bench.control.grant(&grant.grant).unwrap().refresh_count, 3);
}

#[tokio::test]
async fn a_soft_token_works_on_beside_its_successors() {
    let bench = Bench::of_class(Rotation::Soft).await;
    let first = bench.seed().refresh_token.unwrap();
    let (_, second) = bench.refreshed(&first).await;
    assert_ne!(first, second);
    let (_, third) = bench.refreshed(&second).await;
    bench.refreshed(&first).await;
    bench.refreshed(&third).await;
}

#[tokio::test]
async fn a_predecessor_works_until_its_successor_is_used() {
    let bench = Bench::of_class(Rotation::SoftUntilSuccessorUsed).await;
    let first = bench.seed().refresh_token.unwrap();
    bench.refreshed(&first).await;
    let (_, second) = bench.refreshed(&first).await;
    let (_, third) = bench.refreshed(&second).await;
    bench.assert_dead(&first).await;
    // The grant itself survives that.
    bench.refreshed(&second).await;
    bench.refreshed(&third).await;
    bench.assert_dead(&second).await;
}

#[tokio::test]
async fn a_spent_token_is_forgiven_within_the_grace_and_fatal_after_it() {
    let bench = Bench::of_class(Rotation::Grace { seconds: 30 }).await;
    let grant = bench.seed();
    let first = grant.refresh_token.unwrap();
    let (_, second) = bench.refreshed(&first).await;
    bench.control.advance(Duration::from_secs(29));
    let (access, again) = bench.refreshed(&first).await;
    assert_ne!(again, second);
    assert_eq!(bench.whoami(&access).await, 200);
    bench.control.advance(Duration::from_secs(2));
    bench.assert_dead(&first).await;
    bench.assert_dead(&second).await;
    bench.assert_dead(&again).await;
    assert_eq!(bench.whoami(&access).await, 401);
    assert_eq!(bench.control.grant(&grant.grant).unwrap().ended, Some(GrantEnd::TokenReused));
}

#[tokio::test]
async fn a_spent_strict_token_ends_its_own_grant_only() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let (grant, sibling) = (bench.seed(), bench.seed());
    let first = grant.refresh_token.unwrap();
    let (access, second) = bench.refreshed(&first).await;
    bench.assert_dead(&first).await;
    bench.assert_dead(&second).await;
    assert_eq!(bench.whoami(&access).await, 401);
    bench.refreshed(&sibling.refresh_token.unwrap()).await;
}

#[tokio::test]
async fn a_spent_wide_token_ends_every_grant_of_the_same_client_and_user() {
    let bench = Bench::of_class(Rotation::StrictWide).await;
    let (grant, sibling) = (bench.seed(), bench.seed());
    let stranger = bench.control.seed_grant(CLIENT, "user-b", &[]).unwrap();
    let first = grant.refresh_token.unwrap();
    bench.refreshed(&first).await;
    bench.assert_dead(&first).await;
    bench.assert_dead(&sibling.refresh_token.unwrap()).await;
    assert_eq!(bench.whoami(&sibling.access_token).await, 401);
    bench.refreshed(&stranger.refresh_token.unwrap()).await;
    assert_eq!(bench.control.grant(&sibling.grant).unwrap().ended, Some(GrantEnd::SiblingTokenReused));
    let reuse = &bench.control.second_presentations()[0];
    assert!(reuse.reuse && !reuse.was_current);
    assert_eq!(reuse.committed.as_ref().unwrap().ended, [grant.grant, sibling.grant]);
}

#[tokio::test]
async fn the_old_access_token_dies_on_refresh_only_where_the_client_is_told_so() {
    for dies in [false, true] {
        let client = ClientSettings { access_dies_on_refresh: dies, ..ClientSettings::default() };
        let bench = Bench::with_client(client).await;
        let grant = bench.seed();
        let (access, _) = bench.refreshed(&grant.refresh_token.unwrap()).await;
        assert_eq!(bench.whoami(&grant.access_token).await, if dies { 401 } else { 200 });
        assert_eq!(bench.whoami(&access).await, 200);
    }
}

#[tokio::test]
async fn lives_end_by_the_sandboxs_own_clock() {
    let client = ClientSettings {
        rotation: Rotation::NonRotating,
        access_life_seconds: Some(60),
        refresh_life_seconds: Some(1000),
        refresh_idle_seconds: Some(300),
        refresh_expires_in_field: Some("refresh_token_expires_in".to_owned()),
        echo_refresh_token: true,
        ..ClientSettings::default()
    };
    let bench = Bench::with_client(client).await;
    let grant = bench.seed();
    let token = grant.refresh_token.unwrap();
    assert_eq!(bench.whoami(&grant.access_token).await, 200);
    bench.control.advance(Duration::from_secs(61));
    assert_eq!(bench.whoami(&grant.access_token).await, 401);
    bench.control.advance(Duration::from_secs(200));
    let (status, body) = bench.refresh(&token).await;
    assert_eq!(status, 200);
    assert!((735..=739).contains(&body["refresh_token_expires_in"].as_i64().unwrap()));
    bench.control.advance(Duration::from_secs(301));
    bench.assert_dead(&token).await;
    let absolute = bench.seed().refresh_token.unwrap();
    for _ in 0..3 {
        bench.control.advance(Duration::from_secs(290));
        bench.refreshed(&absolute).await;
    }
    bench.control.advance(Duration::from_secs(290));
    bench.assert_dead(&absolute).await;
}

#[tokio::test]
async fn no_refresh_moves_the_end_of_a_grant_with_a_fixed_life() {
    let client = ClientSettings { grant_life_seconds: Some(100), ..ClientSettings::default() };
    let bench = Bench::with_client(client).await;
    let grant = bench.seed();
    bench.control.advance(Duration::from_secs(90));
    let (access, second) = bench.refreshed(&grant.refresh_token.unwrap()).await;
    bench.control.advance(Duration::from_secs(11));
    assert_eq!(bench.whoami(&access).await, 401);
    bench.assert_dead(&second).await;
    assert_eq!(bench.control.grant(&grant.grant).unwrap().ended, Some(GrantEnd::Lapsed));
}

#[tokio::test]
async fn the_life_of_a_token_can_be_stated_in_every_wrong_way() {
    let bench = Bench::of_class(Rotation::NonRotating).await;
    let token = bench.seed().refresh_token.unwrap();
    let cases = [
        (ExpiresIn::Number, "3600"),
        (ExpiresIn::Text, "\"3600\""),
        (ExpiresIn::Null, "null"),
        (ExpiresIn::Zero, "0"),
        (ExpiresIn::Negative, "-3600"),
        (ExpiresIn::Huge, "1e+30"),
        (ExpiresIn::Stated { seconds: 5 }, "5"),
    ];
    for (stated, expected) in cases {
        bench.control.update_client(CLIENT, |client| client.expires_in = stated).unwrap();
        let (_, body) = bench.refresh(&token).await;
        assert_eq!(body.get("expires_in").unwrap().to_string(), expected, "{stated:?}");
    }
    bench.control.update_client(CLIENT, |client| client.expires_in = ExpiresIn::Absent).unwrap();
    assert!(bench.refresh(&token).await.1.get("expires_in").is_none());
}

#[tokio::test]
async fn a_dead_grant_can_be_answered_in_a_providers_own_way() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let grant = bench.seed();
    bench
        .control
        .update_client(CLIENT, |client| {
            client.dead_grant_status = 200;
            client.dead_grant_error = "bad_refresh_token".to_owned();
        })
        .unwrap();
    assert!(bench.control.revoke_grant_by_user(&grant.grant));
    let (status, body) = bench.refresh(&grant.refresh_token.unwrap()).await;
    assert_eq!((status, body["error"].as_str()), (200, Some("bad_refresh_token")));
    assert_eq!(bench.control.counters().refused, 1);
}

#[tokio::test]
async fn the_oldest_grant_makes_room_above_the_limit() {
    let client = ClientSettings { max_live_grants: Some(2), ..ClientSettings::default() };
    let bench = Bench::with_client(client).await;
    let grants = [bench.seed(), bench.seed(), bench.seed()];
    let alive = grants.each_ref().map(|grant| bench.control.grant(&grant.grant).unwrap().alive);
    assert_eq!(alive, [false, true, true]);
}

#[tokio::test]
async fn scopes_are_narrowed_but_never_widened_by_a_refresh() {
    let bench = Bench::of_class(Rotation::NonRotating).await;
    let grant = bench.control.seed_grant(CLIENT, "user-a", &["read", "write"]).unwrap();
    let token = grant.refresh_token.unwrap();
    let form = |scope: &'static str| [("grant_type", "refresh_token"), ("scope", scope)];
    let mut narrow = form("read").to_vec();
    narrow.push(("refresh_token", &token));
    let (_, body) = crate::support::reply(bench.post_token(&narrow).send().await.unwrap()).await;
    assert_eq!(body["scope"], "read");
    let mut wide = form("read admin").to_vec();
    wide.push(("refresh_token", &token));
    let (_, body) = crate::support::reply(bench.post_token(&wide).send().await.unwrap()).await;
    assert_eq!(body["error"], "invalid_scope");
}
