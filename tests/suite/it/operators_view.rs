//! What an operator sees of each connection and of each attempt.

use std::time::Duration;

use serde_json::{Value, json};
use valetkey_suite::{
    ConnectorSpec, TestApp, Work, engine_tests,
    extra::{items_of, text_of, time_of},
    sandbox::{Fault, FaultRule, Rotation},
    witnessed,
};

async fn ended(app: &TestApp, class: &str) -> f64 {
    let line = format!("valetkey_attempts_ended_total{{class=\"{class}\"}} ");
    let text = app.anonymous().get("/metrics").await.expect(200).text;
    let found = text.lines().find_map(|found| found.strip_prefix(&line)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("{line} is not there: {text}"))
}

/// The lines of the log that tell of an attempt for this connection.
fn attempts_logged(connection: &str) -> Vec<Value> {
    witnessed()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("[log] ")?).ok())
        .map(|line| line["fields"].clone())
        .filter(|fields| fields["connection.id"] == connection && fields["fingerprint"].is_string())
        .collect()
}

engine_tests! {
    async fn a_connection_shows_its_last_attempt_and_its_next(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let id = &seeded[0].connection_id;
        let before = app.connection(id).await;
        assert_eq!(before["last_attempt"], Value::Null);
        assert_eq!(before["next_try_at"], before["refresh_due_at"]);

        app.provider().inject(FaultRule::refresh(Fault::ResetBeforeAnswer));
        app.advance_to_due(id).await;
        app.run(Work::Refresh).await;
        let listed = items_of(&app.operator().get("/v1/connections?user_id=u-1").await.expect(200)).remove(0);
        assert_eq!(listed, app.connection(id).await);
        assert_eq!((&listed["refreshing"], &listed["last_attempt"]["outcome"]), (&json!("failing"), &json!("connection_lost")));
        assert!(time_of(&listed["last_attempt"]["at"]) <= app.clock.now());
        let next = time_of(&listed["next_try_at"]);
        assert!(next > app.clock.now(), "{listed}");

        app.advance_to(next);
        app.run(Work::Refresh).await;
        let after = app.connection(id).await;
        assert_eq!((&after["refreshing"], &after["last_attempt"]["outcome"]), (&json!("ok"), &json!("settled")));
        assert_eq!(after["next_try_at"], after["refresh_due_at"]);
    }

    async fn those_that_need_their_owner_are_listed_with_the_reason(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1", "u-2"]).await;
        app.provider().revoke_grant_by_user(&seeded[0].grant);
        app.advance(Duration::from_secs(3_500));
        app.run(Work::Refresh).await;
        for query in ["status=needs_reauth", "status=needs_reauth&reason=grant_revoked"] {
            let listed = items_of(&app.operator().get(&format!("/v1/connections?{query}")).await.expect(200));
            assert_eq!(listed.len(), 1, "{query}");
            assert_eq!(listed[0]["id"], seeded[0].connection_id.as_str());
            assert_eq!(listed[0]["needs_reauth"]["reason"], "grant_revoked");
            assert_eq!(listed[0]["next_try_at"], Value::Null);
            assert!(time_of(&listed[0]["needs_reauth"]["since"]) <= app.clock.now());
        }
        let other = app.operator().get("/v1/connections?status=needs_reauth&reason=unknown_outcome").await.expect(200);
        assert!(items_of(&other).is_empty());
    }

    async fn each_attempt_is_counted_by_class_and_logged_with_what_the_provider_logged(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let id = &seeded[0].connection_id;
        for class in ["settled", "not_sent", "limited", "unknown", "dead", "client", "refused", "unusable", "abandoned"] {
            assert!(ended(&app, class).await.abs() < 0.5, "{class} is there before anything happened");
        }
        app.advance_to_due(id).await;
        app.run(Work::Refresh).await;
        app.provider().inject(FaultRule::refresh(Fault::ResetBeforeAnswer));
        app.advance_to_due(id).await;
        app.run(Work::Refresh).await;
        app.advance_to(time_of(&app.connection(id).await["next_try_at"]));
        app.provider().revoke_grant_by_user(&seeded[0].grant);
        app.run(Work::Refresh).await;
        for class in ["settled", "unknown", "dead"] {
            assert!((ended(&app, class).await - 1.0).abs() < 0.5, "{class}");
        }

        let presented: Vec<_> = app.refreshes(&connector).into_iter().filter_map(|event| event.presented).collect();
        let logged = attempts_logged(id);
        let named: Vec<_> = logged.iter().map(|fields| text_of(&fields["fingerprint"])).collect();
        assert_eq!(named, presented, "the provider's log can be joined with ours");
        let classes: Vec<_> = logged.iter().map(|fields| text_of(&fields["class"])).collect();
        assert_eq!(classes, ["settled", "unknown", "dead"]);
        assert!(logged.iter().all(|fields| fields["attempt.id"].is_string() && fields["outcome"].is_string()));
    }
}
