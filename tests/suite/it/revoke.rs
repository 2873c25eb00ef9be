//! Taking a grant back: here at once, at the provider through the queue, with a truthful outcome.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use valetkey_suite::{
    ConnectorSpec, Setup, TestApp, TestConnector, Work, engine_tests,
    extra::{text_of, time_of},
    sandbox::{Commit, Fault, FaultRule, GrantEnd, RevocationReach, Rotation},
};

async fn disconnect(app: &TestApp, connector: &TestConnector, user: &str, label: &str) -> Value {
    let body = json!({ "user_id": user, "label": label });
    app.application().post(&connector.path("/disconnect"), &body).await.expect(200).json
}

/// Token kind and state of each of a connection's revocations.
async fn states(app: &TestApp, connection: &str) -> Vec<(String, String)> {
    let each = |one: &Value| (text_of(&one["token_kind"]), text_of(&one["state"]));
    app.revocations(connection).await.iter().map(each).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(kind, state)| ((*kind).to_owned(), (*state).to_owned())).collect()
}

fn status(code: u16) -> Fault {
    Fault::Status { code, body: String::new(), headers: BTreeMap::new() }
}

/// The profiles of this folder: `sandbox-token` reaches one token, `sandbox-grant` one grant.
fn with_profiles(setup: Setup) -> Setup {
    let profiles = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles"));
    setup.config(|config| config.providers_directory = Some(profiles))
}

engine_tests! {
    async fn a_disconnected_grant_is_gone_here_at_once_and_at_the_provider_soon(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1", "u-2"]).await;
        let id = &seeded[0].connection_id;
        app.fetch(&connector, "u-1").await.expect(200).done();
        let gone = disconnect(&app, &connector, "u-1", "").await;
        assert_eq!((&gone["connection"]["id"], &gone["connection"]["status"]), (&json!(id), &json!("revoking")));
        assert_eq!(gone["revocations"].as_array().map(Vec::len), Some(2));
        assert_eq!(gone["manual_url"], Value::Null);
        app.fetch(&connector, "u-1").await.expect_problem(404, "connection-not-found").done();
        assert!(app.provider().is_access_token_live(&seeded[0].access_token), "the provider was not told yet");
        assert_eq!(states(&app, id).await, pairs(&[("refresh", "queued"), ("access", "queued")]));

        app.run(Work::Deliver).await;
        assert_eq!(states(&app, id).await, pairs(&[("refresh", "confirmed"), ("access", "confirmed")]));
        assert_eq!(app.connection(id).await["status"], "revoked");
        let hints: Vec<_> = app.revocations_seen(&connector).iter().map(|event| event.parameters["token_type_hint"].clone()).collect();
        assert_eq!(hints, ["refresh_token", "access_token"], "refresh token first");
        assert_eq!(app.provider().grant(&seeded[0].grant).expect("known").ended, Some(GrantEnd::RevokedByClient));
        assert!(!app.provider().is_access_token_live(&seeded[0].access_token));
        app.fetch(&connector, "u-2").await.expect(200).done();
        // Nothing is stored of it any more.
        let left = "SELECT COUNT(*) FROM revocations WHERE token IS NOT NULL";
        assert_eq!(app.number(left).await, 0);
        let sealed = format!("SELECT COUNT(*) FROM connections WHERE id = '{id}' AND (access_token IS NOT NULL OR refresh_token IS NOT NULL)");
        assert_eq!(app.number(&sealed).await, 0);
    }

    async fn disconnecting_twice_says_how_it_stands(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        app.seed_import(&connector, &["u-1"]).await;
        disconnect(&app, &connector, "u-1", "").await;
        assert_eq!(disconnect(&app, &connector, "u-1", "").await["connection"]["status"], "revoking");
        app.run(Work::Deliver).await;
        let again = disconnect(&app, &connector, "u-1", "").await;
        assert_eq!((&again["connection"]["status"], &again["revocations"][0]["state"]), (&json!("revoked"), &json!("confirmed")));
        assert_eq!(app.revocations_seen(&connector).len(), 2);
    }

    async fn who_never_connected_cannot_disconnect(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let nobody = app.application().post(&connector.path("/disconnect"), &json!({ "user_id": "u-9" })).await;
        nobody.expect_problem(404, "connection-not-found").done();
        app.seed_import(&connector, &["u-1"]).await;
        let label = json!({ "user_id": "u-1", "label": "second" });
        app.application().post(&connector.path("/disconnect"), &label).await.expect_problem(404, "connection-not-found").done();
        app.application().post(&connector.path("/disconnect"), &json!({})).await.expect_fault("invalid-request", "user_id").done();
        app.fetch(&connector, "u-1").await.expect(200).done();
    }

    async fn a_shared_grant_is_taken_back_by_whom_may(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().shared()).await;
        let seeded = app.seed_import(&connector, &["everybody"]).await;
        let (path, body) = (connector.path("/disconnect"), json!({ "actor": "boss" }));
        app.application().post(&path, &body).await.expect_problem(403, "shared-role-required").done();
        app.fetch(&connector, "").await.expect(200).done();
        app.administration().post(&path, &json!({})).await.expect_fault("invalid-request", "actor").done();
        app.administration().post(&path, &body).await.expect(200).done();
        app.fetch(&connector, "").await.expect_problem(404, "connection-not-found").done();
        app.run(Work::Deliver).await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["status"], "revoked");
    }

    async fn an_operator_takes_one_connection_back(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let connection = app.connect_user(&connector, "u-1").await;
        let id = text_of(&connection["id"]);
        let path = format!("/v1/connections/{id}");
        let gone = app.operator().delete(&path).await.expect(200);
        assert_eq!(gone.json["revocations"][0]["reason"], "operator");
        app.fetch(&connector, "u-1").await.expect_problem(404, "connection-not-found").done();
        app.operator().delete(&path).await.expect(200).done();
        app.run(Work::Deliver).await;
        // The user may connect again, under the same id.
        let again = app.connect_user(&connector, "u-1").await;
        assert_eq!((&again["id"], &again["status"], &again["generation"]), (&json!(id), &json!("active"), &json!(2)));
    }

    async fn a_connection_that_needs_its_owner_can_be_taken_back(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        app.provider().revoke_grant_by_user(&seeded[0].grant);
        app.advance(Duration::from_secs(3_601));
        app.fetch(&connector, "u-1").await.expect_problem(409, "reconnect-required").done();
        disconnect(&app, &connector, "u-1", "").await;
        app.fetch(&connector, "u-1").await.expect_problem(404, "connection-not-found").done();
        app.settle().await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["status"], "revoked");
    }

    async fn a_provider_that_cannot_be_told_is_reported_as_such(app: TestApp) {
        let addresses = json!({
            "authorization": format!("{}/authorize", app.provider_url()), "token": format!("{}/token", app.provider_url()),
        });
        let connector = app.connector(ConnectorSpec::oauth2().with("endpoints", addresses)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        disconnect(&app, &connector, "u-1", "").await;
        app.run(Work::Deliver).await;
        let id = &seeded[0].connection_id;
        assert_eq!(states(&app, id).await, pairs(&[("refresh", "unsupported"), ("access", "unsupported")]));
        assert_eq!(app.connection(id).await["status"], "revoked", "gone here all the same");
        assert_eq!(app.revocations_seen(&connector).len(), 0);
    }

    async fn a_revocation_that_would_end_another_live_connection_is_not_sent(app: TestApp) {
        // Nothing is known of this provider, so a revocation may reach every grant of the same client and user.
        let connector = app.connector(ConnectorSpec::oauth2().client(|client| client.revocation = RevocationReach::UserClient)).await;
        let one = app.seed_import(&connector, &["u-1"]).await;
        let other = app.seed_import_with(&connector, &["u-1"], |_, line| line["label"] = json!("second")).await;
        disconnect(&app, &connector, "u-1", "").await;
        app.run(Work::Deliver).await;
        assert_eq!(states(&app, &one[0].connection_id).await, pairs(&[("refresh", "superseded"), ("access", "superseded")]));
        assert_eq!(disconnect(&app, &connector, "u-1", "").await["revocations"][0]["state"], "superseded", "the caller is told");
        app.fetch_with(&connector, "u-1", json!({ "label": "second" })).await.expect(200).done();
        assert!(app.provider().grant(&other[0].grant).expect("known").alive);
        // With the last one the provider is told.
        disconnect(&app, &connector, "u-1", "second").await;
        app.run(Work::Deliver).await;
        assert_eq!(states(&app, &other[0].connection_id).await, pairs(&[("refresh", "confirmed"), ("access", "confirmed")]));
        assert!(!app.provider().grant(&one[0].grant).expect("known").alive, "both are gone there");
    }

    async fn accounts_are_told_apart_where_the_provider_names_them(app: TestApp) {
        // Two users of the application with one account at the provider, and one with an account of its own.
        let connector = app.connector(ConnectorSpec::oidc().client(|client| client.revocation = RevocationReach::UserClient)).await;
        let mut ids = Vec::new();
        for (user, account) in [("u-1", "account-a"), ("u-2", "account-a"), ("u-3", "account-b")] {
            let started = app.start_flow(&connector, &connector.redirect(user)).await;
            let browser = app.browser(user);
            let callback = browser.consent_as(&browser.open(&started.start_url).await, account).await;
            let home = browser.come_home(&callback).await;
            ids.push(text_of(&app.finish(&connector, &home, user).await.expect(200).json["id"]));
        }
        disconnect(&app, &connector, "u-1", "").await;
        disconnect(&app, &connector, "u-3", "").await;
        app.run(Work::Deliver).await;
        assert_eq!(states(&app, &ids[0]).await[0].1, "superseded");
        assert_eq!(states(&app, &ids[2]).await[0].1, "confirmed");
        app.fetch(&connector, "u-2").await.expect(200).done();
    }

    async fn a_revocation_that_reaches_one_token_is_sent_whatever_else_lives(app: TestApp, setup = with_profiles) {
        let spec = ConnectorSpec::oauth2().with("provider", json!("sandbox-token"));
        let connector = app.connector(spec.client(|client| client.revocation = RevocationReach::Token)).await;
        let one = app.seed_import(&connector, &["u-1"]).await;
        app.seed_import_with(&connector, &["u-1"], |_, line| line["label"] = json!("second")).await;
        disconnect(&app, &connector, "u-1", "").await;
        app.run(Work::Deliver).await;
        assert_eq!(states(&app, &one[0].connection_id).await, pairs(&[("refresh", "confirmed"), ("access", "confirmed")]));
        assert!(!app.provider().is_access_token_live(&one[0].access_token));
        app.fetch_with(&connector, "u-1", json!({ "label": "second" })).await.expect(200).done();
    }

    async fn a_revocation_that_reaches_a_grant_spares_the_one_in_use(app: TestApp, setup = with_profiles) {
        let spec = ConnectorSpec::oauth2().with("provider", json!("sandbox-grant"));
        let connector = app.connector(spec.client(|client| client.revocation = RevocationReach::Grant)).await;
        let one = app.seed_import(&connector, &["u-1"]).await;
        app.seed_import_with(&connector, &["u-1"], |_, line| line["label"] = json!("second")).await;
        disconnect(&app, &connector, "u-1", "").await;
        app.run(Work::Deliver).await;
        assert_eq!(states(&app, &one[0].connection_id).await[0].1, "superseded");
        disconnect(&app, &connector, "u-1", "second").await;
        app.run(Work::Deliver).await;
        app.fetch_with(&connector, "u-1", json!({ "label": "second" })).await.expect_problem(404, "connection-not-found").done();
    }

    async fn a_reconnect_ends_the_refresh_token_it_replaces_where_that_is_safe(app: TestApp, setup = with_profiles) {
        let spec = ConnectorSpec::oauth2().with("provider", json!("sandbox-token"));
        let connector = app.connector(spec.client(|client| client.revocation = RevocationReach::Token)).await;
        let connection = app.connect_user(&connector, "u-1").await;
        app.connect_user(&connector, "u-1").await;
        app.run(Work::Deliver).await;
        let replaced = app.revocations(&text_of(&connection["id"])).await;
        assert_eq!(replaced.len(), 1, "{replaced:?}");
        assert_eq!((&replaced[0]["reason"], &replaced[0]["state"]), (&json!("replaced"), &json!("confirmed")));
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 2);
    }

    async fn a_provider_that_is_away_is_told_later(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let id = &seeded[0].connection_id;
        app.provider().inject(FaultRule::revoke(status(503)).times(2));
        disconnect(&app, &connector, "u-1", "").await;
        app.run(Work::Deliver).await;
        let queued = app.revocations(id).await[0].clone();
        assert_eq!((&queued["state"], &queued["tries"], &queued["outcome"]), (&json!("queued"), &json!(1), &json!("server_error")));
        assert!(time_of(&queued["next_try_at"]) > app.clock.now());
        app.run(Work::Deliver).await;
        assert_eq!(app.revocations_seen(&connector).len(), 1, "not before its time; the access token waits as well");
        app.advance(Duration::from_secs(3));
        app.run(Work::Deliver).await;
        assert_eq!(app.revocations(id).await[0]["tries"], 2);
        app.advance(Duration::from_secs(5));
        app.run(Work::Deliver).await;
        assert_eq!(states(&app, id).await, pairs(&[("refresh", "confirmed"), ("access", "confirmed")]));
    }

    async fn a_wait_that_the_provider_asks_for_is_honoured(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let retry_after = valetkey_suite::sandbox::RetryAfter::Seconds(300);
        app.provider().inject(FaultRule::revoke(Fault::RateLimited { retry_after }));
        disconnect(&app, &connector, "u-1", "").await;
        app.run(Work::Deliver).await;
        app.advance(Duration::from_secs(290));
        app.run(Work::Deliver).await;
        assert_eq!(app.revocations_seen(&connector).len(), 1);
        app.advance(Duration::from_secs(11));
        app.run(Work::Deliver).await;
        assert_eq!(states(&app, &seeded[0].connection_id).await[0].1, "confirmed");
    }

    async fn a_revocation_that_the_provider_refuses_has_failed_and_says_why(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let refused = Fault::OAuthError { status: 400, error: "a_word_of_their_own".to_owned() };
        app.provider().inject(FaultRule::revoke(refused).times(2));
        disconnect(&app, &connector, "u-1", "").await;
        app.run(Work::Deliver).await;
        let ended = app.revocations(&seeded[0].connection_id).await[0].clone();
        assert_eq!((&ended["state"], &ended["outcome"], &ended["next_try_at"]), (&json!("failed"), &json!("refused"), &Value::Null));
        assert_eq!(app.connection(&seeded[0].connection_id).await["status"], "revoked");
        let failed = app.operator().get("/v1/revocations?state=failed").await.expect(200);
        assert_eq!(failed.json["items"].as_array().map(Vec::len), Some(2));
    }

    async fn a_provider_that_never_comes_back_is_given_up_after_a_week(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        app.provider().set_down(true);
        disconnect(&app, &connector, "u-1", "").await;
        for _ in 0..9 {
            app.run(Work::Deliver).await;
            app.advance(Duration::from_secs(86_400));
        }
        app.run(Work::Deliver).await;
        let ended = app.revocations(&seeded[0].connection_id).await[0].clone();
        assert_eq!((&ended["state"], &ended["outcome"]), (&json!("failed"), &json!("server_error")));
        app.run(Work::Deliver).await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["status"], "revoked");
    }

    async fn what_is_queued_survives_a_restart(app: TestApp) {
        let mut app = app;
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        app.provider().inject(FaultRule::revoke(Fault::ResetBeforeAnswer).commit(Commit::Never));
        disconnect(&app, &connector, "u-1", "").await;
        app.run(Work::Deliver).await;
        app.restart().await;
        assert_eq!(states(&app, &seeded[0].connection_id).await[0].1, "queued");
        app.settle().await;
        assert_eq!(states(&app, &seeded[0].connection_id).await, pairs(&[("refresh", "confirmed"), ("access", "confirmed")]));
    }

    async fn an_unredeemed_code_of_somebody_else_leaves_nothing_at_the_provider(app: TestApp) {
        // A grant that was redeemed and cannot be stored is taken back: another account than before.
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        let started = app.start_flow(&connector, &connector.redirect("u-1")).await;
        let browser = app.browser("u-1");
        let callback = browser.consent_as(&browser.open(&started.start_url).await, "somebody-else").await;
        let home = browser.come_home(&callback).await;
        app.finish(&connector, &home, "u-1").await.expect_problem(409, "flow-failed").done();
        app.settle().await;
        let stray = app.provider().grants_of(&connector.client_id, "somebody-else");
        assert_eq!(stray[0].ended, Some(GrantEnd::RevokedByClient));
        app.fetch(&connector, "u-1").await.expect(200).done();
    }
}
