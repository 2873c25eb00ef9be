//! The restore guard: a database that may be a restored or a copied one spends nothing until an operator has looked.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use valetkey_core::{Actor, Timestamp};
use valetkey_suite::{
    Answer, ConnectorSpec, Engine, Seeded, Setup, TestApp, TestConnector, Work, engine_tests,
    extra::{run_at, text_of},
    sandbox::Rotation,
};

/// How often the epoch rises, and a moment more.
const BEAT: Duration = Duration::from_secs(61);

/// What a refresh writes: these tables are taken back together.
const TABLES: [&str; 4] = ["guard", "connections", "due", "attempts"];

/// A witness beside the other files, on both engines.
fn witnessed(setup: Setup) -> Setup {
    setup.config(|config| config.guard.witness_dir = Some(config.data_dir.clone()))
}

async fn back_up(app: &TestApp) {
    for table in TABLES {
        app.execute(&format!("CREATE TABLE backup_{table} AS SELECT * FROM {table}")).await;
    }
}

/// Stops the server, puts the database back to where the backup was made, and starts it again.
async fn restore(app: &mut TestApp) {
    app.stop().await;
    put_back(app).await;
    app.restart().await;
}

async fn put_back(app: &TestApp) {
    for table in TABLES {
        let statements =
            format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM backup_{table}; DROP TABLE backup_{table}");
        app.execute(&statements).await;
    }
}

async fn epoch(app: &TestApp) -> i64 {
    app.number("SELECT epoch FROM guard").await
}

/// What the witness says now.
fn witnessed_epoch(app: &TestApp) -> i64 {
    let text = fs::read_to_string(app.data_dir().join("witness.json")).expect("a witness");
    let written: Value = serde_json::from_str(&text).expect("a whole one");
    written["epoch"].as_i64().expect("an epoch")
}

/// Waits for what the server does by itself, in real time.
async fn until(holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "it did not come to pass");
}

/// The hold as `/health/ready` shows it to everybody.
async fn shown(app: &TestApp) -> Value {
    let ready = app.anonymous().get("/health/ready").await.expect(200);
    assert_eq!(ready.json["status"], "ok", "it serves what it may");
    ready.json["hold"].clone()
}

async fn begin(app: &TestApp) {
    app.broker().begin_hold(&Actor::CommandLine, Some("a copy")).await.expect("a hold");
}

async fn release(app: &TestApp) {
    assert!(app.broker().release_hold(&Actor::CommandLine).await.expect("an answer").is_some());
}

async fn gauge(app: &TestApp) -> bool {
    app.anonymous().get("/metrics").await.expect(200).text.lines().any(|line| line == "valetkey_hold 1")
}

fn is_held(answer: Answer) {
    let held = answer.expect_problem(503, "provider-unavailable");
    assert_eq!(held.json["reason"], "hold", "{}", held.text);
    assert!(held.json["detail"].as_str().is_some_and(|detail| detail.contains("hold")), "{}", held.text);
    assert_eq!(held.retry_after(), 60);
}

async fn one(app: &TestApp, rotation: Rotation) -> (TestConnector, Seeded) {
    let connector = app.connector(ConnectorSpec::oauth2().rotation(rotation)).await;
    let seeded = app.seed_import(&connector, &["u-1"]).await.remove(0);
    (connector, seeded)
}

async fn generation(app: &TestApp, seeded: &Seeded) -> Value {
    app.connection(&seeded.connection_id).await["generation"].clone()
}

engine_tests! {
    async fn a_restored_database_serves_what_it_has_and_spends_nothing(app: TestApp, setup = witnessed) {
        let mut app = app;
        let (connector, seeded) = one(&app, Rotation::Strict).await;
        back_up(&app).await;
        app.advance_to_due(&seeded.connection_id).await;
        app.run(Work::Refresh).await;
        assert_eq!(generation(&app, &seeded).await, 2);
        restore(&mut app).await;
        assert_eq!(generation(&app, &seeded).await, 1, "the spent refresh token is back");
        let hold = shown(&app).await;
        assert_eq!(hold["reason"], "behind_witness");
        assert!(Timestamp::from_rfc3339(&text_of(&hold["since"])).is_some(), "{hold}");
        assert!(gauge(&app).await);

        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 1);
        app.run(Work::Refresh).await;
        app.advance_to_expiry(&seeded.connection_id).await;
        app.run(Work::Refresh).await;
        is_held(app.fetch(&connector, "u-1").await);
        assert_eq!(app.refreshes(&connector).len(), 1, "nothing was presented twice");
        let connection = app.connection(&seeded.connection_id).await;
        assert_eq!((&connection["status"], &connection["refreshing"]), (&json!("active"), &json!("ok")));
        let begun = app.audit("action=hold.begun").await;
        assert_eq!(begun.len(), 1);
        assert_eq!((&begun[0]["actor"]["kind"], &begun[0]["detail"]["reason"]), (&json!("system"), &json!("behind_witness")));

        release(&app).await;
        assert_eq!(shown(&app).await, Value::Null);
        assert!(!gauge(&app).await);
        let released = app.audit("action=hold.released").await;
        assert_eq!(released[0]["actor"]["kind"], "command_line");
        // The operator was told: what the other copy has spent is lost to this one.
        app.fetch(&connector, "u-1").await.expect_problem(409, "reconnect-required").done();
    }

    async fn one_decision_is_enough_and_an_ordinary_restart_is_none(app: TestApp, setup = witnessed) {
        let mut app = app;
        for _ in 0..3 {
            app.restart().await;
            assert_eq!(shown(&app).await, Value::Null);
        }
        back_up(&app).await;
        for _ in 0..3 {
            app.restart().await;
        }
        restore(&mut app).await;
        assert_eq!(shown(&app).await["reason"], "behind_witness");
        app.restart().await;
        assert_eq!(shown(&app).await["reason"], "behind_witness", "a restart is no decision");
        release(&app).await;
        app.restart().await;
        assert_eq!(shown(&app).await, Value::Null);
        assert_eq!(app.audit("action=hold.begun").await.len(), 1);
    }

    async fn a_restore_right_after_the_stop_is_recognised(app: TestApp, setup = witnessed) {
        let mut app = app;
        back_up(&app).await;
        // No minute went by: the stop itself raised the epoch.
        restore(&mut app).await;
        assert_eq!(shown(&app).await["reason"], "behind_witness");
    }

    async fn a_live_server_raises_the_epoch_and_its_witness_every_minute(app: TestApp, setup = witnessed) {
        for _ in 0..2 {
            let (epoch, seen) = (epoch(&app).await, witnessed_epoch(&app));
            assert_eq!(epoch, seen);
            app.advance(BEAT);
            until(async || witnessed_epoch(&app) == seen + 1).await;
            assert_eq!(self::epoch(&app).await, epoch + 1, "the database first, and once");
        }
        assert_eq!(shown(&app).await, Value::Null);
    }

    async fn a_database_that_goes_back_under_a_live_server_is_held_within_a_minute(app: TestApp, setup = witnessed) {
        let (connector, seeded) = one(&app, Rotation::Strict).await;
        back_up(&app).await;
        let seen = witnessed_epoch(&app);
        app.advance(BEAT);
        until(async || witnessed_epoch(&app) == seen + 1).await;
        put_back(&app).await;
        assert_eq!(shown(&app).await, Value::Null, "nobody has looked yet");
        app.advance(BEAT);
        until(async || shown(&app).await["reason"] == "behind_witness").await;
        app.advance_to_expiry(&seeded.connection_id).await;
        is_held(app.fetch(&connector, "u-1").await);
        assert_eq!(app.refreshes(&connector).len(), 0);
        assert_eq!(app.audit("action=hold.begun").await.len(), 1);
    }

    async fn a_witness_of_another_instance_or_an_unreadable_one_holds(app: TestApp, setup = witnessed) {
        let mut app = app;
        let path = app.data_dir().join("witness.json");
        for (text, reason) in [
            (r#"{"version":1,"instance":"another","epoch":1}"#, "foreign_witness"),
            ("damaged", "unreadable_witness"),
        ] {
            app.stop().await;
            fs::write(&path, text).expect("written");
            app.restart().await;
            assert_eq!(shown(&app).await["reason"], reason);
            release(&app).await;
            app.restart().await;
            assert_eq!(shown(&app).await, Value::Null, "the witness was written anew");
        }
    }

    async fn without_a_place_for_a_witness_nothing_is_recognised_and_nothing_held(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.guard.witness_dir = None),
    ) {
        let mut app = app;
        back_up(&app).await;
        app.restart().await;
        restore(&mut app).await;
        assert_eq!(shown(&app).await, Value::Null);
        assert!(!app.data_dir().join("witness.json").exists());
    }

    async fn only_what_can_be_presented_twice_is_refreshed(app: TestApp) {
        let spec = ConnectorSpec::oauth2().client_credentials();
        let client = app.connector(spec).await;
        app.fetch(&client, "").await.expect(200).done();
        let classes = [
            (Rotation::NonRotating, true),
            (Rotation::SoftUntilSuccessorUsed, true),
            (Rotation::Grace { seconds: 600 }, false),
            (Rotation::Strict, false),
            (Rotation::StrictWide, false),
        ];
        let mut all = Vec::new();
        for (rotation, goes_on) in classes {
            let (connector, seeded) = one(&app, rotation).await;
            all.push((rotation, goes_on, connector, seeded));
        }
        begin(&app).await;
        app.advance(Duration::from_secs(3_500));
        app.run(Work::Refresh).await;
        for (rotation, goes_on, connector, seeded) in &all {
            let expected = if *goes_on { 2 } else { 1 };
            assert_eq!(generation(&app, seeded).await, expected, "{rotation:?}");
            assert_eq!(app.refreshes(connector).len(), expected - 1, "{rotation:?}");
        }
        app.advance(Duration::from_secs(3_601));
        for (rotation, goes_on, connector, _) in &all {
            let answer = app.fetch(connector, "u-1").await;
            if *goes_on {
                assert_eq!(answer.expect(200).json["generation"], 3, "{rotation:?}");
            } else {
                is_held(answer);
            }
        }
        assert!(app.fetch(&client, "").await.expect(200).json["generation"].as_i64() >= Some(2));
        let report = app.broker().hold_report().await.expect("a report");
        let waiting: Vec<_> = report.classes.iter().filter(|class| class.waits).map(|class| class.class).collect();
        assert_eq!(waiting, ["G", "X", "W"]);
        assert!(report.classes.iter().all(|class| class.connections >= 1 && (!class.waits || class.due == 1)), "{report:?}");

        release(&app).await;
        app.run(Work::Refresh).await;
        for (rotation, _, _, seeded) in &all {
            assert!(generation(&app, seeded).await.as_i64() >= Some(2), "{rotation:?} is due at once");
        }
    }

    async fn a_rejected_token_waits_too(app: TestApp) {
        let (connector, _) = one(&app, Rotation::Strict).await;
        let first = app.fetch(&connector, "u-1").await.expect(200);
        begin(&app).await;
        is_held(app.fetch_with(&connector, "u-1", json!({ "rejected": first.json["fingerprint"] })).await);
        app.fetch(&connector, "u-1").await.expect(200).done();
        assert_eq!(app.refreshes(&connector).len(), 0);
    }

    async fn no_provider_is_told_of_a_revocation(app: TestApp) {
        let (connector, seeded) = one(&app, Rotation::NonRotating).await;
        begin(&app).await;
        app.operator().delete(&format!("/v1/connections/{}", seeded.connection_id)).await.expect(200).done();
        app.fetch(&connector, "u-1").await.expect_problem(404, "connection-not-found").done();
        for _ in 0..3 {
            app.run(Work::Deliver).await;
            app.advance(Duration::from_secs(3_600));
        }
        assert_eq!(app.revocations_seen(&connector).len(), 0);
        assert_eq!(app.broker().hold_report().await.expect("a report").revocations, 2);
        release(&app).await;
        app.settle().await;
        assert_eq!(app.revocations_seen(&connector).len(), 2);
        assert_eq!(app.connection(&seeded.connection_id).await["status"], "revoked");
    }

    async fn nothing_is_purged_for_want_of_use(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let seeded = app
            .seed_import_with(&connector, &["u-1"], |_, line| {
                line["refresh_token"] = Value::Null;
                line["expires_at"] = Value::Null;
            })
            .await;
        begin(&app).await;
        app.advance(Duration::from_secs(100 * 86_400));
        app.run(Work::Purge).await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["status"], "active");
        release(&app).await;
        app.run(Work::Purge).await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["status"], "revoking");
    }

    async fn an_attempt_that_was_restored_with_it_is_decided_afterwards(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::StrictWide)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        app.seed_import_with(&connector, &["u-1"], |_, line| line["label"] = json!("second")).await;
        let (id, now) = (&seeded[0].connection_id, app.clock.now().as_millis());
        app.execute(&format!(
            "INSERT INTO attempts (connection_id, generation, id, state, send_no, holder, lease_until, next_try_at, \
             first_sent_at, fingerprint, created_at, updated_at) \
             VALUES ('{id}', 1, 'att_06bc4jq1v81hf0c9q2m8r5vk3o', 'sent', 1, 'dead', {now}, 0, {now}, 'x', {now}, {now})"
        ))
        .await;
        begin(&app).await;
        app.advance(Duration::from_secs(60));
        app.run(Work::Recover).await;
        assert_eq!(app.connection(id).await["status"], "active");
        release(&app).await;
        app.run(Work::Recover).await;
        assert_eq!(app.connection(id).await["needs_reauth"]["reason"], "unknown_outcome");
    }

    async fn people_can_connect_again_during_a_hold(app: TestApp) {
        let (connector, seeded) = one(&app, Rotation::Strict).await;
        begin(&app).await;
        app.advance_to_expiry(&seeded.connection_id).await;
        is_held(app.fetch(&connector, "u-1").await);
        app.connect_user(&connector, "u-1").await;
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 2);
    }

    async fn every_replica_holds(app: TestApp) {
        if app.engine() == Engine::Sqlite {
            return;
        }
        let (connector, seeded) = one(&app, Rotation::Strict).await;
        let other = app.replica().await;
        begin(&app).await;
        app.advance_to_expiry(&seeded.connection_id).await;
        run_at(&other, Work::Refresh).await;
        let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
        is_held(app.caller_at(&other, &key).post(&connector.path("/token"), &json!({ "user_id": "u-1" })).await);
        assert_eq!(app.refreshes(&connector).len(), 0);
        // And one of them is told that it is over.
        other.broker().release_hold(&Actor::CommandLine).await.expect("released");
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 2);
        other.stop().await;
    }

    async fn a_hold_cannot_be_reached_over_the_network(app: TestApp) {
        let admin = app.admin();
        admin.get("/v1/hold").await.expect_problem(404, "not-found").done();
        admin.post("/v1/hold", &json!({})).await.expect_problem(404, "not-found").done();
        admin.delete("/v1/hold").await.expect_problem(404, "not-found").done();
    }
}
