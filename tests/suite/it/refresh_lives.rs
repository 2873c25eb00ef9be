//! When a token is refreshed: its life, its callers, and refresh tokens that must not lie idle.

use std::time::Duration;

use serde_json::{Value, json};
use valetkey_suite::{
    ConnectorSpec, Setup, TestApp, TestConnector, Work, engine_tests,
    extra::time_of,
    sandbox::{Fault, FaultRule, Rotation, ScopeAnswer},
};

const DAY: u64 = 86_400;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn days(count: u64) -> Duration {
    seconds(count * DAY)
}

/// A connector whose access tokens live so long, in seconds.
async fn living(app: &TestApp, life: u64) -> TestConnector {
    let spec = ConnectorSpec::oauth2().rotation(Rotation::Strict);
    app.connector(spec.client(|client| client.access_life_seconds = Some(life))).await
}

fn later(app: &TestApp, by: Duration) -> Value {
    json!(app.clock.now().plus(by).to_string())
}

engine_tests! {
    async fn a_caller_gets_the_life_it_asks_for(app: TestApp) {
        let connector = living(&app, 3_600).await;
        app.seed_import(&connector, &["u-1"]).await;
        app.advance(seconds(3_000));
        let enough = app.fetch_with(&connector, "u-1", json!({ "min_ttl": 500 })).await.expect(200);
        assert_eq!(enough.json["generation"], 1);
        let more = app.fetch_with(&connector, "u-1", json!({ "min_ttl": 700 })).await.expect(200);
        assert_eq!(more.json["generation"], 2);
        assert!(more.json["expires_in"].as_u64() >= Some(3_590), "{}", more.text);
        assert_eq!(app.refreshes(&connector).len(), 1);
    }

    async fn at_most_a_third_of_a_short_life_can_be_asked_for(app: TestApp) {
        let connector = living(&app, 100).await;
        app.seed_import(&connector, &["u-1"]).await;
        app.advance(seconds(65));
        // 35 seconds are left, and 30 % of the life is 30: asking for more must not cause a refresh with each call.
        let answer = app.fetch_with(&connector, "u-1", json!({ "min_ttl": 4_000 })).await.expect(200);
        assert_eq!(answer.json["generation"], 1);
        app.advance(seconds(7));
        assert_eq!(app.fetch_with(&connector, "u-1", json!({ "min_ttl": 4_000 })).await.expect(200).json["generation"], 2);
    }

    async fn the_default_life_asked_for_can_be_set(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.refresh.default_min_ttl = seconds(900)),
    ) {
        let connector = living(&app, 3_600).await;
        app.seed_import(&connector, &["u-1"]).await;
        app.advance(seconds(2_750));
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 2);
    }

    async fn a_caller_that_comes_when_the_scheduler_is_behind_starts_the_refresh_and_does_not_wait(app: TestApp) {
        let connector = living(&app, 3_600).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        app.advance_to_due(&seeded[0].connection_id).await;
        app.advance(seconds(100));
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 1);
        app.landed().await;
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 2);
        assert_eq!(app.refreshes(&connector).len(), 1);
    }

    async fn a_connection_that_nobody_asks_for_sleeps_until_its_next_caller(app: TestApp) {
        let connector = living(&app, 3_600).await;
        app.seed_import(&connector, &["u-1"]).await;
        app.advance(days(8));
        for _ in 0..3 {
            app.run(Work::Refresh).await;
            app.advance(seconds(7_200));
        }
        assert_eq!(app.refreshes(&connector).len(), 0);
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 2);
        // Its use is known from now on, and it is kept fresh again.
        app.run(Work::Issues).await;
        app.advance(seconds(3_500));
        app.run(Work::Refresh).await;
        assert_eq!(app.refreshes(&connector).len(), 2);
    }

    async fn a_sleeping_connection_is_kept_alive(app: TestApp) {
        let connector = living(&app, 3_600).await;
        let seeded = app
            .seed_import_with(&connector, &["u-1"], |_, line| line["refresh_expires_at"] = later(&app, days(30)))
            .await;
        app.advance(days(8));
        app.run(Work::Refresh).await;
        assert_eq!(app.refreshes(&connector).len(), 0, "it sleeps");
        app.advance(days(2));
        app.run(Work::Refresh).await;
        assert_eq!(app.refreshes(&connector).len(), 1, "a third of thirty days is over");
        let connection = app.connection(&seeded[0].connection_id).await;
        assert_eq!(connection["generation"], 2);
    }

    async fn a_refresh_token_is_used_at_a_third_of_its_idle_limit(app: TestApp) {
        let connector = living(&app, 90 * DAY).await;
        let seeded = app
            .seed_import_with(&connector, &["u-1"], |_, line| line["refresh_expires_at"] = later(&app, days(9)))
            .await;
        let id = &seeded[0].connection_id;
        let due = time_of(&app.connection(id).await["refresh_due_at"]).since(app.clock.now());
        assert!((3 * DAY - 60..=3 * DAY).contains(&due.as_secs()), "{due:?}");
        app.advance(days(3));
        app.run(Work::Refresh).await;
        assert_eq!(app.refreshes(&connector).len(), 1);
    }

    async fn a_refresh_token_whose_end_has_come_is_not_presented(app: TestApp) {
        let connector = living(&app, 3_600).await;
        let seeded = app
            .seed_import_with(&connector, &["u-1"], |_, line| line["refresh_expires_at"] = later(&app, seconds(7_000)))
            .await;
        app.advance(seconds(7_100));
        app.run(Work::Refresh).await;
        assert_eq!(app.refreshes(&connector).len(), 0);
        let connection = app.connection(&seeded[0].connection_id).await;
        assert_eq!(connection["needs_reauth"]["reason"], "refresh_token_expired");
        app.fetch(&connector, "u-1").await.expect_problem(409, "reconnect-required").done();
    }

    async fn a_refresh_token_that_ends_before_its_access_token_is_not_presented_and_takes_nothing_with_it(app: TestApp) {
        let connector = living(&app, 3_600).await;
        let seeded = app
            .seed_import_with(&connector, &["u-1"], |_, line| line["refresh_expires_at"] = later(&app, seconds(900)))
            .await;
        let id = &seeded[0].connection_id;
        app.advance(seconds(901));
        app.run(Work::Refresh).await;
        let shown = app.connection(id).await;
        assert_eq!((&shown["status"], &shown["refreshing"]), (&json!("active"), &json!("ok")));
        assert_eq!((&shown["refresh_due_at"], &shown["next_try_at"]), (&shown["expires_at"], &shown["expires_at"]));
        for _ in 0..3 {
            app.advance(seconds(890));
            app.run(Work::Refresh).await;
            let current = app.fetch_with(&connector, "u-1", json!({ "min_ttl": 1_000 })).await.expect(200);
            assert_eq!(current.json["generation"], 1);
            app.landed().await;
        }
        let current = app.fetch(&connector, "u-1").await.expect(200);
        let rejected = json!({ "rejected": current.json["fingerprint"] });
        let refused = app.fetch_with(&connector, "u-1", rejected).await;
        refused.expect_problem(409, "rejected-not-refreshable").done();
        app.advance_to_expiry(id).await;
        app.run(Work::Refresh).await;
        assert_eq!(app.connection(id).await["needs_reauth"]["reason"], "refresh_token_expired");
        app.fetch(&connector, "u-1").await.expect_problem(409, "reconnect-required").done();
        assert_eq!(app.refreshes(&connector).len(), 0, "it was never presented");
    }

    async fn a_caller_finds_out_as_well_that_both_tokens_have_ended(app: TestApp) {
        let connector = living(&app, 3_600).await;
        app.seed_import_with(&connector, &["u-1"], |_, line| line["refresh_expires_at"] = later(&app, seconds(900))).await;
        app.advance(seconds(3_601));
        let ended = app.fetch(&connector, "u-1").await.expect_problem(409, "reconnect-required");
        assert_eq!(ended.json["reason"], "refresh_token_expired");
        assert_eq!(app.refreshes(&connector).len(), 0);
    }

    async fn a_token_without_an_end_outlives_its_refresh_token(app: TestApp) {
        let connector = living(&app, 3_600).await;
        let seeded = app
            .seed_import_with(&connector, &["u-1"], |_, line| {
                line["expires_at"] = Value::Null;
                line["refresh_expires_at"] = later(&app, seconds(900));
            })
            .await;
        app.advance(seconds(901));
        app.run(Work::Refresh).await;
        let shown = app.connection(&seeded[0].connection_id).await;
        assert_eq!((&shown["status"], &shown["next_try_at"]), (&json!("active"), &Value::Null));
        app.fetch(&connector, "u-1").await.expect(200).done();
        assert_eq!(app.refreshes(&connector).len(), 0);
    }

    async fn a_connection_without_a_refresh_token_is_served_to_its_end(app: TestApp) {
        let connector = living(&app, 3_600).await;
        let seeded = app.seed_import_with(&connector, &["u-1"], |_, line| line["refresh_token"] = Value::Null).await;
        app.advance(seconds(3_590));
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 1);
        app.advance(seconds(11));
        let ended = app.fetch(&connector, "u-1").await.expect_problem(409, "reconnect-required");
        assert_eq!(ended.json["reason"], "no_refresh_token");
        assert_eq!(app.connection(&seeded[0].connection_id).await["status"], "needs_reauth");
        assert_eq!(app.provider().counters().token_requests, 0);
    }

    async fn a_rejected_token_is_replaced_at_most_once_a_minute(app: TestApp) {
        let connector = living(&app, 3_600).await;
        app.seed_import(&connector, &["u-1"]).await;
        let first = app.fetch(&connector, "u-1").await.expect(200);
        let rejected = |answer: &valetkey_suite::Answer| json!({ "rejected": answer.json["fingerprint"] });
        let second = app.fetch_with(&connector, "u-1", rejected(&first)).await.expect(200);
        assert_eq!(second.json["generation"], 2);
        // Whoever comes late with the old one gets the newer one, and nothing is asked.
        let late = app.fetch_with(&connector, "u-1", rejected(&first)).await.expect(200);
        assert_eq!(late.json["access_token"], second.json["access_token"]);
        let soon = app.fetch_with(&connector, "u-1", rejected(&second)).await.expect_problem(503, "provider-unavailable");
        assert!(soon.retry_after() <= 60);
        assert_eq!(app.refreshes(&connector).len(), 1);
        app.advance(seconds(61));
        assert_eq!(app.fetch_with(&connector, "u-1", rejected(&second)).await.expect(200).json["generation"], 3);
        assert_eq!(app.refreshes(&connector).len(), 2);
    }

    async fn many_callers_whose_token_was_rejected_share_one_refresh(app: TestApp) {
        let connector = living(&app, 3_600).await;
        app.seed_import(&connector, &["u-1"]).await;
        let client = app.connector_client(&connector.id).await;
        let first = client.post(&connector.path("/token"), &json!({ "user_id": "u-1" })).await.expect(200);
        app.provider().inject(FaultRule::refresh(Fault::HoldUntilReleased { gate: "answer".to_owned() }));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..30 {
            let (client, path) = (client.clone(), connector.path("/token"));
            let body = json!({ "user_id": "u-1", "rejected": first.json["fingerprint"] });
            callers.spawn(async move { client.post(&path, &body).await });
        }
        assert!(app.provider().wait_until_held("answer").await);
        app.provider().release("answer");
        for answer in callers.join_all().await {
            assert_eq!(answer.expect(200).json["generation"], 2);
        }
        assert_eq!(app.refreshes(&connector).len(), 1);
    }

    async fn a_rejected_token_is_not_handed_out_again_when_its_refresh_fails(app: TestApp) {
        let connector = living(&app, 3_600).await;
        app.seed_import(&connector, &["u-1"]).await;
        let first = app.fetch(&connector, "u-1").await.expect(200);
        app.provider().set_down(true);
        let rejected = json!({ "rejected": first.json["fingerprint"] });
        app.fetch_with(&connector, "u-1", rejected).await.expect_problem(503, "provider-unavailable").done();
        // To a caller that has not said so, it is still what there is.
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 1);
    }

    async fn a_rejected_token_that_cannot_be_replaced_changes_nothing(app: TestApp) {
        let connector = living(&app, 3_600).await;
        let seeded = app.seed_import_with(&connector, &["u-1"], |_, line| line["refresh_token"] = Value::Null).await;
        let first = app.fetch(&connector, "u-1").await.expect(200);
        let rejected = json!({ "rejected": first.json["fingerprint"] });
        let refused = app.fetch_with(&connector, "u-1", rejected).await;
        refused.expect_problem(409, "rejected-not-refreshable").done();
        assert_eq!(app.connection(&seeded[0].connection_id).await["status"], "active");
        app.fetch(&connector, "u-1").await.expect(200).done();
    }

    async fn a_token_sent_in_place_of_its_fingerprint_is_refused(app: TestApp) {
        let connector = living(&app, 3_600).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let body = json!({ "rejected": seeded[0].access_token });
        app.fetch_with(&connector, "u-1", body).await.expect_fault("invalid-request", "rejected").done();
        assert_eq!(app.refreshes(&connector).len(), 0);
    }

    async fn scopes_are_checked_and_never_narrowed(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().scopes(&["read", "list"])).await;
        app.connect_user(&connector, "u-1").await;
        let answer = app.fetch_with(&connector, "u-1", json!({ "scopes": ["read"] })).await.expect(200);
        assert_eq!(answer.json["scopes"], json!(["read", "list"]));
        let refused = app.fetch_with(&connector, "u-1", json!({ "scopes": ["read", "write"] })).await;
        assert_eq!(refused.expect_problem(403, "scopes-missing").json["missing_scopes"], json!(["write"]));
    }

    async fn scopes_that_a_refresh_took_away_are_missed_at_once(app: TestApp) {
        let spec = ConnectorSpec::oauth2().scopes(&["read", "list"]).rotation(Rotation::Strict);
        let connector = app.connector(spec).await;
        let connection = app.connect_user(&connector, "u-1").await;
        app.provider()
            .update_client(&connector.client_id, |client| {
                client.scope_answer = ScopeAnswer::Never;
                client.extra.insert("scope".to_owned(), json!("read"));
            })
            .expect("a client");
        app.advance(seconds(3_601));
        let refused = app.fetch_with(&connector, "u-1", json!({ "scopes": ["list"] })).await;
        assert_eq!(refused.expect_problem(403, "scopes-missing").json["missing_scopes"], json!(["list"]));
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["scopes"], json!(["read"]));
        let shown = app.connection(connection["id"].as_str().expect("an id")).await;
        assert_eq!(shown["scopes"], json!({ "requested": ["read", "list"], "granted": ["read"] }));
    }
}
