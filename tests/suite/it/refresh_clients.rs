//! The client's own registration: secrets that roll over, registrations that are refused, and tokens of the client's own.

use std::time::Duration;

use serde_json::{Value, json};
use valetkey_suite::{
    ConnectorSpec, TestApp, TestConnector, Work, engine_tests, plant,
    sandbox::{Fault, FaultRule, Rotation},
};

const HOUR: Duration = Duration::from_secs(3_601);

async fn set_secrets(app: &TestApp, connector: &TestConnector, secrets: &[&str]) {
    for secret in secrets {
        plant(secret, "a client secret");
    }
    app.admin().patch(&connector.path(""), &json!({ "client_secrets": secrets })).await.expect(200).done();
}

fn provider_accepts(app: &TestApp, connector: &TestConnector, secret: &str) {
    app.provider()
        .update_client(&connector.client_id, |client| client.secrets = vec![secret.to_owned()])
        .expect("a client");
}

engine_tests! {
    async fn a_refused_registration_opens_the_circuit_and_touches_no_connection(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let unharmed = app.connector(ConnectorSpec::oauth2()).await;
        let seeded = app.seed_import(&connector, &["u-1", "u-2"]).await;
        app.seed_import(&unharmed, &["u-1"]).await;
        provider_accepts(&app, &connector, "planted-next-secret-of-the-provider");
        app.advance(HOUR);
        let refused = app.fetch(&connector, "u-1").await.expect_problem(503, "client-refused");
        assert!(refused.retry_after() >= 15);
        app.fetch(&connector, "u-2").await.expect_problem(503, "client-refused").done();
        app.run(Work::Refresh).await;
        assert_eq!(app.refreshes(&connector).len(), 1, "the others are spared");
        app.fetch(&unharmed, "u-1").await.expect(200).done();
        for seeded in &seeded {
            let connection = app.connection(&seeded.connection_id).await;
            assert_eq!((&connection["status"], &connection["refreshing"]), (&json!("active"), &json!("ok")), "{connection}");
            assert_eq!(connection["generation"], 1);
        }

        // Once in a while somebody tries, one at a time.
        app.advance(Duration::from_secs(61));
        app.fetch(&connector, "u-1").await.expect_problem(503, "client-refused").done();
        app.fetch(&connector, "u-2").await.expect_problem(503, "client-refused").done();
        assert_eq!(app.refreshes(&connector).len(), 2);

        // New secrets are tried at once.
        set_secrets(&app, &connector, &["planted-next-secret-of-the-provider"]).await;
        app.advance(Duration::from_secs(1));
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 2);
        assert_eq!(app.fetch(&connector, "u-2").await.expect(200).json["generation"], 2, "the circuit is closed");
        assert_eq!(app.provider().counters().reuses, 0);
    }

    async fn a_valid_token_is_handed_out_while_the_registration_is_refused(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        provider_accepts(&app, &connector, "another");
        app.advance_to_due(&seeded[0].connection_id).await;
        app.run(Work::Refresh).await;
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 1);
    }

    async fn unauthorized_client_blames_no_connection_either(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let error = Fault::OAuthError { status: 400, error: "unauthorized_client".to_owned() };
        app.provider().inject(FaultRule::refresh(error));
        app.advance(HOUR);
        app.fetch(&connector, "u-1").await.expect_problem(503, "client-refused").done();
        assert_eq!(app.connection(&seeded[0].connection_id).await["status"], "active");
    }

    async fn the_next_secret_of_the_list_is_tried_in_the_same_attempt(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        set_secrets(&app, &connector, &["planted-secret-that-is-over", &connector.client_secret]).await;
        app.advance(HOUR);
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 2);
        let requests = app.refreshes(&connector);
        let seen: Vec<_> = requests.iter().map(|event| event.error.as_deref()).collect();
        assert_eq!(seen, [Some("invalid_client"), None]);
        let attempts = format!("SELECT send_no FROM attempts WHERE connection_id = '{}'", seeded[0].connection_id);
        assert_eq!(app.number(&attempts).await, 1, "it belongs to the same attempt");
    }

    async fn a_secret_that_the_provider_took_out_can_be_replaced_before_it_is_missed(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        app.seed_import(&connector, &["u-1"]).await;
        set_secrets(&app, &connector, &[&connector.client_secret, "planted-secret-to-come"]).await;
        provider_accepts(&app, &connector, "planted-secret-to-come");
        app.advance(HOUR);
        app.fetch(&connector, "u-1").await.expect(200).done();
        set_secrets(&app, &connector, &["planted-secret-to-come"]).await;
        app.advance(HOUR);
        app.fetch(&connector, "u-1").await.expect(200).done();
        assert_eq!(app.refreshes(&connector).len(), 3);
    }

    async fn client_credentials_are_fetched_by_the_first_caller_and_kept_fresh(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().client_credentials()).await;
        let list = format!("/v1/connections?connector_id={}", connector.id);
        assert_eq!(app.operator().get(&list).await.expect(200).json["items"], json!([]));
        let first = app.fetch(&connector, "").await.expect(200);
        assert_eq!(app.fetch(&connector, "").await.expect(200).json["access_token"], first.json["access_token"]);
        assert_eq!(app.token_requests(&connector, "client_credentials").len(), 1);
        let shown = app.operator().get(&list).await.expect(200).json["items"][0].clone();
        assert_eq!((&shown["owner"]["kind"], &shown["status"]), (&json!("shared"), &json!("active")));
        app.advance_to_due(first.json["connection_id"].as_str().expect("an id")).await;
        app.run(Work::Refresh).await;
        let next = app.fetch(&connector, "").await.expect(200);
        assert_eq!(next.json["generation"].as_i64(), first.json["generation"].as_i64().map(|one| one + 1));
        assert_eq!(app.token_requests(&connector, "client_credentials").len(), 2);
        let flow = app.administration().post(&connector.path("/flows"), &connector.redirect("boss")).await;
        flow.expect_fault("invalid-request", "connector").done();
    }

    async fn many_first_callers_of_a_client_cause_one_request(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().client_credentials()).await;
        let client = app.connector_client(&connector.id).await;
        app.provider().inject(FaultRule::token(Fault::HoldUntilReleased { gate: "answer".to_owned() }));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..30 {
            let (client, path) = (client.clone(), connector.path("/token"));
            callers.spawn(async move { client.post(&path, &json!({})).await });
        }
        assert!(app.provider().wait_until_held("answer").await);
        app.provider().release("answer");
        callers.join_all().await.into_iter().for_each(|answer| answer.expect(200).done());
        assert_eq!(app.token_requests(&connector, "client_credentials").len(), 1);
    }

    async fn client_credentials_never_need_an_owner(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().client_credentials()).await;
        let first = app.fetch(&connector, "").await.expect(200);
        let id = first.json["connection_id"].as_str().expect("an id");
        for fault in [
            Fault::OAuthError { status: 400, error: "invalid_grant".to_owned() },
            Fault::ResetBeforeAnswer,
            Fault::OAuthError { status: 400, error: "invalid_scope".to_owned() },
        ] {
            app.provider().inject(FaultRule::token(fault));
            app.advance(HOUR);
            app.fetch(&connector, "").await.expect_problem(503, "provider-unavailable").done();
            let connection = app.connection(id).await;
            assert_eq!((&connection["status"], &connection["needs_reauth"]), (&json!("active"), &Value::Null));
            app.advance(Duration::from_secs(60));
            app.fetch(&connector, "").await.expect(200).done();
        }
    }

    async fn a_client_that_nobody_asks_for_is_not_kept_fresh(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().client_credentials()).await;
        app.fetch(&connector, "").await.expect(200).done();
        app.run(Work::Issues).await;
        app.advance(Duration::from_secs(8 * 86_400));
        for _ in 0..3 {
            app.run(Work::Refresh).await;
            app.advance(HOUR);
        }
        assert_eq!(app.token_requests(&connector, "client_credentials").len(), 1);
        app.fetch(&connector, "").await.expect(200).done();
    }

    async fn a_rejected_token_of_the_client_is_replaced(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().client_credentials()).await;
        let first = app.fetch(&connector, "").await.expect(200);
        let rejected = json!({ "rejected": first.json["fingerprint"] });
        let next = app.fetch_with(&connector, "", rejected).await.expect(200);
        assert_ne!(next.json["access_token"], first.json["access_token"]);
    }

    async fn a_revoked_token_of_the_client_is_not_served_again(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().client_credentials()).await;
        let first = app.fetch(&connector, "").await.expect(200);
        let id = first.json["connection_id"].as_str().expect("an id");
        app.operator().delete(&format!("/v1/connections/{id}")).await.expect(200).done();
        app.settle().await;
        assert!(!app.provider().is_access_token_live(&first.text_of("access_token")));
        let next = app.fetch(&connector, "").await.expect(200);
        assert_ne!(next.json["access_token"], first.json["access_token"]);
        assert!(app.provider().is_access_token_live(&next.text_of("access_token")));
    }
}
