//! Scheduled work: what is over is deleted by its own rule, counted first; and what the numbers say.

use std::time::Duration;

use serde_json::{Value, json};
use valetkey_suite::{
    ConnectorSpec, Setup, TestApp, Work, engine_tests,
    extra::text_of,
    sandbox::{Fault, FaultRule, Rotation},
};

const DAY: u64 = 86_400;

fn days(count: u64) -> Duration {
    Duration::from_secs(count * DAY)
}

/// What a purge would delete now, and that counting it deletes nothing.
async fn counted(app: &TestApp) -> Value {
    let counts = serde_json::to_value(app.broker().purge(true).await.expect("counted")).expect("JSON");
    let again = serde_json::to_value(app.broker().purge(true).await.expect("counted")).expect("JSON");
    assert_eq!(counts, again, "a dry run changes nothing");
    counts
}

/// Purges, and compares with the dry run before.
async fn purged(app: &TestApp) -> Value {
    let counts = counted(app).await;
    let deleted = serde_json::to_value(app.broker().purge(false).await.expect("purged")).expect("JSON");
    assert_eq!(deleted, counts, "what is deleted was counted");
    deleted
}

/// The value of a line of the metrics: its name with its labels.
async fn metric(app: &TestApp, line: &str) -> Option<f64> {
    let text = app.anonymous().get("/metrics").await.expect(200).text;
    text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

engine_tests! {
    async fn nothing_young_is_purged(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        app.connect_user(&connector, "u-1").await;
        app.start_flow(&connector, &connector.redirect("u-2")).await;
        app.advance(Duration::from_secs(300));
        let deleted = purged(&app).await;
        assert!(deleted.as_object().expect("counts").values().all(|count| count == 0), "{deleted}");
    }

    async fn ended_flows_go_after_a_day(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        app.connect_user(&connector, "u-1").await;
        let lapsed = app.start_flow(&connector, &connector.redirect("u-2")).await;
        app.advance(Duration::from_secs(700));
        assert_eq!(purged(&app).await["flows_expired"], 1);
        assert_eq!(app.flow_status(&connector, &lapsed.flow_id).await.0, "expired");
        app.advance(days(1));
        assert_eq!(purged(&app).await["flows"], 2);
        app.application().get(&format!("/v1/flows/{}", lapsed.flow_id)).await.expect_problem(404, "flow-not-found").done();
        app.fetch(&connector, "u-1").await.expect(200).done();
    }

    async fn revoked_connections_go_after_thirty_days(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let seeded = app.seed_import(&connector, &["u-1", "u-2"]).await;
        let path = format!("/v1/connections/{}", seeded[0].connection_id);
        app.operator().delete(&path).await.expect(200).done();
        app.settle().await;
        app.advance(days(29));
        assert_eq!(purged(&app).await["revoked_connections"], 0);
        app.operator().get(&path).await.expect(200).done();
        app.advance(days(2));
        let deleted = purged(&app).await;
        assert_eq!((&deleted["revoked_connections"], &deleted["revocations"]), (&json!(1), &json!(2)));
        app.operator().get(&path).await.expect_problem(404, "connection-not-found").done();
        app.connection(&seeded[1].connection_id).await;
    }

    async fn a_connection_whose_provider_was_not_told_yet_stays(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        app.operator().delete(&format!("/v1/connections/{}", seeded[0].connection_id)).await.expect(200).done();
        app.advance(days(40));
        let deleted = purged(&app).await;
        assert_eq!((&deleted["revoked_connections"], &deleted["revocations"]), (&json!(0), &json!(0)));
        app.settle().await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["status"], "revoked");
    }

    async fn what_nobody_uses_and_nothing_can_refresh_goes_through_the_queue(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let dead = app.seed_import(&connector, &["dead", "alive"]).await;
        app.provider().revoke_grant_by_user(&dead[0].grant);
        let kept = app.seed_import_with(&connector, &["used"], |_, line| {
            line["refresh_token"] = Value::Null;
            line["expires_at"] = Value::Null;
        }).await;
        app.seed_import_with(&connector, &["unused"], |_, line| {
            line["refresh_token"] = Value::Null;
            line["expires_at"] = Value::Null;
        }).await;
        app.advance(Duration::from_secs(3_601));
        app.fetch(&connector, "dead").await.expect_problem(409, "reconnect-required").done();
        app.advance(days(60));
        app.fetch(&connector, "used").await.expect(200).done();
        app.run(Work::Issues).await;
        app.advance(days(31));
        assert_eq!(purged(&app).await["unused_connections"], 2);
        app.fetch(&connector, "unused").await.expect_problem(404, "connection-not-found").done();
        app.fetch(&connector, "dead").await.expect_problem(404, "connection-not-found").done();
        app.fetch(&connector, "used").await.expect(200).done();
        assert_eq!(app.connection(&kept[0].connection_id).await["status"], "active");
        assert_eq!(app.connection(&dead[1].connection_id).await["status"], "active", "a refresh token brings it back");
        app.settle().await;
        let events = app.audit("action=connection.revoked").await;
        assert!(events.iter().all(|event| event["detail"]["reason"] == "purge" && event["actor"]["kind"] == "system"));
        assert!(app.revocations_seen(&connector).len() >= 2, "the provider was told");
    }

    async fn settled_attempts_go_after_a_week_and_the_current_one_stays(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        for _ in 0..2 {
            app.advance_to_due(&seeded[0].connection_id).await;
            app.run(Work::Refresh).await;
        }
        app.provider().inject(FaultRule::refresh(Fault::ResetBeforeAnswer));
        app.advance_to_due(&seeded[0].connection_id).await;
        app.run(Work::Refresh).await;
        assert_eq!(app.number("SELECT COUNT(*) FROM attempts").await, 3);
        app.advance(days(8));
        assert_eq!(purged(&app).await["attempts"], 2);
        assert_eq!(app.number("SELECT COUNT(*) FROM attempts WHERE state = 'repeat_allowed'").await, 1);
    }

    async fn the_audit_is_kept_for_its_time(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.retention.audit = days(10)),
    ) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        app.seed_import(&connector, &["u-1"]).await;
        let before = app.number("SELECT COUNT(*) FROM audit").await;
        app.advance(days(9));
        assert_eq!(purged(&app).await["audit"], 0);
        app.seed_import(&connector, &["u-2"]).await;
        app.advance(days(2));
        assert_eq!(purged(&app).await["audit"], json!(before));
        assert_eq!(app.audit("").await.len(), 1);
    }

    async fn the_numbers_say_how_it_stands(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1", "u-2", "u-3"]).await;
        app.operator().delete(&format!("/v1/connections/{}", seeded[2].connection_id)).await.expect(200).done();
        app.advance(Duration::from_secs(3_500));
        app.run(Work::Measure).await;
        assert_eq!(metric(&app, "valetkey_refresh_due ").await, Some(2.0));
        assert_eq!(metric(&app, "valetkey_refresh_overdue ").await, Some(2.0));
        assert!(metric(&app, "valetkey_refresh_lag_seconds ").await > Some(200.0));
        let labels = "{provider=\"oauth2\",status=\"active\"} ";
        assert_eq!(metric(&app, &format!("valetkey_connections{labels}")).await, Some(2.0));
        assert_eq!(metric(&app, "valetkey_revocations{state=\"queued\"} ").await, Some(2.0));

        app.run(Work::Refresh).await;
        app.run(Work::Deliver).await;
        app.run(Work::Measure).await;
        assert_eq!(metric(&app, "valetkey_refresh_due ").await, Some(0.0));
        assert_eq!(metric(&app, "valetkey_refresh_lag_seconds ").await, Some(0.0));
        assert_eq!(metric(&app, "valetkey_revocations{state=\"confirmed\"} ").await, Some(2.0));
        assert_eq!(metric(&app, "valetkey_revocations_ended_total{state=\"confirmed\"} ").await, Some(2.0));
        let labels = "{provider=\"oauth2\",outcome=\"granted\",trigger=\"early\"} ";
        assert_eq!(metric(&app, &format!("valetkey_refresh_attempts_total{labels}")).await, Some(2.0));

        app.fetch(&connector, "u-1").await.expect(200).done();
        app.fetch(&connector, "nobody").await.expect_problem(404, "connection-not-found").done();
        assert_eq!(metric(&app, "valetkey_token_calls_total{outcome=\"issued\"} ").await, Some(1.0));
        assert_eq!(metric(&app, "valetkey_token_calls_total{outcome=\"connection_not_found\"} ").await, Some(1.0));
    }

    async fn a_due_connection_that_was_claimed_by_a_dead_process_is_due_again(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        app.advance_to_due(&seeded[0].connection_id).await;
        // As if a process had claimed it and died before it recorded an attempt.
        let claimed = app.clock.now().plus(Duration::from_secs(50)).as_millis();
        app.execute(&format!("UPDATE due SET due_at = {claimed}")).await;
        app.run(Work::Refresh).await;
        assert_eq!(app.refreshes(&connector).len(), 0);
        app.advance(Duration::from_secs(51));
        app.run(Work::Refresh).await;
        assert_eq!(app.refreshes(&connector).len(), 1);
    }

    async fn one_client_is_not_flooded(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.refresh.per_second_and_connector = 5),
    ) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let other = app.connector(ConnectorSpec::oauth2()).await;
        let users: Vec<String> = (0..20).map(|number| format!("u-{number}")).collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        app.seed_import(&connector, &users).await;
        app.seed_import(&other, &["u-1"]).await;
        app.advance(Duration::from_secs(3_400));
        app.run(Work::Refresh).await;
        let first = app.refreshes(&connector).len();
        assert!((5..=8).contains(&first), "{first} in one go");
        assert_eq!(app.refreshes(&other).len(), 1, "another client has its own budget");
        for _ in 0..8 {
            app.advance(Duration::from_secs(1));
            app.run(Work::Refresh).await;
        }
        assert_eq!(app.refreshes(&connector).len(), 20, "and all get their turn");
    }

    async fn work_that_finds_nothing_to_do_does_nothing(app: TestApp) {
        for work in Work::ALL {
            let report = app.run(work).await;
            assert!(report.is_empty() || work == Work::Purge, "{work:?}: {report}");
        }
        assert_eq!(app.provider().counters().token_requests, 0);
        let healthy = app.anonymous().get("/health/ready").await.expect(200);
        assert_eq!(text_of(&healthy.json["status"]), "ok");
    }
}
