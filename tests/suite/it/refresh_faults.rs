//! A provider that fails: no connection dies of it, and no valid token is withheld.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use valetkey_suite::{
    ConnectorSpec, Seeded, TestApp, TestConnector, Work, engine_tests,
    extra::Doomed,
    sandbox::{Commit, ExpiresIn, Fault, FaultRule, Outage, RetryAfter, Rotation},
};

/// Answers after which nobody knows what the provider did, and what they are called.
fn unknown(app: &TestApp) -> Vec<(Fault, &'static str)> {
    let status = |code| Fault::Status { code, body: "out of order".to_owned(), headers: BTreeMap::new() };
    vec![
        (status(500), "server_error"),
        (status(502), "server_error"),
        (status(503), "server_error"),
        (status(408), "server_error"),
        (Fault::OAuthError { status: 400, error: "temporarily_unavailable".to_owned() }, "server_error"),
        (Fault::ErrorInside200 { error: "server_error".to_owned() }, "server_error"),
        (Fault::ResetBeforeAnswer, "connection_lost"),
        (Fault::TruncatedBody, "truncated"),
        (Fault::OversizedBody { bytes: 70_000 }, "too_large"),
        (Fault::EndlessBody, "too_large"),
        (Fault::NotJson, "unreadable"),
        (Fault::RedirectTo { url: format!("{}/token", app.provider_url()) }, "redirect"),
        (Fault::Status { code: 200, body: "{}".to_owned(), headers: BTreeMap::new() }, "no_access_token"),
        (Fault::Status { code: 400, body: "{}".to_owned(), headers: BTreeMap::new() }, "no_error_code"),
    ]
}

/// Answers that say for sure that nothing was processed.
fn refused() -> Vec<(Fault, &'static str)> {
    let error = |error: &str| Fault::OAuthError { status: 400, error: error.to_owned() };
    vec![
        (error("invalid_request"), "invalid_request"),
        (error("invalid_scope"), "invalid_scope"),
        (error("unsupported_grant_type"), "unsupported_grant_type"),
        (error("a_word_of_their_own"), "other_error"),
        (Fault::Status { code: 404, body: "gone".to_owned(), headers: BTreeMap::new() }, "endpoint_refused"),
    ]
}

async fn connections(app: &TestApp, rotation: Rotation, count: usize) -> (TestConnector, Vec<Seeded>) {
    let connector = app.connector(ConnectorSpec::oauth2().rotation(rotation)).await;
    let users: Vec<String> = (0..count).map(|number| format!("u-{number}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let seeded = app.seed_import(&connector, &users).await;
    (connector, seeded)
}

/// Each fault meets a connection of its own: first while its token is valid, then when it has ended, then never again.
async fn survives(app: &TestApp, faults: Vec<(Fault, &str)>) {
    let (connector, seeded) = connections(app, Rotation::NonRotating, faults.len()).await;
    app.advance(Duration::from_secs(3_545));
    for ((fault, code), seeded) in faults.iter().zip(&seeded) {
        app.provider().inject(FaultRule::refresh(fault.clone()).grant(&seeded.grant).times(2));
        let asked = app.refreshes(&connector).len();
        let answer = app.fetch(&connector, &seeded.user).await.expect(200);
        assert_eq!(answer.json["access_token"], seeded.access_token.as_str(), "{code}: the valid token is handed out");
        assert!(answer.json["expires_in"].as_u64() <= Some(55), "{code}: {}", answer.text);
        assert_eq!(app.refreshes(&connector).len(), asked + 1, "{code}: one request, not repeated and not redirected");
        let connection = app.connection(&seeded.connection_id).await;
        assert_eq!(connection["status"], "active", "{code}");
        assert_eq!(connection["refreshing"], "failing", "{code}");
        assert_eq!(connection["last_attempt"]["outcome"], *code);
    }
    app.advance(Duration::from_secs(60));
    for ((_, code), seeded) in faults.iter().zip(&seeded) {
        app.fetch(&connector, &seeded.user).await.expect_problem(503, "provider-unavailable").done();
        assert_eq!(app.connection(&seeded.connection_id).await["status"], "active", "{code}");
    }
    app.advance(Duration::from_secs(10));
    for ((_, code), seeded) in faults.iter().zip(&seeded) {
        let answer = app.fetch(&connector, &seeded.user).await.expect(200);
        assert_eq!(answer.json["generation"], 2, "{code}");
        let connection = app.connection(&seeded.connection_id).await;
        assert_eq!(
            (&connection["refreshing"], &connection["last_attempt"]["outcome"]),
            (&json!("ok"), &json!("settled"))
        );
    }
}

engine_tests! {
    async fn no_connection_dies_of_an_answer_that_leaves_the_outcome_open(app: TestApp) {
        let faults = unknown(&app);
        survives(&app, faults).await;
    }

    async fn no_connection_dies_of_an_error_that_is_not_about_the_grant(app: TestApp) {
        survives(&app, refused()).await;
    }

    async fn a_provider_that_never_answers_is_given_up_in_time(app: TestApp) {
        let mut app = app;
        let (connector, seeded) = connections(&app, Rotation::NonRotating, 1).await;
        let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
        let first = app.fetch(&connector, "u-0").await.expect(200);
        app.provider().inject(FaultRule::refresh(Fault::Hang));
        app.provider().inject(FaultRule::refresh(Fault::SlowBody { ms_per_chunk: 100 }));
        app.stop().await;
        let impatient = Doomed::impatient(&app, Duration::from_millis(300)).await;
        let client = impatient.caller(&key);
        let rejected = json!({ "user_id": "u-0", "rejected": first.json["fingerprint"] });
        client.post(&connector.path("/token"), &rejected).await.expect_problem(503, "provider-unavailable").done();
        impatient.kill().await;
        app.restart().await;
        let connection = app.connection(&seeded[0].connection_id).await;
        assert_eq!((&connection["status"], &connection["last_attempt"]["outcome"]), (&json!("active"), &json!("timeout")));
        app.provider().clear_faults();
        app.advance(Duration::from_secs(10));
        app.run(Work::Refresh).await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["generation"], 2);
    }

    async fn a_provider_that_is_not_there_was_not_asked(app: TestApp) {
        // Strict, where an unknown outcome would have to wait for the token's last tenth.
        let connector = app
            .connector(ConnectorSpec::oauth2().rotation(Rotation::Strict).with("endpoints", json!({
                "authorization": "http://127.0.0.1:1/authorize", "token": "http://127.0.0.1:1/token",
            })))
            .await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        app.advance_to_due(&seeded[0].connection_id).await;
        app.run(Work::Refresh).await;
        let connection = app.connection(&seeded[0].connection_id).await;
        assert_eq!(connection["last_attempt"]["outcome"], "connect_failed");
        assert_eq!(app.number("SELECT COUNT(*) FROM attempts WHERE state = 'unsent'").await, 1);
        app.fetch(&connector, "u-1").await.expect(200).done();
    }

    async fn the_whole_provider_may_be_away_and_come_back(app: TestApp) {
        let (connector, _) = connections(&app, Rotation::NonRotating, 3).await;
        app.advance(Duration::from_secs(3_300));
        for outage in [Outage::Unavailable, Outage::Drop] {
            app.provider().set_outage(outage);
            for _ in 0..5 {
                app.run(Work::Refresh).await;
                app.advance(Duration::from_secs(20));
            }
            app.fetch(&connector, "u-0").await.expect(200).done();
        }
        app.provider().set_outage(Outage::None);
        for _ in 0..8 {
            app.advance(Duration::from_secs(120));
            app.run(Work::Refresh).await;
        }
        for user in ["u-0", "u-1", "u-2"] {
            let answer = app.fetch(&connector, user).await.expect(200);
            assert_eq!(answer.json["generation"], 2);
        }
    }

    async fn failed_refreshes_are_repeated_ever_more_seldom(app: TestApp) {
        let (connector, _) = connections(&app, Rotation::NonRotating, 1).await;
        app.provider().set_outage(Outage::Unavailable);
        app.advance(Duration::from_secs(3_600));
        // An hour of trouble, looked at every second: a handful of requests.
        for _ in 0..360 {
            app.run(Work::Refresh).await;
            app.advance(Duration::from_secs(10));
        }
        let asked = app.provider().counters().token_requests;
        assert!((8..=20).contains(&asked), "{asked} requests in an hour");
        drop(connector);
    }

    async fn a_wait_in_seconds_that_the_provider_asks_for_is_honoured(app: TestApp) {
        honours(&app, Fault::RateLimited { retry_after: RetryAfter::Seconds(120) }, 115..=120).await;
    }

    async fn a_wait_until_a_date_that_the_provider_asks_for_is_honoured(app: TestApp) {
        honours(&app, Fault::RateLimited { retry_after: RetryAfter::DateIn(120) }, 115..=120).await;
    }

    async fn a_provider_that_limits_without_saying_how_long_is_left_alone_for_a_moment(app: TestApp) {
        honours(&app, Fault::RateLimited { retry_after: RetryAfter::Absent }, 1..=3).await;
    }

    async fn a_wait_that_makes_no_sense_is_not_believed(app: TestApp) {
        let retry_after = RetryAfter::Text("soon".to_owned());
        honours(&app, Fault::RateLimited { retry_after }, 1..=3).await;
    }

    async fn a_provider_that_is_away_is_left_alone_for_as_long_as_it_says(app: TestApp) {
        honours(&app, Fault::Unavailable { retry_after: RetryAfter::Seconds(120) }, 115..=120).await;
        honours(&app, Fault::Unavailable { retry_after: RetryAfter::DateIn(120) }, 115..=120).await;
    }

    async fn a_dead_grant_ends_its_connection_and_no_other(app: TestApp) {
        let (connector, seeded) = connections(&app, Rotation::Strict, 2).await;
        assert!(app.provider().revoke_grant_by_user(&seeded[0].grant));
        app.advance(Duration::from_secs(3_601));
        let dead = app.fetch(&connector, "u-0").await.expect_problem(409, "reconnect-required");
        assert_eq!(dead.json["reason"], "grant_revoked");
        assert!(dead.json["since"].is_string() && dead.json.get("start").is_none(), "{}", dead.text);
        app.fetch(&connector, "u-1").await.expect(200).done();
        let asked = app.refreshes(&connector).len();
        for _ in 0..3 {
            app.fetch(&connector, "u-0").await.expect_problem(409, "reconnect-required").done();
            app.advance(Duration::from_secs(600));
            app.run(Work::Refresh).await;
        }
        assert_eq!(app.refreshes(&connector).iter().filter(|event| event.user.as_deref() == Some("u-0")).count(), 1);
        assert!(asked >= 2);
        let connection = app.connection(&seeded[0].connection_id).await;
        assert_eq!((&connection["status"], &connection["refresh_due_at"]), (&json!("needs_reauth"), &Value::Null));
    }

    async fn a_dead_grant_is_known_by_any_status_and_inside_a_success(app: TestApp) {
        let (connector, seeded) = connections(&app, Rotation::Strict, 3).await;
        let dead = |status| Fault::OAuthError { status, error: "invalid_grant".to_owned() };
        let faults = [dead(401), dead(403), Fault::ErrorInside200 { error: "invalid_grant".to_owned() }];
        app.advance(Duration::from_secs(3_601));
        for (fault, seeded) in faults.into_iter().zip(&seeded) {
            app.provider().inject(FaultRule::refresh(fault).grant(&seeded.grant));
            app.fetch(&connector, &seeded.user).await.expect_problem(409, "reconnect-required").done();
        }
    }

    async fn a_caller_who_may_start_flows_gets_one_with_the_refusal(app: TestApp) {
        let (connector, seeded) = connections(&app, Rotation::Strict, 1).await;
        app.provider().revoke_grant_by_user(&seeded[0].grant);
        app.advance(Duration::from_secs(3_601));
        let both = app.key(&["connector", "app"], Some(&[&connector.id]), "default").await;
        let start = json!({ "mode": "redirect", "return_url": valetkey_suite::RETURN_URL });
        let body = json!({ "user_id": "u-0", "start": start });
        let refused = both.post(&connector.path("/token"), &body).await.expect_problem(409, "reconnect-required");
        let offered = refused.json["start"]["start_url"].as_str().expect("a link").to_owned();
        let home = app.browser("u-0").walk(&offered).await;
        app.finish(&connector, &home, "u-0").await.expect(200).done();
        assert_eq!(both.post(&connector.path("/token"), &body).await.expect(200).json["generation"], 2);
        // A key that only fetches tokens gets the refusal alone.
        app.provider().revoke_grants_by_user(&connector.client_id, "u-0");
        app.advance(Duration::from_secs(3_601));
        let alone = app.fetch_with(&connector, "u-0", json!({ "start": start })).await;
        assert_eq!(alone.expect_problem(409, "reconnect-required").json.get("start"), None);
    }

    async fn a_valid_token_is_handed_out_while_refreshes_fail(app: TestApp) {
        let (connector, seeded) = connections(&app, Rotation::NonRotating, 1).await;
        app.advance_to_due(&seeded[0].connection_id).await;
        app.provider().set_down(true);
        let mut before = 3_600;
        for _ in 0..3 {
            app.run(Work::Refresh).await;
            let answer = app.fetch(&connector, "u-0").await.expect(200);
            let left = answer.json["expires_in"].as_u64().expect("seconds");
            assert!(left < before, "honest: {left} after {before}");
            before = left;
            app.advance(Duration::from_secs(100));
        }
        app.advance_to_expiry(&seeded[0].connection_id).await;
        app.fetch(&connector, "u-0").await.expect_problem(503, "provider-unavailable").done();
    }

    async fn an_answer_that_names_no_life_is_served_until_it_is_rejected(app: TestApp) {
        for expires_in in [ExpiresIn::Absent, ExpiresIn::Null, ExpiresIn::Zero, ExpiresIn::Negative] {
            let spec = ConnectorSpec::oauth2().rotation(Rotation::Strict).client(|client| client.expires_in = expires_in);
            let connector = app.connector(spec).await;
            let connection = app.connect_user(&connector, "u-1").await;
            assert_eq!(connection["expires_at"], Value::Null, "{expires_in:?}");
            app.advance(Duration::from_secs(7_200));
            app.run(Work::Refresh).await;
            let answer = app.fetch(&connector, "u-1").await.expect(200);
            assert_eq!((&answer.json["expires_in"], &answer.json["generation"]), (&Value::Null, &json!(1)));
            let rejected = json!({ "rejected": answer.json["fingerprint"] });
            let newer = app.fetch_with(&connector, "u-1", rejected).await.expect(200);
            assert_eq!((&newer.json["expires_in"], &newer.json["generation"]), (&Value::Null, &json!(2)));
        }
    }

    async fn a_life_may_be_a_text_and_is_never_longer_than_ten_years(app: TestApp) {
        for (expires_in, most) in [(ExpiresIn::Text, 3_600), (ExpiresIn::Huge, 315_360_000)] {
            let spec = ConnectorSpec::oauth2().rotation(Rotation::Strict).client(|client| client.expires_in = expires_in);
            let connector = app.connector(spec).await;
            app.connect_user(&connector, "u-1").await;
            let left = app.fetch(&connector, "u-1").await.expect(200).json["expires_in"].as_u64().expect("seconds");
            assert!(left <= most && left > most - 60, "{expires_in:?}: {left}");
        }
    }

    async fn a_success_without_a_refresh_token_keeps_the_old_one(app: TestApp) {
        let (connector, seeded) = connections(&app, Rotation::Soft, 1).await;
        let id = &seeded[0].connection_id;
        app.provider().inject(FaultRule::refresh(Fault::WithoutRefreshToken));
        for generation in 2..=3 {
            app.advance_to_due(id).await;
            app.run(Work::Refresh).await;
            assert_eq!(app.connection(id).await["generation"], generation);
        }
        let events = app.refreshes(&connector);
        assert_eq!(events[0].presented, events[1].presented);
    }

    async fn odd_answers_are_understood(app: TestApp) {
        let (connector, seeded) = connections(&app, Rotation::Strict, 3).await;
        let faults = [Fault::FormEncoded, Fault::MissingTokenType, Fault::DuplicateKeys];
        app.advance(Duration::from_secs(3_601));
        for (fault, seeded) in faults.into_iter().zip(&seeded) {
            app.provider().inject(FaultRule::refresh(fault).grant(&seeded.grant));
            let answer = app.fetch(&connector, &seeded.user).await.expect(200);
            assert_eq!((&answer.json["token_type"], &answer.json["generation"]), (&json!("Bearer"), &json!(2)));
            assert!(app.provider().is_access_token_live(&answer.text_of("access_token")), "the real one, no decoy");
        }
    }

    async fn an_answer_that_was_cut_off_is_asked_for_again_where_that_is_harmless(app: TestApp) {
        let (connector, seeded) = connections(&app, Rotation::Soft, 1).await;
        // The provider rotated, and nobody heard it.
        app.provider().inject(FaultRule::refresh(Fault::ResetBeforeAnswer).commit(Commit::Before));
        app.advance(Duration::from_secs(3_601));
        app.fetch(&connector, "u-0").await.expect_problem(503, "provider-unavailable").done();
        app.advance(Duration::from_secs(5));
        app.run(Work::Refresh).await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["generation"], 2);
        assert_eq!(app.refreshes(&connector).len(), 2);
    }
}

/// A provider that asks for patience gets it from all connections of the connector, and none dies of it.
async fn honours(app: &TestApp, fault: Fault, wait: std::ops::RangeInclusive<u64>) {
    let (connector, seeded) = connections(app, Rotation::Strict, 2).await;
    app.advance(Duration::from_secs(3_601));
    app.provider().inject(FaultRule::refresh(fault).commit(Commit::Never));
    let limited = app.fetch(&connector, "u-0").await.expect_problem(503, "provider-unavailable");
    assert!(wait.contains(&limited.retry_after()), "{wait:?}: {}", limited.retry_after());
    // Its other connections are not tried either.
    let other = app.fetch(&connector, "u-1").await.expect_problem(503, "provider-unavailable");
    assert!(other.retry_after() <= *wait.end());
    app.run(Work::Refresh).await;
    assert_eq!(app.refreshes(&connector).len(), 1);
    for seeded in &seeded {
        assert_eq!(app.connection(&seeded.connection_id).await["status"], "active");
    }
    app.advance(Duration::from_secs(*wait.end() + 2));
    for user in ["u-0", "u-1"] {
        app.fetch(&connector, user).await.expect(200).done();
    }
}
