//! PostgreSQL behind a network that swallows everything: no reset, no answer. Nobody hangs, and no grant is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::timeout;
use valetkey_broker::{Boundaries, Boundary};
use valetkey_suite::{
    ConnectorSpec, Engine, Setup, TestApp, TestConnector, Work,
    network::Network,
    run_test,
    sandbox::{Fault, FaultRule, Rotation},
};

const HOUR: Duration = Duration::from_secs(3_601);

/// How long the server waits for PostgreSQL in these tests.
const PATIENCE: Duration = Duration::from_millis(600);

/// Nobody is kept waiting for longer. A caller waits for a refresh for five seconds by itself.
const BOUND: Duration = Duration::from_secs(20);

/// The body of a test with a network that may fail.
fn behind<F: Future<Output = ()>>(network: &Network, body: impl FnOnce(TestApp) -> F) {
    run_test(Setup::on(Engine::Postgres).network(network, PATIENCE), body);
}

fn hold(app: &TestApp) {
    app.provider().inject(FaultRule::refresh(Fault::HoldUntilReleased { gate: "answer".to_owned() }));
}

async fn held(app: &TestApp) {
    assert!(app.provider().wait_until_held("answer").await, "no refresh came");
}

/// Waits until a number of the database is this one.
async fn until(app: &TestApp, statement: &str, number: i64) {
    let wait = async { while app.number(statement).await != number {} };
    assert!(timeout(BOUND, wait).await.is_ok(), "{statement} is {}", app.number(statement).await);
}

/// A caller's key for this connector.
async fn key(app: &TestApp, connector: &TestConnector) -> String {
    app.api_key(&["connector"], Some(&[&connector.id])).await
}

async fn ask(app: &TestApp, key: &str, connector: &TestConnector, user: &str) -> valetkey_suite::Answer {
    let (client, path, body) = (app.caller(key), connector.path("/token"), json!({ "user_id": user }));
    timeout(BOUND, client.post(&path, &body)).await.expect("nobody hangs")
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn a_cut_that_nobody_announces_costs_answers_and_no_grant() {
    let network = Network::new();
    behind(&network, async |app| {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        app.seed_import(&connector, &["u-1", "u-2", "u-3"]).await;
        let key = key(&app, &connector).await;
        ask(&app, &key, &connector, "u-1").await.expect(200).done();
        app.advance(HOUR);
        hold(&app);
        let in_flight = ask(&app, &key, &connector, "u-2");
        let cut = async {
            held(&app).await;
            network.swallow();
            app.provider().release("answer");
        };
        let (in_flight, ()) = tokio::join!(in_flight, cut);
        let refused = in_flight.expect_problem(503, "storage-unavailable");
        assert!(refused.retry_after() > 0);
        // What is asked at once, and again by connections that were found dead, and all of them together.
        for _ in 0..2 {
            let asked = ["u-1", "u-2", "u-3"].map(|user| ask(&app, &key, &connector, user));
            for answer in futures_all(asked).await {
                answer.expect_problem(503, "storage-unavailable").done();
            }
        }
        let ready = timeout(BOUND, app.anonymous().get("/health/ready")).await.expect("nobody hangs");
        ready.expect(503).done();
        app.anonymous().get("/health/live").await.expect(200).done();

        // The connections of before are lost without a word.
        network.carry_anew();
        app.landed().await;
        for user in ["u-1", "u-2", "u-3"] {
            let answer = ask(&app, &key, &connector, user).await.expect(200);
            assert_eq!(answer.json["generation"], 2, "{user}");
            assert!(app.provider().is_access_token_live(&answer.text_of("access_token")), "{user}");
        }
        assert_eq!(app.refreshes(&connector).len(), 3, "one request for each");
        assert_eq!(app.provider().counters().reuses, 0);
        app.anonymous().get("/health/ready").await.expect(200).done();
    });
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn a_commit_whose_end_nobody_heard_took_place_once() {
    let network = Network::new();
    behind(&network, async |app| {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await.remove(0);
        let key = key(&app, &connector).await;
        app.advance(HOUR);
        hold(&app);
        let in_flight = ask(&app, &key, &connector, "u-1");
        let cut = async {
            held(&app).await;
            network.swallow_answers_from(b"COMMIT");
            app.provider().release("answer");
            network.swallows().await;
            until(&app, "SELECT generation FROM connections", 2).await;
        };
        let (in_flight, ()) = tokio::join!(in_flight, cut);
        in_flight.expect_problem(503, "storage-unavailable").done();

        network.carry();
        app.landed().await;
        let answer = ask(&app, &key, &connector, "u-1").await.expect(200);
        assert_eq!(answer.json["generation"], 2);
        assert!(app.provider().is_access_token_live(&answer.text_of("access_token")));
        assert!(app.revocations(&seeded.connection_id).await.is_empty(), "what is stored is not late");
        app.advance(HOUR);
        assert_eq!(ask(&app, &key, &connector, "u-1").await.expect(200).json["generation"], 3);
        assert_eq!(app.provider().counters().reuses, 0);
    });
}

/// A refresh whose second mark is written, unheard of: its token never leaves. `meanwhile` is what others do before the
/// network carries again; in the end the grant lives.
fn a_mark_in_doubt(meanwhile: impl AsyncFnOnce(&TestApp, &str), in_the_end: impl AsyncFnOnce(&TestApp)) {
    let network = Network::new();
    let armed = Arc::new(AtomicBool::new(false));
    let (arms, cuts) = (Arc::clone(&armed), network.clone());
    let boundaries = Boundaries::observed_by(move |boundary, _| {
        if boundary == Boundary::BeforeSecondMark && arms.swap(false, Ordering::SeqCst) {
            cuts.swallow_answers_from(b"COMMIT");
        }
    });
    let setup = Setup::on(Engine::Postgres).network(&network, PATIENCE).boundaries(boundaries);
    run_test(setup, async |app| {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::StrictWide)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await.remove(0);
        app.seed_import_with(&connector, &["u-1"], |_, line| line["label"] = json!("sibling")).await;
        let key = key(&app, &connector).await;
        app.advance(HOUR);
        armed.store(true, Ordering::SeqCst);
        let marked = "SELECT COUNT(*) FROM attempts WHERE state = 'sent'";
        let cut = async {
            network.swallows().await;
            until(&app, marked, 1).await;
            meanwhile(&app, &seeded.connection_id).await;
        };
        let (answer, ()) = tokio::join!(ask(&app, &key, &connector, "u-1"), cut);
        answer.expect_problem(503, "storage-unavailable").done();
        network.carry();
        app.landed().await;
        assert_eq!(app.refreshes(&connector).len(), 0, "nothing was sent");
        let attempt = app.attempt(&seeded.connection_id).await;
        assert_eq!((attempt.state.as_str(), attempt.outcome.as_str()), ("unsent", "not_marked"));
        in_the_end(&app).await;

        app.advance(Duration::from_secs(51));
        app.run(Work::Recover).await;
        app.run(Work::Refresh).await;
        let connection = app.connection(&seeded.connection_id).await;
        assert_eq!((&connection["status"], &connection["needs_reauth"]), (&json!("active"), &Value::Null));
        assert_eq!(ask(&app, &key, &connector, "u-1").await.expect(200).json["generation"], 2);
    });
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn a_mark_in_doubt_does_not_end_a_grant_whose_token_never_left() {
    a_mark_in_doubt(async |_, _| (), async |_| ());
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn a_grant_that_another_replica_gave_up_comes_back_if_its_token_never_left() {
    let given_up = async |app: &TestApp, id: &str| {
        let stop = "UPDATE attempts SET state = 'stopped', outcome = 'process_died' WHERE state = 'sent'";
        let death = format!(
            "UPDATE connections SET status = 'needs_reauth', reauth_reason = 'unknown_outcome', reauth_since = 1, \
             refresh_due_at = NULL WHERE id = '{id}'"
        );
        for (statement, changed) in [(stop, 1), (&death, 1), ("DELETE FROM due", 2)] {
            assert_eq!(app.change(statement).await, changed, "{statement}");
        }
    };
    a_mark_in_doubt(given_up, async |app| {
        assert_eq!(app.audit("action=connection.recovered").await.len(), 1);
    });
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn a_listener_that_hears_nothing_for_long_asks_and_listens_anew() {
    let network = Network::new();
    behind(&network, async |app| {
        let listening = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        until(&app, &format!("SELECT CAST(COUNT(*) AS BIGINT) {listening}"), 1).await;
        let first = app.number(&format!("SELECT CAST(pid AS BIGINT) {listening}")).await;
        let called = network.is_called();
        network.swallow();
        timeout(BOUND, called).await.expect("it calls anew");
        network.carry();
        until(&app, &format!("SELECT CAST(COUNT(*) AS BIGINT) {listening} AND pid <> {first}"), 1).await;
    });
}

/// All of them at once.
async fn futures_all<F: Future>(asked: [F; 3]) -> [F::Output; 3] {
    let [first, second, third] = asked;
    let (first, second, third) = tokio::join!(first, second, third);
    [first, second, third]
}

/// Connects `u-1`, and cuts the network by `cut` while the provider answers; what the provider gave is connected by the time
/// that the network carries again.
async fn connect_through(app: &TestApp, cut: impl AsyncFn(), mend: impl Fn()) {
    let connector = app.connector(ConnectorSpec::oauth2()).await;
    let key = key(app, &connector).await;
    let started = app.start_flow(&connector, &connector.popup("u-1")).await;
    let home = app.browser("u-1").walk(&started.start_url).await;
    app.provider().inject(FaultRule::token(Fault::HoldUntilReleased { gate: "answer".to_owned() }));
    let finish = async { timeout(BOUND, app.finish(&connector, &home, "u-1")).await.expect("nobody hangs") };
    let cut = async {
        held(app).await;
        cut().await;
    };
    let (late, ()) = tokio::join!(finish, cut);
    late.expect_problem(503, "storage-unavailable").done();

    mend();
    app.landed().await;
    app.finish(&connector, &home, "u-1").await.expect(200).done();
    let answer = ask(app, &key, &connector, "u-1").await.expect(200);
    assert_eq!(answer.json["generation"], 1);
    assert!(app.provider().is_access_token_live(&answer.text_of("access_token")));
    assert_eq!(app.number("SELECT CAST(COUNT(*) AS BIGINT) FROM revocations").await, 0, "what is stored lives on");
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn what_a_code_brought_during_a_cut_is_connected_after_it() {
    let network = Network::new();
    behind(&network, async |app| {
        let cut = async || {
            network.swallow();
            app.provider().release("answer");
        };
        connect_through(&app, cut, || network.carry_anew()).await;
    });
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn a_connection_whose_commit_nobody_heard_is_made_once_and_not_revoked() {
    let network = Network::new();
    behind(&network, async |app| {
        let cut = async || {
            network.swallow_answers_from(b"COMMIT");
            app.provider().release("answer");
            network.swallows().await;
            until(&app, "SELECT CAST(COUNT(*) AS BIGINT) FROM connections", 1).await;
        };
        connect_through(&app, cut, || network.carry()).await;
    });
}
