//! Several replicas on one PostgreSQL: what one has done holds for the others at once.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};
use valetkey_suite::{
    Answer, Client, ConnectorSpec, Engine, Setup, TestApp, TestConnector, Work, extra, run_test,
    sandbox::{Fault, FaultRule, Rotation},
};

const HOUR: Duration = Duration::from_secs(3_601);

/// Past the lease of an attempt, and of a claim of due work.
const LEASE: Duration = Duration::from_secs(51);

/// The body of a test that needs replicas.
fn replicas<F: Future<Output = ()>>(body: impl FnOnce(TestApp) -> F) {
    run_test(Setup::on(Engine::Postgres), body);
}

fn hold(app: &TestApp) {
    app.provider().inject(FaultRule::refresh(Fault::HoldUntilReleased { gate: "answer".to_owned() }));
}

async fn held(app: &TestApp) {
    assert!(app.provider().wait_until_held("answer").await, "no refresh came");
}

fn ask(callers: &mut JoinSet<Answer>, client: &Client, connector: &TestConnector, body: &Value, times: usize) {
    for _ in 0..times {
        let (client, path, body) = (client.clone(), connector.path("/token"), body.clone());
        callers.spawn(async move { client.post(&path, &body).await });
    }
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn callers_of_every_replica_get_what_one_of_them_was_given() {
    replicas(async |app| {
        let (second, third) = tokio::join!(app.replica(), app.replica());
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        app.seed_import(&connector, &["u-1"]).await;
        let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
        let body = json!({ "user_id": "u-1" });
        let everywhere = [app.caller(&key), app.caller_at(&second, &key), app.caller_at(&third, &key)];
        for generation in 2..5 {
            app.advance(HOUR);
            hold(&app);
            let mut callers = JoinSet::new();
            for client in &everywhere {
                ask(&mut callers, client, &connector, &body, 30);
            }
            let scheduled = async { tokio::join!(app.run(Work::Refresh), extra::run_at(&second, Work::Refresh)) };
            let released = async {
                held(&app).await;
                app.provider().release("answer");
            };
            tokio::join!(scheduled, released);
            let mut tokens = BTreeSet::new();
            for answer in callers.join_all().await {
                let answer = answer.expect(200);
                assert_eq!(answer.json["generation"], generation);
                tokens.insert(answer.text_of("access_token"));
            }
            assert_eq!(tokens.len(), 1, "{tokens:?}");
            assert_eq!(app.refreshes(&connector).len(), generation - 1, "one request for each generation");
        }
        assert!(second.stop().await && third.stop().await);
    });
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn a_call_that_begins_after_a_revocation_was_acknowledged_gets_no_token_anywhere() {
    replicas(async |app| {
        let replica = app.replica().await;
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let users: Vec<String> = (0..10).map(|number| format!("u-{number}")).collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        let seeded = app.seed_import(&connector, &users).await;
        let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
        for (user, seeded) in users.iter().zip(&seeded) {
            let over = Arc::new(AtomicBool::new(false));
            let mut callers = JoinSet::new();
            for client in [app.caller(&key), app.caller_at(&replica, &key)] {
                for _ in 0..4 {
                    let (client, over) = (client.clone(), Arc::clone(&over));
                    let (path, body) = (connector.path("/token"), json!({ "user_id": user }));
                    callers.spawn(async move {
                        let mut last_token = None;
                        while !over.load(Ordering::SeqCst) {
                            let began = Instant::now();
                            if client.post(&path, &body).await.status == 200 {
                                last_token = Some(began);
                            }
                        }
                        // Once more, when it is surely gone.
                        client.post(&path, &body).await.expect_problem(404, "connection-not-found").done();
                        last_token
                    });
                }
            }
            app.operator().delete(&format!("/v1/connections/{}", seeded.connection_id)).await.expect(200).done();
            let acknowledged = Instant::now();
            over.store(true, Ordering::SeqCst);
            for last_token in callers.join_all().await.into_iter().flatten() {
                assert!(last_token <= acknowledged, "a call that began later was answered with a token");
            }
        }
        assert!(replica.stop().await);
    });
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn waiting_callers_of_another_replica_learn_of_a_revocation() {
    replicas(async |app| {
        let replica = app.replica().await;
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
        let body = json!({ "user_id": "u-1" });
        app.advance(HOUR);
        hold(&app);
        let mut callers = JoinSet::new();
        ask(&mut callers, &app.caller(&key), &connector, &body, 1);
        held(&app).await;
        ask(&mut callers, &app.caller_at(&replica, &key), &connector, &body, 5);
        app.operator().delete(&format!("/v1/connections/{}", seeded[0].connection_id)).await.expect(200).done();
        app.provider().release("answer");
        for answer in callers.join_all().await {
            answer.expect_problem(404, "connection-not-found").done();
        }
        app.landed().await;
        app.settle().await;
        assert!(!app.provider().grant(&seeded[0].grant).expect("known").alive, "late tokens were revoked too");
        assert!(replica.stop().await);
    });
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn a_holder_that_comes_back_late_does_not_take_the_refresh_token_from_who_went_on() {
    replicas(async |app| {
        let replica = app.replica().await;
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::NonRotating)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
        let body = json!({ "user_id": "u-1" });
        app.advance(HOUR);
        hold(&app);
        let mut callers = JoinSet::new();
        ask(&mut callers, &app.caller(&key), &connector, &body, 1);
        held(&app).await;
        // The lease is over, and nobody knows what became of the holder.
        app.advance(LEASE);
        extra::run_at(&replica, Work::Recover).await;
        app.advance(Duration::from_secs(5));
        let there = app.caller_at(&replica, &key);
        let went_on = there.post(&connector.path("/token"), &body).await.expect(200);
        assert_eq!(went_on.json["generation"], 2);
        app.provider().release("answer");
        app.landed().await;
        for answer in callers.join_all().await {
            assert_eq!(answer.expect(200).json["fingerprint"], went_on.json["fingerprint"], "newer tokens stay");
        }
        app.settle().await;
        let late = app.revocations(&seeded[0].connection_id).await;
        assert!(late.iter().all(|each| each["token_kind"] == "access"), "{late:?}");
        app.advance(HOUR);
        assert_eq!(there.post(&connector.path("/token"), &body).await.expect(200).json["generation"], 3);
        assert!(replica.stop().await);
    });
}
