//! A process that dies with a refresh in flight: what the next one does about it, by rotation class.

use std::time::Duration;

use serde_json::{Value, json};
use valetkey_suite::{
    ConnectorSpec, Seeded, TestApp, TestConnector, Work, engine_tests,
    extra::{Doomed, time_of},
    sandbox::{Commit, Fault, FaultRule, GrantEnd, Rotation},
};

/// Past the lease of an attempt, and of a claim of due work.
const LEASE: Duration = Duration::from_secs(51);

/// What the provider did with the request whose answer nobody heard.
#[derive(Clone, Copy, PartialEq)]
enum Provider {
    Acted,
    NeverSawIt,
}

/// A server dies while a refresh of the first account is at the provider; another starts on the same data.
async fn dies(
    app: &mut TestApp,
    rotation: Rotation,
    provider: Provider,
    siblings: usize,
) -> (TestConnector, Vec<Seeded>) {
    let connector = app.connector(ConnectorSpec::oauth2().rotation(rotation)).await;
    let mut seeded = app.seed_import(&connector, &["u-1"]).await;
    for number in 0..siblings {
        let label = format!("account {number}");
        seeded.extend(app.seed_import_with(&connector, &["u-1"], |_, line| line["label"] = json!(label)).await);
    }
    let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
    let fresh = app.caller(&key).post(&connector.path("/token"), &json!({ "user_id": "u-1" })).await.expect(200);
    app.stop().await;

    let commit = if provider == Provider::Acted { Commit::Before } else { Commit::Never };
    let held = Fault::HoldUntilReleased { gate: "answer".to_owned() };
    app.provider().inject(FaultRule::refresh(held).commit(commit));
    let doomed = Doomed::start(app).await;
    let (client, path) = (doomed.caller(&key), connector.path("/token"));
    let body = json!({ "user_id": "u-1", "rejected": fresh.json["fingerprint"] });
    let caller = tokio::spawn(async move { client.try_post(&path, &body).await });
    assert!(app.provider().wait_until_held("answer").await, "no refresh came");
    doomed.kill().await;
    assert!(caller.await.expect("it ends").is_none(), "nobody answers any more");
    app.provider().release("answer");
    app.restart().await;
    assert_eq!(app.refreshes(&connector).len(), 1);
    assert_eq!(app.number("SELECT COUNT(*) FROM attempts WHERE state = 'sent'").await, 1);
    (connector, seeded)
}

/// The lease is not over: nobody touches it. Then it is looked at.
async fn look(app: &TestApp, connector: &TestConnector) {
    app.run(Work::Recover).await;
    app.run(Work::Refresh).await;
    assert_eq!(app.refreshes(connector).len(), 1, "the lease protects it");
    app.advance(LEASE);
    app.run(Work::Recover).await;
}

/// The current access token is served, and nothing is asked of the provider for it.
async fn is_served(app: &TestApp, connector: &TestConnector) {
    let asked = app.refreshes(connector).len();
    let answer = app.fetch(connector, "u-1").await.expect(200);
    assert_eq!(answer.json["generation"], 1);
    assert!(answer.json["expires_in"].as_u64() > Some(0), "{}", answer.text);
    assert_eq!(app.refreshes(connector).len(), asked);
}

/// Looks at due work through the rest of the token's life up to its last tenth: nothing is presented again before.
async fn waits_for_the_last_tenth(app: &TestApp, connector: &TestConnector, id: &str) {
    let end = time_of(&app.connection(id).await["expires_at"]);
    let last_tenth = end.minus(Duration::from_secs(360));
    while app.clock.now().plus(Duration::from_secs(300)) < last_tenth {
        app.advance(Duration::from_secs(300));
        app.run(Work::Refresh).await;
        is_served(app, connector).await;
    }
    app.advance_to(last_tenth.plus(Duration::from_secs(10)));
    app.run(Work::Refresh).await;
}

async fn generation(app: &TestApp, id: &str) -> i64 {
    app.connection(id).await["generation"].as_i64().expect("a number")
}

engine_tests! {
    async fn a_token_that_does_not_rotate_is_presented_again_soon(app: TestApp) {
        let mut app = app;
        let (connector, seeded) = dies(&mut app, Rotation::NonRotating, Provider::Acted, 2).await;
        look(&app, &connector).await;
        is_served(&app, &connector).await;
        app.advance(Duration::from_secs(5));
        app.run(Work::Refresh).await;
        assert_eq!(generation(&app, &seeded[0].connection_id).await, 2);
        assert_eq!(app.refreshes(&connector).len(), 2);
    }

    async fn a_softly_rotated_token_is_presented_again_soon(app: TestApp) {
        let mut app = app;
        let (connector, seeded) = dies(&mut app, Rotation::SoftUntilSuccessorUsed, Provider::Acted, 2).await;
        look(&app, &connector).await;
        app.advance(Duration::from_secs(5));
        app.run(Work::Refresh).await;
        assert_eq!(generation(&app, &seeded[0].connection_id).await, 2);
        app.advance_to_due(&seeded[0].connection_id).await;
        app.run(Work::Refresh).await;
        assert_eq!(generation(&app, &seeded[0].connection_id).await, 3);
    }

    async fn a_token_with_a_grace_is_presented_again_within_it(app: TestApp) {
        let mut app = app;
        let (connector, seeded) = dies(&mut app, Rotation::Grace { seconds: 120 }, Provider::Acted, 1).await;
        look(&app, &connector).await;
        app.advance(Duration::from_secs(5));
        app.run(Work::Refresh).await;
        assert_eq!(generation(&app, &seeded[0].connection_id).await, 2);
        let repeat = &app.refreshes(&connector)[1];
        assert!(repeat.reuse && repeat.status == Some(200), "forgiven: {repeat:?}");
    }

    async fn a_token_whose_grace_is_over_waits_like_a_strict_one(app: TestApp) {
        let mut app = app;
        let (connector, seeded) = dies(&mut app, Rotation::Grace { seconds: 30 }, Provider::NeverSawIt, 1).await;
        look(&app, &connector).await;
        waits_for_the_last_tenth(&app, &connector, &seeded[0].connection_id).await;
        assert_eq!(generation(&app, &seeded[0].connection_id).await, 2);
    }

    async fn a_strict_token_is_presented_again_late_and_was_not_spent(app: TestApp) {
        let mut app = app;
        let (connector, seeded) = dies(&mut app, Rotation::Strict, Provider::NeverSawIt, 1).await;
        look(&app, &connector).await;
        waits_for_the_last_tenth(&app, &connector, &seeded[0].connection_id).await;
        assert_eq!(generation(&app, &seeded[0].connection_id).await, 2);
        assert_eq!(app.provider().counters().reuses, 0);
    }

    async fn a_strict_token_that_was_spent_ends_its_grant_by_a_definite_answer_only(app: TestApp) {
        let mut app = app;
        let (connector, seeded) = dies(&mut app, Rotation::Strict, Provider::Acted, 1).await;
        let id = &seeded[0].connection_id;
        look(&app, &connector).await;
        assert_eq!(app.connection(id).await["status"], "active", "an unknown outcome ends nothing");
        waits_for_the_last_tenth(&app, &connector, id).await;
        let ended = app.connection(id).await;
        assert_eq!(ended["needs_reauth"]["reason"], "grant_revoked", "{ended}");
        assert_eq!(app.provider().grant(&seeded[0].grant).expect("known").ended, Some(GrantEnd::TokenReused));
        assert!(app.provider().grant(&seeded[1].grant).expect("known").alive, "its sibling is unharmed");
        app.fetch(&connector, "u-1").await.expect_problem(409, "reconnect-required").done();
    }

    async fn a_strict_and_wide_token_with_siblings_is_never_presented_again(app: TestApp) {
        let mut app = app;
        let (connector, seeded) = dies(&mut app, Rotation::StrictWide, Provider::Acted, 1).await;
        let id = &seeded[0].connection_id;
        look(&app, &connector).await;
        let stopped = app.connection(id).await;
        assert_eq!((&stopped["status"], &stopped["needs_reauth"]["reason"]), (&json!("needs_reauth"), &json!("unknown_outcome")));
        // Its access token is good still, and is served to its end.
        for _ in 0..3 {
            is_served(&app, &connector).await;
            app.advance(Duration::from_secs(600));
            app.run(Work::Refresh).await;
            app.run(Work::Recover).await;
        }
        app.advance_to_expiry(id).await;
        let ended = app.fetch(&connector, "u-1").await.expect_problem(409, "reconnect-required");
        assert_eq!(ended.json["reason"], "unknown_outcome");
        // Its sibling was refreshed meanwhile and lives.
        app.run(Work::Refresh).await;
        let sibling = app.fetch_with(&connector, "u-1", json!({ "label": "account 0" })).await.expect(200);
        assert_eq!(sibling.json["generation"], 2);
        let presented = app.refreshes(&connector).iter().filter(|event| event.grant.as_ref() == Some(&seeded[0].grant)).count();
        assert_eq!((presented, app.provider().counters().reuses), (1, 0));
    }

    async fn a_strict_and_wide_token_without_siblings_is_presented_again_late(app: TestApp) {
        let mut app = app;
        let (connector, seeded) = dies(&mut app, Rotation::StrictWide, Provider::NeverSawIt, 0).await;
        look(&app, &connector).await;
        waits_for_the_last_tenth(&app, &connector, &seeded[0].connection_id).await;
        assert_eq!(generation(&app, &seeded[0].connection_id).await, 2);
    }

    async fn a_caller_that_finds_the_attempt_abandoned_need_not_wait_for_the_scheduler(app: TestApp) {
        let mut app = app;
        let (connector, seeded) = dies(&mut app, Rotation::NonRotating, Provider::NeverSawIt, 0).await;
        app.advance(Duration::from_secs(3_601));
        app.fetch(&connector, "u-1").await.expect_problem(503, "provider-unavailable").done();
        assert_eq!(app.refreshes(&connector).len(), 1);
        app.advance(Duration::from_secs(5));
        app.fetch(&connector, "u-1").await.expect(200).done();
        assert_eq!(generation(&app, &seeded[0].connection_id).await, 2);
    }

    async fn a_reconnect_needs_nothing_of_what_was_abandoned(app: TestApp) {
        let mut app = app;
        let (connector, seeded) = dies(&mut app, Rotation::StrictWide, Provider::Acted, 1).await;
        look(&app, &connector).await;
        let again = app.connect_user(&connector, "u-1").await;
        assert_eq!((&again["id"], &again["status"]), (&json!(seeded[0].connection_id), &json!("active")));
        app.run(Work::Recover).await;
        app.advance_to_due(&seeded[0].connection_id).await;
        app.run(Work::Refresh).await;
        assert_eq!(generation(&app, &seeded[0].connection_id).await, 3);
    }

    async fn a_redemption_whose_process_died_fails_its_flow(app: TestApp) {
        let mut app = app;
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let started = app.start_flow(&connector, &connector.redirect("u-1")).await;
        let home = app.browser("u-1").walk(&started.start_url).await;
        let key = app.api_key(&["app"], None).await;
        app.stop().await;
        app.provider().inject(FaultRule::token(Fault::HoldUntilReleased { gate: "answer".to_owned() }));
        let doomed = Doomed::start(&app).await;
        let client = doomed.caller(&key);
        let path = format!("/v1/flows/{}/finish", started.flow_id);
        let body = json!({ "user_id": "u-1", "handle": home.handle() });
        let caller = tokio::spawn(async move { client.try_post(&path, &body).await });
        assert!(app.provider().wait_until_held("answer").await);
        doomed.kill().await;
        assert!(caller.await.expect("it ends").is_none());
        app.restart().await;
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "finishing");
        app.advance(LEASE);
        app.run(Work::Recover).await;
        let (status, code) = app.flow_status(&connector, &started.flow_id).await;
        assert_eq!((status.as_str(), code.as_deref()), ("failed", Some("interrupted")));
        // The code is not redeemed twice, and the next flow works.
        assert_eq!(app.token_requests(&connector, "authorization_code").len(), 1);
        let connection: Value = app.connect_user(&connector, "u-1").await;
        assert_eq!(connection["status"], "active");
    }
}
