//! Finish: only the backend of the user who started a flow redeems its code, and only once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use valetkey_suite::{
    ConnectorSpec, Home, TestApp, TestConnector, engine_tests,
    sandbox::{Endpoint, Fault, FaultRule},
};

/// S256 of the verifier `v`, 43 times over.
const CHALLENGE: &str = "7w_YNF9DSfIdPf_pRjSq646_kPr-2-o9NAl16JGghdM";
const SECRETS_LEFT: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM flows \
     WHERE code IS NOT NULL OR verifier IS NOT NULL OR nonce IS NOT NULL";

async fn walk(app: &TestApp, connector: &TestConnector, person: &str) -> Home {
    let started = app.start_flow(connector, &connector.popup(person)).await;
    app.browser(person).walk(&started.start_url).await
}

fn hold(app: &TestApp, gate: &str) {
    app.provider().inject(FaultRule::token(Fault::HoldUntilReleased { gate: gate.to_owned() }));
}

engine_tests! {
    async fn another_user_ends_the_flow_and_nothing_is_redeemed(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = walk(&app, &connector, "u-1").await;
        app.finish(&connector, &home, "u-2").await.expect_problem(403, "finish-mismatch").done();
        let status = app.flow_status(&connector, &home.flow_id).await;
        assert_eq!(status, ("failed".to_owned(), Some("user-mismatch".to_owned())));
        assert_eq!(app.number(SECRETS_LEFT).await, 0, "the code is erased");
        assert!(app.provider().token_requests().is_empty());
        app.finish(&connector, &home, "u-1").await.expect_problem(409, "flow-failed").done();
        let audit = app.operator().get("/v1/audit?action=flow.failed").await.expect(200);
        assert!(audit.text.contains(&home.flow_id), "{}", audit.text);
    }

    async fn a_finish_without_a_user_counts_as_another_user(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for (person, body) in [
            ("u-1", json!({})),
            ("u-2", json!({ "actor": "u-2" })),
            ("u-3", json!({ "user_id": "u-3", "actor": "u-3" })),
            ("u-4", json!({ "user_id": "U-4" })),
        ] {
            let home = walk(&app, &connector, person).await;
            let mut body = body;
            body["handle"] = json!(home.handle());
            app.finish_with(&connector, &home.flow_id, &body).await.expect_problem(403, "finish-mismatch").done();
        }
        assert!(app.provider().token_requests().is_empty());
    }

    async fn a_wrong_handle_is_refused_and_the_flow_goes_on(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = walk(&app, &connector, "u-1").await;
        let other = walk(&app, &connector, "u-2").await;
        for wrong in [&"a".repeat(43), "", other.handle(), &home.handle()[1..]] {
            let body = json!({ "handle": wrong, "user_id": "u-1" });
            app.finish_with(&connector, &home.flow_id, &body).await.expect_problem(403, "handle-refused").done();
        }
        app.finish(&connector, &home, "u-1").await.expect(200).done();
        app.finish(&connector, &other, "u-2").await.expect(200).done();
    }

    async fn a_flow_that_did_not_come_back_cannot_be_finished(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let body = json!({ "handle": "a".repeat(43), "user_id": "u-1" });
        let refused = app.finish_with(&connector, &started.flow_id, &body).await.expect_problem(409, "flow-not-ready");
        assert_eq!(refused.json["flow_status"], "pending");
    }

    async fn a_handle_lapses(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = walk(&app, &connector, "u-1").await;
        app.advance(Duration::from_secs(61));
        app.finish(&connector, &home, "u-1").await.expect_problem(410, "handle-expired").done();
        let status = app.flow_status(&connector, &home.flow_id).await;
        assert_eq!(status, ("failed".to_owned(), Some("handle-expired".to_owned())));
        assert_eq!(app.number(SECRETS_LEFT).await, 0);
        assert!(app.provider().token_requests().is_empty());
    }

    async fn a_flow_lapses_with_its_handle(
        app: TestApp,
        setup = |setup: valetkey_suite::Setup| {
            setup.config(|config| {
                config.limits.flow_life = Duration::from_secs(60);
                config.limits.handle_life = Duration::from_secs(600);
            })
        },
    ) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = walk(&app, &connector, "u-1").await;
        app.advance(Duration::from_secs(61));
        app.finish(&connector, &home, "u-1").await.expect_problem(410, "flow-expired").done();
        assert!(app.provider().token_requests().is_empty());
    }

    async fn a_binding_verifier_must_fit_its_challenge(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for (person, verifier) in [("u-1", None), ("u-2", Some("w".repeat(43))), ("u-3", Some(String::new()))] {
            let mut body = connector.popup(person);
            body["binding_challenge"] = json!(CHALLENGE);
            let started = app.start_flow(&connector, &body).await;
            let home = app.browser(person).walk(&started.start_url).await;
            let mut body = json!({ "handle": home.handle(), "user_id": person });
            if let Some(verifier) = verifier {
                body["binding_verifier"] = json!(verifier);
            }
            app.finish_with(&connector, &home.flow_id, &body).await.expect_problem(403, "finish-mismatch").done();
            let status = app.flow_status(&connector, &home.flow_id).await;
            assert_eq!(status, ("failed".to_owned(), Some("binding-mismatch".to_owned())));
        }
        assert!(app.provider().token_requests().is_empty());
        let mut body = connector.popup("u-4");
        body["binding_challenge"] = json!(CHALLENGE);
        let started = app.start_flow(&connector, &body).await;
        let home = app.browser("u-4").walk(&started.start_url).await;
        let body = json!({ "handle": home.handle(), "user_id": "u-4", "binding_verifier": "v".repeat(43) });
        app.finish_with(&connector, &home.flow_id, &body).await.expect(200).done();
    }

    async fn a_verifier_without_a_challenge_is_refused(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = walk(&app, &connector, "u-1").await;
        let body = json!({ "handle": home.handle(), "user_id": "u-1", "binding_verifier": "v".repeat(43) });
        app.finish_with(&connector, &home.flow_id, &body).await.expect_problem(403, "finish-mismatch").done();
    }

    async fn finishing_again_gives_the_same_connection_until_the_flows_end(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = walk(&app, &connector, "u-1").await;
        let first = app.finish(&connector, &home, "u-1").await.expect(200).json;
        app.advance(Duration::from_secs(300));
        let second = app.finish(&connector, &home, "u-1").await.expect(200).json;
        assert_eq!((&second["id"], &second["generation"]), (&first["id"], &first["generation"]));
        assert_eq!(app.provider().token_requests().len(), 1);
        app.finish(&connector, &home, "u-2").await.expect_problem(403, "finish-mismatch").done();
        app.finish(&connector, &home, "u-1").await.expect(200).done();
        app.advance(Duration::from_secs(301));
        app.finish(&connector, &home, "u-1").await.expect_problem(409, "flow-not-ready").done();
    }

    async fn of_many_finishes_at_once_one_redeems_and_all_are_answered(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = walk(&app, &connector, "u-1").await;
        hold(&app, "redeem");
        let path = format!("/v1/flows/{}/finish", home.flow_id);
        let body = json!({ "handle": home.handle(), "user_id": "u-1" });
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (application, path, body) = (app.application(), path.clone(), body.clone());
            calls.spawn(async move { application.post(&path, &body).await });
        }
        assert!(app.provider().wait_until_held("redeem").await);
        assert_eq!(app.flow_status(&connector, &home.flow_id).await.0, "finishing");
        app.provider().release("redeem");
        let answers = calls.join_all().await;
        let connection = answers[0].json["id"].clone();
        for answer in answers {
            assert_eq!(answer.expect(200).json["id"], connection);
        }
        assert_eq!(app.provider().token_requests().len(), 1);
    }

    async fn a_caller_who_hangs_up_is_connected_all_the_same(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = walk(&app, &connector, "u-1").await;
        hold(&app, "redeem");
        let path = format!("/v1/flows/{}/finish", home.flow_id);
        let body = json!({ "handle": home.handle(), "user_id": "u-1" });
        let (application, sent) = (app.application(), body.clone());
        let call = tokio::spawn(async move { application.post(&path, &sent).await });
        assert!(app.provider().wait_until_held("redeem").await);
        call.abort();
        assert!(call.await.is_err(), "the caller hung up");
        app.provider().release("redeem");
        // A repeat waits for the redemption under way.
        app.finish_with(&connector, &home.flow_id, &body).await.expect(200).done();
        assert_eq!(app.provider().token_requests().len(), 1);
        app.fetch(&connector, "u-1").await.expect(200).done();
    }

    async fn a_code_that_the_provider_refuses_fails_the_flow(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for (person, fault, code) in [
            ("u-1", Fault::OAuthError { status: 400, error: "invalid_grant".to_owned() }, "code-refused"),
            ("u-2", Fault::OAuthError { status: 401, error: "invalid_client".to_owned() }, "client-refused"),
            ("u-3", Fault::ResetBeforeAnswer, "provider-unavailable"),
            ("u-4", Fault::NotJson, "provider-unavailable"),
            (
                "u-5",
                Fault::Status { code: 500, body: "planted".to_owned(), headers: BTreeMap::default() },
                "provider-unavailable",
            ),
            ("u-6", Fault::OversizedBody { bytes: 70_000 }, "provider-unavailable"),
        ] {
            let home = walk(&app, &connector, person).await;
            app.provider().inject(FaultRule::new(Endpoint::Token, fault));
            let refused = app.finish(&connector, &home, person).await.expect_problem(409, "flow-failed");
            assert_eq!(refused.json["flow_code"], code, "{person}");
            assert!(!refused.text.contains("planted"));
            let status = app.flow_status(&connector, &home.flow_id).await;
            assert_eq!(status, ("failed".to_owned(), Some(code.to_owned())));
            // The code was presented once; saying it again presents nothing.
            let before = app.provider().token_requests().len();
            app.finish(&connector, &home, person).await.expect_problem(409, "flow-failed").done();
            assert_eq!(app.provider().token_requests().len(), before);
        }
        assert_eq!(app.number(SECRETS_LEFT).await, 0);
        assert_eq!(app.number("SELECT CAST(COUNT(*) AS BIGINT) FROM connections").await, 0);
    }

    async fn the_next_client_secret_is_tried_when_the_first_is_refused(app: TestApp) {
        let spec = ConnectorSpec::oidc().client(|client| client.secrets.insert(0, "rolled-over".to_owned()));
        let body = json!(["an-old-secret", "rolled-over"]);
        let connector = app.connector(spec.with("client_secrets", body)).await;
        app.connect_user(&connector, "u-1").await;
        assert_eq!(app.provider().token_requests().len(), 2);
    }

    async fn a_shared_flow_is_finished_by_the_actor_who_started_it(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().shared()).await;
        let home = walk(&app, &connector, "admin-1").await;
        let body = json!({ "handle": home.handle(), "actor": "admin-1" });
        let path = format!("/v1/flows/{}/finish", home.flow_id);
        app.application().post(&path, &body).await.expect_problem(403, "shared-role-required").done();
        app.finish(&connector, &home, "admin-1").await.expect(200).done();
        let home = walk(&app, &connector, "admin-1").await;
        app.finish(&connector, &home, "admin-2").await.expect_problem(403, "finish-mismatch").done();
        let audit = app.operator().get("/v1/audit?action=flow.started").await.expect(200);
        assert_eq!(audit.json["items"][0]["detail"]["actor"], "admin-1");
    }

    async fn flows_of_another_space_do_not_exist(app: TestApp) {
        app.space("other").await;
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = walk(&app, &connector, "u-1").await;
        let stranger = app.key(&["app", "shared"], None, "other").await;
        let flow = format!("/v1/flows/{}", home.flow_id);
        let absent = "/v1/flows/flw_00000000000000000000000000";
        let body = json!({ "handle": home.handle(), "user_id": "u-1" });
        for (one, two) in [
            (stranger.get(&flow).await, stranger.get(absent).await),
            (
                stranger.post(&format!("{flow}/finish"), &body).await,
                stranger.post(&format!("{absent}/finish"), &body).await,
            ),
            (
                stranger.post(&format!("{flow}/cancel"), &json!({})).await,
                stranger.post(&format!("{absent}/cancel"), &json!({})).await,
            ),
        ] {
            let (one, two) = (one.expect_problem(404, "flow-not-found"), two.expect_problem(404, "flow-not-found"));
            assert_eq!(one.text_without_request_id(), two.text_without_request_id());
        }
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }

    async fn a_redemption_that_died_with_its_process_fails_the_flow(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = Arc::new(walk(&app, &connector, "u-1").await);
        // As if the process had been killed between its two statements.
        let changed = "UPDATE flows SET status = 'finishing', lease_until = 1";
        app.change(changed).await;
        app.run(valetkey_suite::Work::Recover).await;
        let status = app.flow_status(&connector, &home.flow_id).await;
        assert_eq!(status, ("failed".to_owned(), Some("interrupted".to_owned())));
        app.finish(&connector, &home, "u-1").await.expect_problem(409, "flow-failed").done();
        assert_eq!(app.number(SECRETS_LEFT).await, 0);
    }
}
