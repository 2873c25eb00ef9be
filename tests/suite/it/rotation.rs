//! The keys that everything is sealed under: rotated while serving, taken up again after a stop, moved to another
//! key-encryption key, and kept through the outage of a key service.

use std::time::Duration;

use serde_json::json;
use valetkey_broker::{Broker, KeyringStatus, RotationPace, RotationPhase, SealedReport};
use valetkey_core::Actor;
use valetkey_server::{KeyringConfig, Server};
use valetkey_suite::{
    ConnectorSpec, Engine, Setup, TestApp, TestConnector, Work, engine_tests, extra::run_at, run_test, transit::Transit,
};

const USERS: [&str; 3] = ["u-1", "u-2", "u-3"];
const MOMENT: Duration = Duration::from_millis(50);

/// A connector with connected users, and a flow that waits for its end.
async fn filled(app: &TestApp) -> TestConnector {
    let connector = app.connector(ConnectorSpec::oidc()).await;
    for user in USERS {
        app.connect_user(&connector, user).await;
    }
    connector
}

/// Goes on with a rotation until it says something else than that it goes on.
async fn steps(broker: &Broker) -> (u64, RotationPhase) {
    let mut fields = 0;
    loop {
        let step = broker.step_rotation(RotationPace::Alone, MOMENT).await.expect("a step");
        fields += step.fields;
        if step.phase != RotationPhase::Resealing {
            return (fields, step.phase);
        }
    }
}

async fn status(app: &TestApp) -> KeyringStatus {
    app.broker().keyring_status().await.expect("the status")
}

fn states(status: &KeyringStatus) -> Vec<(u32, &'static str, u64)> {
    status.keys.iter().map(|key| (key.id, key.state, key.fields)).collect()
}

async fn check(app: &TestApp) -> SealedReport {
    app.broker().check_sealed(RotationPace::Alone).await.expect("a report")
}

/// What users are served, by name.
async fn tokens(app: &TestApp, connector: &TestConnector) -> Vec<String> {
    let mut tokens = Vec::new();
    for user in USERS {
        tokens.push(app.fetch(connector, user).await.expect(200).text_of("access_token"));
    }
    tokens
}

engine_tests! {
    async fn everything_is_sealed_with_the_new_key_while_tokens_are_served(app: TestApp) {
        let connector = filled(&app).await;
        let before = tokens(&app, &connector).await;
        let fields = check(&app).await;
        assert!(fields.fields >= 7 && fields.unreadable == 0, "{fields:?}");
        assert_eq!(states(&status(&app).await), [(1, "active", fields.fields)]);

        assert_eq!(app.broker().begin_rotation(Actor::CommandLine).await.expect("a key"), 2);
        assert_eq!(app.broker().begin_rotation(Actor::CommandLine).await.expect("a key"), 2, "one at a time");
        let serving = async {
            for _ in 0..5 {
                assert_eq!(tokens(&app, &connector).await, before);
            }
        };
        let ((sealed, phase), ()) = tokio::join!(steps(app.broker()), serving);
        assert_eq!((sealed, phase), (fields.fields, RotationPhase::Done));
        assert_eq!(states(&status(&app).await), [(1, "retired", 0), (2, "active", fields.fields)]);
        assert_eq!(check(&app).await, fields);
        assert_eq!(tokens(&app, &connector).await, before);

        app.connect_user(&connector, "u-4").await;
        assert_eq!(states(&status(&app).await)[0], (1, "retired", 0), "what is new is sealed with the new key");
        for action in ["data_key.created", "data_key.activated", "data_key.retired"] {
            assert_eq!(app.audit(&format!("action={action}")).await.len(), 1, "{action}");
        }
    }

    async fn a_rotation_goes_on_after_a_stop_wherever_it_stood(app: TestApp) {
        let mut app = app;
        let connector = filled(&app).await;
        let fields = check(&app).await.fields;
        app.broker().begin_rotation(Actor::CommandLine).await.expect("a key");
        app.restart().await;
        assert_eq!(states(&status(&app).await), [(1, "active", fields), (2, "pending", 0)]);
        // No time at all: the key is put to use, and nothing is sealed anew.
        app.broker().step_rotation(RotationPace::Alone, Duration::ZERO).await.expect("a step");
        app.restart().await;
        assert_eq!(states(&status(&app).await), [(1, "decrypt_only", fields), (2, "active", 0)]);
        // The scheduled work does the rest, without anybody who asks for it.
        app.run(Work::Keyring).await;
        assert_eq!(states(&status(&app).await), [(1, "retired", 0), (2, "active", fields)]);
        app.restart().await;
        assert_eq!(check(&app).await, SealedReport { fields, unreadable: 0 });
        tokens(&app, &connector).await;
    }

    async fn a_data_key_that_is_old_is_replaced_by_itself(app: TestApp) {
        filled(&app).await;
        app.advance(Duration::from_secs(364 * 86_400));
        app.run(Work::Keyring).await;
        assert_eq!(status(&app).await.keys.len(), 1);
        app.advance(Duration::from_secs(2 * 86_400));
        app.run(Work::Keyring).await;
        let status = status(&app).await;
        assert_eq!(states(&status).iter().map(|(id, state, _)| (*id, *state)).collect::<Vec<_>>(), [(1, "retired"), (2, "active")]);
        assert!(status.rotation_due_at.is_some_and(|due| due > app.clock.now()));
    }

    async fn no_data_key_is_replaced_by_itself_where_that_is_off(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.rotation.rotate_after = None),
    ) {
        app.advance(Duration::from_secs(3_000 * 86_400));
        app.run(Work::Keyring).await;
        let status = status(&app).await;
        assert_eq!((status.keys.len(), status.rotation_due_at), (1, None));
    }

    async fn a_field_that_does_not_open_stops_no_rotation_and_keeps_its_key(app: TestApp) {
        let connector = filled(&app).await;
        let fields = check(&app).await.fields;
        let damaged = "UPDATE connections SET refresh_token = (SELECT o.refresh_token FROM connections o \
                       WHERE o.owner LIKE '%u-2') WHERE owner LIKE '%u-1'";
        assert_eq!(app.change(damaged).await, 1);
        app.broker().begin_rotation(Actor::CommandLine).await.expect("a key");
        assert_eq!(steps(app.broker()).await, (fields - 1, RotationPhase::Stuck { unreadable: 1 }));
        assert_eq!(states(&status(&app).await), [(1, "decrypt_only", 1), (2, "active", fields - 1)]);
        assert_eq!(check(&app).await, SealedReport { fields, unreadable: 1 });
        tokens(&app, &connector).await;
        // Its user connects again, and the old key has nothing left.
        app.connect_user(&connector, "u-1").await;
        let (_, phase) = steps(app.broker()).await;
        assert_eq!(phase, RotationPhase::Done);
        assert_eq!(states(&status(&app).await)[0], (1, "retired", 0));
    }

    async fn a_key_service_that_is_away_stops_no_read_and_refuses_the_start(app: TestApp) {
        let mut app = app;
        let transit = Transit::start().await;
        let connector = filled(&app).await;
        let before = tokens(&app, &connector).await;
        // The change of the key-encryption key: the one before goes on unwrapping until the data keys are wrapped anew.
        let old = app.config().keyring.clone();
        let service = transit.key("valetkey");
        app.restart_with(|config| {
            config.previous_keys = vec![old];
            config.keyring = service;
        })
        .await;
        assert_eq!(transit.calls(), 0);
        let report = app.broker().rewrap(Actor::CommandLine, false).await.expect("wrapped");
        assert_eq!((report.wrapper.as_str(), report.wrapped), ("transit:transit/valetkey", 1));
        app.restart_with(|config| config.previous_keys = Vec::new()).await;
        assert_eq!(tokens(&app, &connector).await, before);

        transit.is_away(true);
        let calls = transit.calls();
        assert_eq!(tokens(&app, &connector).await, before);
        app.advance(Duration::from_secs(3_400));
        app.run(Work::Refresh).await;
        assert_eq!(check(&app).await.unreadable, 0);
        app.connect_user(&connector, "u-9").await;
        assert_eq!(transit.calls(), calls, "nothing that serves asks the service");
        let refused = app.broker().begin_rotation(Actor::CommandLine).await.expect_err("no new key");
        assert!(format!("{refused:?}").contains("sealed or under maintenance"), "{refused:?}");
        assert_eq!(status(&app).await.keys.len(), 1, "nothing was changed");

        app.stop().await;
        let error = Server::start(app.config().clone()).await.expect_err("no key");
        assert!(error.may_pass());
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(format!("{error:?}").contains("sealed or under maintenance"), "{error:?} {source}");
        transit.is_away(false);
        app.restart().await;
        tokens(&app, &connector).await;
        app.broker().begin_rotation(Actor::CommandLine).await.expect("a key");
        assert_eq!(steps(app.broker()).await.1, RotationPhase::Done);
        assert!(status(&app).await.keys.iter().all(|key| key.wrapper == "transit:transit/valetkey"));
    }

    async fn a_start_without_a_key_that_the_data_needs_names_the_key(app: TestApp) {
        let mut app = app;
        filled(&app).await;
        let wrapper = status(&app).await.wrapper;
        app.stop().await;
        let mut config = app.config().clone();
        config.keyring = KeyringConfig::Key("//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=".into());
        let error = Server::start(config).await.expect_err("another key");
        assert!(!error.may_pass());
        let said = format!("{error:?}");
        assert!(said.contains(&wrapper) && said.contains("key_id: 1"), "{said}");
        app.restart().await;
        assert_eq!(check(&app).await.unreadable, 0, "and nothing was changed");
    }
}

async fn learn(server: &Server) {
    server.broker().learn_data_keys().await.expect("learnt");
}

/// Asks a replica for a user's token.
async fn ask(app: &TestApp, replica: &Server, connector: &TestConnector, user: &str) -> String {
    let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
    let body = json!({ "user_id": user });
    app.caller_at(replica, &key).post(&connector.path("/token"), &body).await.expect(200).text_of("access_token")
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn a_new_key_seals_once_every_replica_holds_it() {
    run_test(Setup::on(Engine::Postgres), async |app| {
        let connector = filled(&app).await;
        let before = tokens(&app, &connector).await;
        let fields = check(&app).await.fields;
        let replica = app.replica().await;
        run_at(&replica, Work::Keyring).await;
        app.run(Work::Keyring).await;
        assert_eq!(status(&app).await.replicas.len(), 2);

        app.broker().begin_rotation(Actor::CommandLine).await.expect("a key");
        let (sealed, phase) = steps(app.broker()).await;
        assert!(matches!(&phase, RotationPhase::Waiting { replicas } if replicas.len() == 1), "{phase:?}");
        assert_eq!((sealed, states(&status(&app).await)[1]), (0, (2, "pending", 0)));
        assert_eq!(ask(&app, &replica, &connector, "u-1").await, before[0]);

        // The replica takes the key up; the first one puts it to use, and the replica reads what it sealed.
        learn(&replica).await;
        let (sealed, phase) = steps(app.broker()).await;
        assert_eq!(sealed, fields);
        assert!(
            matches!(phase, RotationPhase::Waiting { .. }),
            "the old key stays until the replica seals with the new: {phase:?}"
        );
        for (user, token) in USERS.iter().zip(&before) {
            assert_eq!(ask(&app, &replica, &connector, user).await, *token);
        }
        learn(&replica).await;
        assert_eq!(steps(app.broker()).await.1, RotationPhase::Done);
        assert_eq!(states(&status(&app).await), [(1, "retired", 0), (2, "active", fields)]);
        assert!(replica.stop().await);
        assert_eq!(status(&app).await.replicas.len(), 1, "nobody waits for a replica that stopped");
    });
}
