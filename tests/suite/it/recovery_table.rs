//! The recovery table: what becomes of refreshes in flight when their process dies, by rotation class and by what the
//! provider did, when the next process starts and when another replica goes on.

use std::time::Duration;

use serde_json::{Value, json};
use valetkey_core::{AttemptId, SystemEntropy};
use valetkey_suite::{
    ConnectorSpec, Engine, Seeded, Setup, TestApp, TestConnector, Work, engine_tests,
    extra::{Doomed, run_at, time_of},
    run_test,
    sandbox::{Commit, Fault, FaultRule, Rotation},
};

/// Past the lease of an attempt, and of a claim of due work.
const LEASE: Duration = Duration::from_secs(51);

/// What the provider did with the request whose answer nobody heard.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Provider {
    Acted,
    NeverSawIt,
}

/// How it has to go on.
#[derive(Debug, Clone, Copy, PartialEq)]
enum GoesOn {
    /// Presented again at once, and accepted.
    Soon,
    /// Presented again in the last tenth of the access token's life, and accepted.
    Late,
    /// The same, and then the provider says that the grant is dead.
    LateAndDead,
    /// Never presented again.
    Stops,
}

/// A row of the table; a sibling is a second account of the same owner.
type Row = (Rotation, Provider, bool, GoesOn);

const TABLE: [Row; 15] = [
    (Rotation::NonRotating, Provider::Acted, true, GoesOn::Soon),
    (Rotation::NonRotating, Provider::NeverSawIt, true, GoesOn::Soon),
    (Rotation::Soft, Provider::Acted, true, GoesOn::Soon),
    (Rotation::Soft, Provider::NeverSawIt, true, GoesOn::Soon),
    (Rotation::SoftUntilSuccessorUsed, Provider::Acted, true, GoesOn::Soon),
    (Rotation::Grace { seconds: 3_000 }, Provider::Acted, true, GoesOn::Soon),
    (Rotation::Grace { seconds: 3_000 }, Provider::NeverSawIt, true, GoesOn::Soon),
    (Rotation::Grace { seconds: 30 }, Provider::Acted, true, GoesOn::LateAndDead),
    (Rotation::Grace { seconds: 30 }, Provider::NeverSawIt, true, GoesOn::Late),
    (Rotation::Strict, Provider::Acted, true, GoesOn::LateAndDead),
    (Rotation::Strict, Provider::NeverSawIt, true, GoesOn::Late),
    (Rotation::StrictWide, Provider::Acted, false, GoesOn::LateAndDead),
    (Rotation::StrictWide, Provider::NeverSawIt, false, GoesOn::Late),
    (Rotation::StrictWide, Provider::Acted, true, GoesOn::Stops),
    (Rotation::StrictWide, Provider::NeverSawIt, true, GoesOn::Stops),
];

/// A row with its connections.
struct Line {
    row: Row,
    connector: TestConnector,
    seeded: Seeded,
    sibling: Option<Seeded>,
    key: String,
    fingerprint: Value,
}

impl Line {
    fn told(&self) -> String {
        format!("{:?}", self.row)
    }
}

async fn lines(app: &TestApp) -> Vec<Line> {
    let mut lines = Vec::new();
    for row in TABLE {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(row.0)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await.remove(0);
        let mut sibling = None;
        if row.2 {
            let labelled = app.seed_import_with(&connector, &["u-1"], |_, line| line["label"] = json!("second"));
            sibling = Some(labelled.await.remove(0));
        }
        let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
        let fresh = app.caller(&key).post(&connector.path("/token"), &json!({ "user_id": "u-1" })).await.expect(200);
        let fingerprint = fresh.json["fingerprint"].clone();
        lines.push(Line { row, connector, seeded, sibling, key, fingerprint });
    }
    lines
}

/// A process takes a refresh of every line to the provider and dies with all of them in flight.
async fn dies(app: &TestApp, lines: &[Line]) {
    for line in lines {
        let commit = if line.row.1 == Provider::Acted { Commit::Before } else { Commit::Never };
        let held = Fault::HoldUntilReleased { gate: "answer".to_owned() };
        app.provider().inject(FaultRule::refresh(held).client(&line.connector.client_id).commit(commit));
    }
    let doomed = Doomed::start(app).await;
    let mut callers = tokio::task::JoinSet::new();
    for line in lines {
        let (client, path) = (doomed.caller(&line.key), line.connector.path("/token"));
        let body = json!({ "user_id": "u-1", "rejected": line.fingerprint });
        callers.spawn(async move { client.try_post(&path, &body).await });
    }
    let patience = Duration::from_secs(20);
    assert!(app.provider().wait_until_held_count("answer", lines.len(), patience).await, "some did not come");
    doomed.kill().await;
    for answered in callers.join_all().await {
        assert_eq!(answered, None, "nobody answers any more");
    }
    app.provider().release("answer");
}

/// From here on other processes look after what was left behind; `work` makes them do one kind of it.
async fn goes_on(app: &TestApp, lines: &[Line], work: impl AsyncFn(Work)) {
    let in_flight = "SELECT COUNT(*) FROM attempts WHERE state = 'sent'";
    assert_eq!(app.number(in_flight).await, i64::try_from(lines.len()).expect("few"));
    work(Work::Recover).await;
    work(Work::Refresh).await;
    assert_eq!(app.number(in_flight).await, i64::try_from(lines.len()).expect("few"), "the leases protect them");
    app.advance(LEASE);
    work(Work::Recover).await;
    assert_eq!(app.number(in_flight).await, 0);
    for line in lines {
        let attempt = app.attempt(&line.seeded.connection_id).await;
        let state = if line.row.3 == GoesOn::Stops { "stopped" } else { "repeat_allowed" };
        assert_eq!((attempt.state.as_str(), attempt.outcome.as_str()), (state, "process_died"), "{}", line.told());
        is_served(app, line).await;
    }
    app.advance(Duration::from_secs(5));
    work(Work::Refresh).await;
    for line in lines {
        let soon = line.row.3 == GoesOn::Soon;
        let (generation, presented) = shows(app, line).await;
        assert_eq!((generation, presented), if soon { (2, 2) } else { (1, 1) }, "{}", line.told());
        if !soon {
            is_served(app, line).await;
        }
    }
    let end = time_of(&app.connection(&lines[9].seeded.connection_id).await["expires_at"]);
    app.advance_to(end.minus(Duration::from_secs(365)));
    work(Work::Refresh).await;
    for line in lines.iter().filter(|line| line.row.3 != GoesOn::Soon) {
        assert_eq!(shows(app, line).await, (1, 1), "{}: not before the last tenth", line.told());
        is_served(app, line).await;
    }
    app.advance(Duration::from_secs(30));
    work(Work::Refresh).await;
    for line in lines {
        comes_out(app, line).await;
    }
}

/// The generation, and how often the grant's tokens were presented.
async fn shows(app: &TestApp, line: &Line) -> (i64, usize) {
    let generation = app.connection(&line.seeded.connection_id).await["generation"].as_i64();
    (generation.expect("a number"), app.provider().refreshes_for(&line.seeded.grant).len())
}

/// The current access token is good and handed out, whatever became of the refresh.
async fn is_served(app: &TestApp, line: &Line) {
    let path = line.connector.path("/token");
    let answer = app.caller(&line.key).post(&path, &json!({ "user_id": "u-1" })).await;
    assert_eq!((answer.status, &answer.json["generation"]), (200, &json!(1)), "{}: {}", line.told(), answer.text);
    assert!(answer.json["expires_in"].as_u64() > Some(0), "{}: {}", line.told(), answer.text);
}

async fn comes_out(app: &TestApp, line: &Line) {
    let connection = app.connection(&line.seeded.connection_id).await;
    let presented = app.provider().refreshes_for(&line.seeded.grant);
    match line.row.3 {
        GoesOn::Soon => assert_eq!(connection["status"], "active", "{}: {connection}", line.told()),
        GoesOn::Late => {
            assert_eq!(
                (&connection["status"], &connection["generation"]),
                (&json!("active"), &json!(2)),
                "{}",
                line.told()
            );
            assert!(presented.iter().all(|event| !event.reuse), "{}", line.told());
        }
        GoesOn::LateAndDead => {
            assert_eq!(connection["needs_reauth"]["reason"], "grant_revoked", "{}: {connection}", line.told());
            assert_eq!(presented.len(), 2, "{}: once more, and then a definite answer", line.told());
        }
        GoesOn::Stops => {
            assert_eq!(connection["needs_reauth"]["reason"], "unknown_outcome", "{}: {connection}", line.told());
            assert_eq!(presented.len(), 1, "{}: never again", line.told());
        }
    }
    if let Some(sibling) = &line.sibling {
        let unharmed = app.connection(&sibling.connection_id).await;
        assert_eq!(unharmed["status"], "active", "{}: {unharmed}", line.told());
        assert!(app.provider().grant(&sibling.grant).expect("known").alive, "{}", line.told());
    }
}

engine_tests! {
    async fn the_next_process_goes_on_by_the_table(app: TestApp) {
        let mut app = app;
        let lines = lines(&app).await;
        app.stop().await;
        dies(&app, &lines).await;
        app.restart().await;
        goes_on(&app, &lines, async |work| drop(app.run(work).await)).await;
    }

    async fn a_process_that_starts_looks_after_what_was_left_behind_by_itself(app: TestApp) {
        let mut app = app;
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Soft)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await.remove(0);
        let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
        let fresh = app.caller(&key).post(&connector.path("/token"), &json!({ "user_id": "u-1" })).await.expect(200);
        let row = (Rotation::Soft, Provider::Acted, false, GoesOn::Soon);
        let fingerprint = fresh.json["fingerprint"].clone();
        let line = Line { row, connector, seeded, sibling: None, key, fingerprint };
        app.stop().await;
        dies(&app, std::slice::from_ref(&line)).await;
        app.advance(LEASE);
        app.restart_with(|config| config.jobs = true).await;
        assert!(app.provider().wait_for_token_requests(2).await, "nobody looked after it");
        app.restart_with(|config| config.jobs = false).await;
        assert_eq!(shows(&app, &line).await, (2, 2));
    }

    async fn a_process_that_died_before_its_second_mark_has_surely_not_sent(app: TestApp) {
        // The class of two marks, with a sibling: what may have been sent would stop here.
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::StrictWide)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await.remove(0);
        app.seed_import_with(&connector, &["u-1"], |_, line| line["label"] = json!("second")).await;
        app.advance_to_due(&seeded.connection_id).await;
        let (now, lease) = (app.clock.now(), app.clock.now().plus(Duration::from_secs(45)));
        let columns = "connection_id, generation, id, state, send_no, holder, lease_until, next_try_at, fingerprint, created_at, updated_at";
        app.change(&format!(
            "INSERT INTO attempts ({columns}) VALUES ('{}', 1, '{}', 'unsent', 1, 'dead', {}, 0, 'x', {}, {})",
            seeded.connection_id, AttemptId::new(now, &SystemEntropy), lease.as_millis(), now.as_millis(), now.as_millis(),
        )).await;
        app.run(Work::Recover).await;
        app.run(Work::Refresh).await;
        assert_eq!(app.provider().refreshes_for(&seeded.grant).len(), 0, "the lease protects it");
        app.advance(LEASE);
        app.run(Work::Recover).await;
        app.run(Work::Refresh).await;
        let connection = app.connection(&seeded.connection_id).await;
        assert_eq!((&connection["status"], &connection["generation"]), (&json!("active"), &json!(2)), "{connection}");
        assert_eq!(app.provider().refreshes_for(&seeded.grant).len(), 1);
        let sends = format!("SELECT send_no FROM attempts WHERE connection_id = '{}'", seeded.connection_id);
        assert_eq!(app.number(&sends).await, 2);
    }
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn other_replicas_go_on_by_the_table() {
    run_test(Setup::on(Engine::Postgres), async |app| {
        let lines = lines(&app).await;
        let replica = app.replica().await;
        dies(&app, &lines).await;
        // Both look at everything at once, and each thing is done once.
        goes_on(&app, &lines, async |work| {
            tokio::join!(app.run(work), run_at(&replica, work));
        })
        .await;
        assert!(replica.stop().await);
    });
}
