//! One refresh at a time: however many ask, whoever hangs up, whatever happens to the connection meanwhile.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use valetkey_suite::{
    Answer, Client, ConnectorSpec, Engine, Seeded, Setup, TestApp, TestConnector, Work, engine_tests,
    extra::{self, text_of, time_of},
    run_test,
    sandbox::{Fault, FaultRule, GrantEnd, Rotation},
};

const HOUR: Duration = Duration::from_secs(3_601);

/// A strictly rotating connector and connections of these users.
async fn strict(app: &TestApp, users: &[&str]) -> (TestConnector, Vec<Seeded>) {
    let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
    let seeded = app.seed_import(&connector, users).await;
    (connector, seeded)
}

/// The provider acts on the next refresh and keeps its answer back.
fn hold(app: &TestApp) {
    app.provider().inject(FaultRule::refresh(Fault::HoldUntilReleased { gate: "answer".to_owned() }));
}

async fn held(app: &TestApp) {
    assert!(app.provider().wait_until_held("answer").await, "no refresh came");
}

fn release(app: &TestApp) {
    app.provider().release("answer");
}

/// Asks in tasks of their own.
fn ask(callers: &mut JoinSet<Answer>, client: &Client, connector: &TestConnector, body: &Value, times: usize) {
    for _ in 0..times {
        let (client, path, body) = (client.clone(), connector.path("/token"), body.clone());
        callers.spawn(async move { client.post(&path, &body).await });
    }
}

engine_tests! {
    async fn two_hundred_callers_of_an_ended_token_cause_one_request(app: TestApp) {
        let (connector, _) = strict(&app, &["u-1"]).await;
        let client = app.connector_client(&connector.id).await;
        app.advance(HOUR);
        hold(&app);
        let mut callers = JoinSet::new();
        ask(&mut callers, &client, &connector, &json!({ "user_id": "u-1" }), 200);
        held(&app).await;
        release(&app);
        let mut tokens = BTreeSet::new();
        for answer in callers.join_all().await {
            let answer = answer.expect(200);
            assert_eq!(answer.json["generation"], 2);
            tokens.insert(answer.text_of("access_token"));
        }
        assert_eq!(tokens.len(), 1);
        assert_eq!(app.refreshes(&connector).len(), 1);
    }

    async fn callers_and_the_scheduler_share_one_request(app: TestApp) {
        let (connector, _) = strict(&app, &["u-1"]).await;
        let client = app.connector_client(&connector.id).await;
        app.advance(HOUR);
        hold(&app);
        let mut callers = JoinSet::new();
        ask(&mut callers, &client, &connector, &json!({ "user_id": "u-1" }), 5);
        held(&app).await;
        let scheduled = async {
            app.run(Work::Refresh).await;
        };
        let released = async { release(&app) };
        tokio::join!(scheduled, released);
        callers.join_all().await.into_iter().for_each(|answer| answer.expect(200).done());
        assert_eq!(app.refreshes(&connector).len(), 1);
    }

    async fn connections_are_refreshed_beside_each_other(app: TestApp) {
        let users: Vec<String> = (0..50).map(|number| format!("u-{number}")).collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        let (connector, _) = strict(&app, &users).await;
        app.advance(HOUR);
        hold(&app);
        // One provider answer that does not come holds nobody else up.
        let work = app.run(Work::Refresh);
        let rest = async {
            held(&app).await;
            assert!(app.provider().wait_for_token_requests(50).await, "{:?}", app.refreshes(&connector).len());
            release(&app);
        };
        let (report, ()) = tokio::join!(work, rest);
        assert_eq!(report, "50 due: 50 refreshed, 0 dead, 0 failed, 0 put off");
        assert_eq!(app.refreshes(&connector).len(), 50);
        assert_eq!(app.provider().counters().reuses, 0);
    }

    async fn a_caller_that_hangs_up_changes_nothing(app: TestApp) {
        let (connector, seeded) = strict(&app, &["u-1"]).await;
        let client = app.connector_client(&connector.id).await;
        app.advance(HOUR);
        hold(&app);
        let mut callers = JoinSet::new();
        ask(&mut callers, &client, &connector, &json!({ "user_id": "u-1" }), 1);
        held(&app).await;
        callers.shutdown().await;
        release(&app);
        app.landed().await;
        let connection = app.connection(&seeded[0].connection_id).await;
        assert_eq!((&connection["generation"], &connection["last_attempt"]["outcome"]), (&json!(2), &json!("settled")));
        assert_eq!(client.post(&connector.path("/token"), &json!({ "user_id": "u-1" })).await.expect(200).json["generation"], 2);
        assert_eq!(app.refreshes(&connector).len(), 1);
    }

    async fn a_caller_with_a_valid_token_does_not_wait_for_a_slow_provider(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.refresh.wait = Duration::from_millis(100)),
    ) {
        let (connector, _) = strict(&app, &["u-1"]).await;
        app.advance(Duration::from_secs(3_570));
        hold(&app);
        // Thirty seconds are left, the default asks for sixty: the refresh is tried, and the caller gets what is there.
        let early = app.fetch(&connector, "u-1").await.expect(200);
        assert_eq!(early.json["generation"], 1);
        assert!(early.json["expires_in"].as_u64() <= Some(30), "{}", early.text);
        app.advance(Duration::from_secs(30));
        // Now it has ended, and the answer is awaited still.
        app.fetch(&connector, "u-1").await.expect_problem(503, "provider-unavailable").done();
        release(&app);
        app.landed().await;
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 2);
        assert_eq!(app.refreshes(&connector).len(), 1);
    }

    async fn tokens_that_arrive_after_a_revocation_are_revoked(app: TestApp) {
        let (connector, seeded) = strict(&app, &["u-1"]).await;
        let id = &seeded[0].connection_id;
        let client = app.connector_client(&connector.id).await;
        app.advance(HOUR);
        hold(&app);
        let mut callers = JoinSet::new();
        ask(&mut callers, &client, &connector, &json!({ "user_id": "u-1" }), 1);
        held(&app).await;
        let gone = app.operator().delete(&format!("/v1/connections/{id}")).await.expect(200);
        assert_eq!(gone.json["connection"]["status"], "revoking");
        release(&app);
        callers.join_all().await.remove(0).expect_problem(404, "connection-not-found").done();
        app.landed().await;
        app.fetch(&connector, "u-1").await.expect_problem(404, "connection-not-found").done();

        let late: Vec<Value> = app.revocations(id).await.into_iter().filter(|each| each["reason"] == "late_tokens").collect();
        assert_eq!(late.len(), 2, "{late:?}");
        app.settle().await;
        for revocation in app.revocations(id).await {
            assert_eq!(revocation["state"], "confirmed", "{revocation}");
        }
        let committed = app.refreshes(&connector)[0].committed.clone().expect("the provider acted");
        let told: Vec<_> = app.revocations_seen(&connector).into_iter().filter_map(|event| event.presented).collect();
        assert!(told.contains(&committed.refresh.expect("rotated")), "the provider was told of the late refresh token");
        assert!(told.contains(&committed.access.expect("issued")), "and of the late access token");
        assert_eq!(app.connection(id).await["status"], "revoked");
        assert_eq!(app.provider().grant(&seeded[0].grant).expect("known").ended, Some(GrantEnd::RevokedByClient));
    }

    async fn a_late_answer_brings_a_connection_back_that_needed_its_owner(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::StrictWide)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        // A sibling of the same owner: nothing may be presented twice.
        app.seed_import_with(&connector, &["u-1"], |_, line| line["label"] = json!("second")).await;
        let id = &seeded[0].connection_id;
        let client = app.connector_client(&connector.id).await;
        hold(&app);
        let fresh = client.post(&connector.path("/token"), &json!({ "user_id": "u-1" })).await.expect(200);
        let mut callers = JoinSet::new();
        let rejected = json!({ "user_id": "u-1", "rejected": fresh.json["fingerprint"] });
        ask(&mut callers, &client, &connector, &rejected, 1);
        held(&app).await;
        app.advance(Duration::from_secs(50));
        app.run(Work::Recover).await;
        let waiting = app.connection(id).await;
        assert_eq!(waiting["needs_reauth"]["reason"], "unknown_outcome", "{waiting}");
        release(&app);
        app.landed().await;
        let back = app.connection(id).await;
        assert_eq!((&back["status"], &back["needs_reauth"], &back["generation"]), (&json!("active"), &Value::Null, &json!(2)));
        assert_eq!(app.refreshes(&connector).len(), 1);
        assert_eq!(client.post(&connector.path("/token"), &json!({ "user_id": "u-1" })).await.expect(200).json["generation"], 2);
        drop(callers);
    }

    async fn a_reconnect_during_a_refresh_wins(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let connection = app.connect_user(&connector, "u-1").await;
        let id = text_of(&connection["id"]);
        let client = app.connector_client(&connector.id).await;
        app.advance(HOUR);
        hold(&app);
        let mut callers = JoinSet::new();
        ask(&mut callers, &client, &connector, &json!({ "user_id": "u-1" }), 1);
        held(&app).await;
        let again = app.connect_user(&connector, "u-1").await;
        assert_eq!((&again["id"], &again["generation"]), (&json!(id), &json!(2)));
        release(&app);
        app.landed().await;
        // Whoever waited gets the new grant's token, and the old grant's late tokens are not stored.
        let waited = callers.join_all().await.remove(0).expect(200);
        assert_eq!(waited.json["generation"], 2);
        let owner = app.provider().grant_of_token(&waited.text_of("access_token")).expect("known");
        assert_eq!(owner.id, app.provider().grants_of(&connector.client_id, "u-1")[1].id);
        let late = app.revocations(&id).await;
        assert!(late.iter().any(|each| each["reason"] == "late_tokens" && each["token_kind"] == "refresh"), "{late:?}");
        // The new grant goes on.
        app.advance_to_due(&id).await;
        app.run(Work::Refresh).await;
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 3);
    }

    async fn a_reconnect_during_a_scheduled_refresh_is_refreshed_when_its_own_time_comes(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let id = text_of(&app.connect_user(&connector, "u-1").await["id"]);
        app.advance_to_due(&id).await;
        hold(&app);
        let reconnect = async {
            held(&app).await;
            app.connect_user(&connector, "u-1").await;
            release(&app);
        };
        tokio::join!(app.run(Work::Refresh), reconnect);
        app.landed().await;
        assert_eq!(app.connection(&id).await["generation"], 2);
        app.advance_to_due(&id).await;
        app.run(Work::Refresh).await;
        assert_eq!(app.connection(&id).await["generation"], 3);
    }

    async fn a_refresh_that_is_held_longer_than_its_lease_is_not_repeated_by_the_scheduler(app: TestApp) {
        let (connector, seeded) = strict(&app, &["u-1"]).await;
        let client = app.connector_client(&connector.id).await;
        app.advance_to_due(&seeded[0].connection_id).await;
        hold(&app);
        let mut callers = JoinSet::new();
        let due = app.run(Work::Refresh);
        let rest = async {
            held(&app).await;
            // The claim and the lease are over; the outcome is unknown, and a strict token must wait.
            app.advance(Duration::from_secs(60));
            app.run(Work::Recover).await;
            ask(&mut callers, &client, &connector, &json!({ "user_id": "u-1" }), 3);
            while let Some(answer) = callers.join_next().await {
                assert_eq!(answer.expect("it answers").expect(200).json["generation"], 1);
            }
            assert_eq!(app.refreshes(&connector).len(), 1);
            release(&app);
        };
        tokio::join!(due, rest);
        app.landed().await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["generation"], 2);
        assert_eq!(app.provider().counters().repeated_presentations, 0);
    }
}

/// The body of a test that needs replicas.
fn replicas<F: Future<Output = ()>>(body: impl FnOnce(TestApp) -> F) {
    run_test(Setup::on(Engine::Postgres), body);
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn two_replicas_refresh_once() {
    replicas(async |app| {
        let replica = app.replica().await;
        let (connector, _) = strict(&app, &["u-1"]).await;
        let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
        app.advance(HOUR);
        hold(&app);
        let mut callers = JoinSet::new();
        ask(&mut callers, &app.caller(&key), &connector, &json!({ "user_id": "u-1" }), 40);
        ask(&mut callers, &app.caller_at(&replica, &key), &connector, &json!({ "user_id": "u-1" }), 40);
        held(&app).await;
        release(&app);
        let mut tokens = BTreeSet::new();
        for answer in callers.join_all().await {
            tokens.insert(answer.expect(200).text_of("access_token"));
        }
        assert_eq!((tokens.len(), app.refreshes(&connector).len()), (1, 1));
        assert!(replica.stop().await);
    });
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn replicas_share_what_is_due() {
    replicas(async |app| {
        let replica = app.replica().await;
        let users: Vec<String> = (0..40).map(|number| format!("u-{number}")).collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        let (connector, _) = strict(&app, &users).await;
        app.advance(Duration::from_secs(3_400));
        let (one, other) = tokio::join!(app.run(Work::Refresh), extra::run_at(&replica, Work::Refresh));
        assert_eq!(app.refreshes(&connector).len(), 40, "{one} | {other}");
        assert_eq!(app.provider().counters().repeated_presentations, 0);
        assert!(replica.stop().await);
    });
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn what_one_replica_revoked_the_other_does_not_serve() {
    replicas(async |app| {
        let replica = app.replica().await;
        let (connector, seeded) = strict(&app, &["u-1"]).await;
        let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
        let there = app.caller_at(&replica, &key);
        let (path, body) = (connector.path("/token"), json!({ "user_id": "u-1" }));
        let issued = there.post(&path, &body).await.expect(200);
        assert!(time_of(&issued.json["expires_at"]) > app.clock.now());
        app.operator().delete(&format!("/v1/connections/{}", seeded[0].connection_id)).await.expect(200).done();
        there.post(&path, &body).await.expect_problem(404, "connection-not-found").done();

        let id = &there.get("/v1/connectors").await.expect_problem(403, "forbidden").json["operation"];
        assert_eq!(id, "connector_list");
        let keys = app.admin().get("/v1/keys?limit=200").await.expect(200);
        let mine = keys.json["items"].as_array().expect("keys").iter().rev().find(|each| each["name"] == "Test");
        assert!(mine.is_some());
        let key_id = format!("key_{}", key.split('_').nth(1).expect("an id"));
        app.admin().delete(&format!("/v1/keys/{key_id}")).await.expect(200).done();
        there.post(&path, &body).await.expect_problem(401, "unauthenticated").done();
        assert!(replica.stop().await);
    });
}
