//! How fast, how early and how late: budgets, herds, windows, and clocks that differ.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use serde_json::json;
use valetkey_suite::{
    ConnectorSpec, Setup, TestApp, TestConnector, Work, engine_tests,
    extra::time_of,
    sandbox::{ExpiresIn, Fault, FaultRule, Rotation},
    witnessed,
};

/// The profiles of this folder: `sandbox-early`, `sandbox-idle`, `sandbox-late`.
fn with_profiles(setup: Setup) -> Setup {
    let profiles = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles"));
    setup.config(|config| config.providers_directory = Some(profiles))
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Connections of so many users whose tokens have one end.
async fn herd(app: &TestApp, count: usize) -> (TestConnector, Vec<String>) {
    let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
    let users: Vec<String> = (0..count).map(|number| format!("u-{number}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let seeded = app.seed_import(&connector, &users).await;
    (connector, seeded.into_iter().map(|each| each.connection_id).collect())
}

async fn refreshed(app: &TestApp, connector: &TestConnector) -> i64 {
    let counting = "SELECT COUNT(*) FROM connections WHERE generation = 2 AND connector_id";
    app.number(&format!("{counting} = '{}'", connector.id)).await
}

/// The value of a line of the metrics: its name with its labels.
async fn metric(app: &TestApp, line: &str) -> Option<f64> {
    let text = app.anonymous().get("/metrics").await.expect(200).text;
    text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

fn dated(date: &str) -> Fault {
    Fault::WithHeaders { headers: BTreeMap::from([("date".to_owned(), date.to_owned())]) }
}

engine_tests! {
    async fn a_herd_with_one_end_is_due_apart(app: TestApp) {
        let (_, ids) = herd(&app, 200).await;
        let mut due = BTreeSet::new();
        for id in &ids {
            due.insert(time_of(&app.connection(id).await["refresh_due_at"]).as_millis() / 1_000);
        }
        assert!(due.len() >= 100, "200 connections are due in {} seconds only", due.len());
        let span = due.last().unwrap_or(&0) - due.first().unwrap_or(&0);
        assert!((500..=740).contains(&span), "over {span} s");
    }

    async fn a_herd_that_is_due_at_once_is_paced_by_the_connectors_budget(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.refresh.per_second_and_connector = 20),
    ) {
        let (connector, _) = herd(&app, 200).await;
        let (other, _) = herd(&app, 10).await;
        app.advance(seconds(3_300));
        let start = app.clock.now();
        let mut rounds = 0;
        while refreshed(&app, &connector).await < 200 {
            app.run(Work::Refresh).await;
            let elapsed = app.clock.now().since(start).as_secs_f64();
            let asked = app.refreshes(&connector).len();
            // One budget of a second at once, and then twenty a second.
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let asked = asked as f64;
            assert!(asked <= 20.0 + 20.0 * elapsed + 1.0, "{asked} in {elapsed} s");
            if rounds == 0 {
                assert_eq!(refreshed(&app, &other).await, 10, "another connector is not held up");
            }
            rounds += 1;
            assert!(rounds <= 30, "{asked} after {rounds} rounds");
            app.advance(Duration::from_millis(1_000));
        }
        assert!(rounds >= 5, "{rounds} rounds only");
        assert_eq!(app.provider().counters().repeated_presentations, 0);
    }

    async fn no_more_refreshes_run_at_once_than_the_process_allows(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.refresh.concurrency = 3),
    ) {
        let (connector, _) = herd(&app, 12).await;
        app.advance(seconds(3_300));
        app.provider().inject(FaultRule::refresh(Fault::HoldUntilReleased { gate: "answer".to_owned() }).times(12));
        let due = app.run(Work::Refresh);
        let rest = async {
            assert!(app.provider().wait_until_held_count("answer", 3, seconds(15)).await);
            // A round of the database and of HTTP later there are no more.
            app.fetch(&connector, "u-0").await.expect(200).done();
            assert_eq!(app.refreshes(&connector).len(), 3);
            app.provider().release("answer");
        };
        tokio::join!(due, rest);
        assert_eq!(refreshed(&app, &connector).await, 12);
    }

    async fn a_provider_that_refuses_early_refreshes_is_not_asked_early(app: TestApp, setup = with_profiles) {
        let spec = ConnectorSpec::oauth2().rotation(Rotation::Strict).with("provider", json!("sandbox-early"));
        let connector = app.connector(spec).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let id = &seeded[0].connection_id;
        let connection = app.connection(id).await;
        let left = time_of(&connection["expires_at"]).since(time_of(&connection["refresh_due_at"])).as_secs();
        assert!(left <= 300, "due {left} s before the end");
        app.advance(seconds(3_000));
        // Callers that want more life, and callers whose token was rejected, get what there is.
        let early = app.fetch_with(&connector, "u-1", json!({ "min_ttl": 1_000 })).await.expect(200);
        assert_eq!(early.json["generation"], 1);
        let rejected = json!({ "rejected": early.json["fingerprint"] });
        app.fetch_with(&connector, "u-1", rejected).await.expect_problem(503, "provider-unavailable").done();
        app.run(Work::Refresh).await;
        assert_eq!(app.refreshes(&connector).len(), 0);
        assert_eq!(app.connection(id).await["refreshing"], "ok", "nothing failed");
        app.advance(seconds(305));
        assert_eq!(app.fetch_with(&connector, "u-1", json!({ "min_ttl": 1_000 })).await.expect(200).json["generation"], 2);
        app.advance_to_due(id).await;
        app.run(Work::Refresh).await;
        assert_eq!(app.connection(id).await["generation"], 3);
    }

    async fn where_a_refresh_ends_the_old_token_it_comes_in_the_last_twentieth(app: TestApp, setup = with_profiles) {
        let spec = ConnectorSpec::oauth2().rotation(Rotation::NonRotating).with("provider", json!("sandbox-late"));
        let spec = spec.client(|client| {
            client.access_dies_on_refresh = true;
            // The profile says what the answers do not.
            client.expires_in = ExpiresIn::Absent;
        });
        let connector = app.connector(spec).await;
        let id = app.connect_user(&connector, "u-1").await["id"].as_str().expect("an id").to_owned();
        for generation in 1..=3 {
            let connection = app.connection(&id).await;
            let end = time_of(&connection["expires_at"]);
            let left = end.since(time_of(&connection["refresh_due_at"])).as_secs();
            assert!((30..=180).contains(&left), "due {left} s before the end");
            let old = app.fetch(&connector, "u-1").await.expect(200);
            assert_eq!(old.json["generation"], generation);
            app.advance_to(end.minus(seconds(200)));
            app.run(Work::Refresh).await;
            assert!(app.provider().is_access_token_live(&old.text_of("access_token")), "it was not cut short");
            app.advance_to_due(&id).await;
            app.run(Work::Refresh).await;
            let new = app.fetch(&connector, "u-1").await.expect(200);
            assert!(!app.provider().is_access_token_live(&old.text_of("access_token")));
            assert!(app.provider().is_access_token_live(&new.text_of("access_token")), "the dead one is not served");
        }
    }

    async fn a_refresh_token_that_stays_ends_so_long_after_its_last_use(app: TestApp, setup = with_profiles) {
        let connector =
            app.connector(ConnectorSpec::oauth2().rotation(Rotation::NonRotating).with("provider", json!("sandbox-idle"))).await;
        let id = app.connect_user(&connector, "u-1").await["id"].as_str().expect("an id").to_owned();
        for generation in 2..=8 {
            app.advance(seconds(4 * 86_400));
            assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], generation);
            let left = time_of(&app.connection(&id).await["refresh_expires_at"]).since(app.clock.now());
            assert!((863_900..=864_000).contains(&left.as_secs()), "{left:?}");
        }
        app.advance(seconds(11 * 86_400));
        app.fetch(&connector, "u-1").await.expect_problem(409, "reconnect-required").done();
    }

    async fn a_life_is_counted_from_the_sending_by_our_clock(app: TestApp) {
        let (connector, ids) = herd(&app, 2).await;
        app.advance(seconds(3_601));
        // The answer takes four seconds to come, and its date is of another century.
        app.provider().inject(FaultRule::refresh(Fault::HoldUntilReleased { gate: "answer".to_owned() }));
        let sent = app.clock.now();
        let (token, ()) = tokio::join!(app.fetch(&connector, "u-0"), async {
            assert!(app.provider().wait_until_held("answer").await);
            app.advance(seconds(40));
            app.provider().release("answer");
        });
        token.expect(200).done();
        let life = time_of(&app.connection(&ids[0]).await["expires_at"]).since(sent).as_secs();
        assert!((3_600..3_620).contains(&life), "{life} s, forty of which are not there");
        app.provider().inject(FaultRule::refresh(dated("Fri, 31 Dec 2100 23:59:59 GMT")));
        let sent = app.clock.now();
        app.fetch(&connector, "u-1").await.expect(200).done();
        let life = time_of(&app.connection(&ids[1]).await["expires_at"]).since(sent).as_secs();
        assert!((3_600..3_620).contains(&life), "{life} s by our clock");
    }

    async fn a_provider_whose_clock_differs_is_noticed(app: TestApp) {
        let gauge = "valetkey_provider_clock_skew_seconds{provider=\"oauth2\"} ";
        let (connector, _) = herd(&app, 3).await;
        app.advance(seconds(3_601));
        app.run(Work::Measure).await;
        assert_eq!(metric(&app, gauge).await, None, "nobody was asked");
        app.fetch(&connector, "u-0").await.expect(200).done();
        app.run(Work::Measure).await;
        let agreeing = metric(&app, gauge).await.expect("measured");
        assert!(agreeing.abs() < 1.0, "{agreeing}");
        let told = format!("the clock of the provider of {} differs from ours", connector.id);
        assert!(!witnessed().contains(&told));

        app.provider().inject(FaultRule::refresh(dated("Sun, 06 Nov 1994 08:49:37 GMT")));
        app.fetch(&connector, "u-1").await.expect(200).done();
        app.run(Work::Measure).await;
        let behind = metric(&app, gauge).await.expect("measured");
        assert!(behind < -9e8, "{behind}");
        assert!(witnessed().contains(&told));

        app.fetch(&connector, "u-2").await.expect(200).done();
        app.run(Work::Measure).await;
        let again = metric(&app, gauge).await.expect("measured");
        assert!(again.abs() < 1.0, "{again}");
    }
}
