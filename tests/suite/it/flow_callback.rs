//! The provider's answer: what it must say, what it may not say, and what comes home when it says no.

use std::time::Duration;

use serde_json::json;
use valetkey_suite::{
    Browser, ConnectorSpec, Home, Started, TestApp, TestConnector, engine_tests, sandbox::IssParameter,
};

/// Starts a popup flow and walks to the provider's answer.
async fn to_callback(app: &TestApp, connector: &TestConnector, person: &str) -> (Started, Browser, String) {
    let started = app.start_flow(connector, &connector.popup(person)).await;
    let browser = app.browser(person);
    let location = browser.open(&started.start_url).await;
    let callback = browser.consent(&location).await;
    (started, browser, callback)
}

/// An address without one of its parameters.
fn without(address: &str, name: &str) -> String {
    let mut url: url::Url = address.parse().unwrap();
    let kept: Vec<(String, String)> =
        url.query_pairs().filter(|(key, _)| key != name).map(|(key, value)| (key.into(), value.into())).collect();
    url.query_pairs_mut().clear().extend_pairs(kept);
    url.into()
}

engine_tests! {
    async fn an_issuer_that_differs_ends_the_flow(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let issuer = app.provider_url().to_owned();
        for (person, other) in [
            ("u-1", "https://evil.example".to_owned()),
            ("u-2", format!("{issuer}/")),
            ("u-3", issuer.replace("http", "HTTP")),
            ("u-4", String::new()),
        ] {
            app.provider().update_settings(|settings| settings.authorize.iss = IssParameter::Other(other));
            let (started, browser, callback) = to_callback(&app, &connector, person).await;
            let home = browser.come_home(&callback).await;
            assert_eq!(home.flow_id, started.flow_id);
            home.expect_code("issuer-mismatch");
            let status = app.flow_status(&connector, &started.flow_id).await;
            assert_eq!(status, ("failed".to_owned(), Some("issuer-mismatch".to_owned())));
        }
        assert!(app.provider().token_requests().is_empty());
    }

    async fn an_issuer_that_was_promised_must_be_there(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.provider().update_settings(|settings| settings.authorize.iss = IssParameter::Absent);
        let (_, browser, callback) = to_callback(&app, &connector, "u-1").await;
        browser.come_home(&callback).await.expect_code("issuer-mismatch");
    }

    async fn an_issuer_that_was_not_promised_may_be_absent(
        app: TestApp,
        setup = |setup: valetkey_suite::Setup| {
            setup.sandbox(|settings| {
                settings.discovery.advertise_iss = false;
                settings.authorize.iss = IssParameter::Absent;
            })
        },
    ) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        app.provider().update_settings(|settings| {
            settings.authorize.iss = IssParameter::Other("https://evil.example".to_owned());
        });
        let (_, browser, callback) = to_callback(&app, &connector, "u-2").await;
        browser.come_home(&callback).await.expect_code("issuer-mismatch");
    }

    async fn a_parameter_that_comes_twice_is_refused_and_burns_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let (started, browser, callback) = to_callback(&app, &connector, "u-1").await;
        let url: url::Url = callback.parse().unwrap();
        for name in ["code", "state", "iss"] {
            let (_, value) = url.query_pairs().find(|(key, _)| key == name).unwrap();
            for again in [&*value, "other", ""] {
                let mut doubled = url.clone();
                doubled.query_pairs_mut().append_pair(name, again);
                browser.get(doubled.as_str()).await.expect_failure(400, "callback-invalid");
            }
        }
        let mut doubled = url.clone();
        doubled.query_pairs_mut().append_pair("error", "a").append_pair("error", "a");
        browser.get(doubled.as_str()).await.expect_failure(400, "callback-invalid");
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "pending");
        let home = browser.come_home(&callback).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }

    async fn a_code_and_an_error_together_are_refused(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let (_, browser, callback) = to_callback(&app, &connector, "u-1").await;
        browser.get(&format!("{callback}&error=access_denied")).await.expect_failure(400, "callback-invalid");
        browser.come_home(&callback).await.handle();
    }

    async fn an_answer_without_state_or_without_code_is_refused(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let (_, browser, callback) = to_callback(&app, &connector, "u-1").await;
        browser.get(&without(&callback, "state")).await.expect_failure(400, "callback-invalid");
        browser.get(&without(&callback, "code")).await.expect_failure(400, "callback-invalid");
        browser.get(&format!("{}&code=", without(&callback, "code"))).await.expect_failure(400, "callback-invalid");
        browser
            .get(&app.url(&format!("/oauth/callback/{}", connector.id)))
            .await
            .expect_failure(400, "callback-invalid");
        browser.come_home(&callback).await.handle();
    }

    async fn a_state_that_nobody_made_is_refused(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let (started, browser, callback) = to_callback(&app, &connector, "u-1").await;
        let forged = format!("{}&state={}", without(&callback, "state"), "a".repeat(43));
        browser.get(&forged).await.expect_failure(404, "link-not-found");
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "pending");
    }

    async fn parameters_that_nobody_knows_are_ignored(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.provider().update_settings(|settings| {
            settings.authorize.extra.insert("session_state".to_owned(), "<b>planted</b>".to_owned());
            settings.authorize.extra.insert("scope".to_owned(), "everything".to_owned());
        });
        let (_, browser, callback) = to_callback(&app, &connector, "u-1").await;
        let home = browser.come_home(&format!("{callback}&utm_source=a&utm_source=b")).await;
        assert!(!home.page.html.contains("planted"));
        let connection = app.finish(&connector, &home, "u-1").await.expect(200).json;
        assert_eq!(connection["scopes"]["granted"], json!(["openid", "read"]));
    }

    async fn a_refusal_comes_home_with_its_code(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for (person, body) in [("u-1", connector.popup("u-1")), ("u-2", connector.redirect("u-2"))] {
            let started = app.start_flow(&connector, &body).await;
            let browser = app.browser(person);
            let location = browser.open(&started.start_url).await;
            let callback = browser.deny(&location).await;
            let home = browser.come_home(&callback).await;
            assert_eq!(home.flow_id, started.flow_id);
            home.expect_code("access-denied");
            let status = app.flow_status(&connector, &started.flow_id).await;
            assert_eq!(status, ("failed".to_owned(), Some("access-denied".to_owned())));
        }
    }

    async fn every_error_of_the_provider_has_a_code_of_ours_and_none_of_its_text_is_shown(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for (number, (error, code)) in [
            ("access_denied", "access-denied"),
            ("server_error", "provider-unavailable"),
            ("temporarily_unavailable", "provider-unavailable"),
            ("unauthorized_client", "client-refused"),
            ("invalid_scope", "client-refused"),
            ("invalid_request", "client-refused"),
            ("login_required", "provider-error"),
            ("planted<script>alert(1)</script>", "provider-error"),
        ]
        .into_iter()
        .enumerate()
        {
            app.provider().update_settings(|settings| {
                settings.authorize.error = Some(error.to_owned());
                settings.authorize.error_description = Some("planted <img src=x onerror=alert(1)>".to_owned());
            });
            let person = format!("u-{number}");
            let (started, browser, callback) = to_callback(&app, &connector, &person).await;
            let home = browser.come_home(&format!("{callback}&error_uri=https://planted.example")).await;
            home.expect_code(code);
            assert!(!home.page.html.contains("planted") && !home.target.as_str().contains("planted"));
            let flow = app.application().get(&format!("/v1/flows/{}", started.flow_id)).await.expect(200);
            assert_eq!(flow.json["code"], code);
            assert!(!flow.text.contains("planted"));
        }
        let audit = app.operator().get("/v1/audit?limit=200").await.expect(200);
        assert!(!audit.text.contains("planted"), "{}", audit.text);
        assert!(app.provider().token_requests().is_empty());
    }

    async fn an_answer_after_the_flows_life_is_refused(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let (started, browser, callback) = to_callback(&app, &connector, "u-1").await;
        app.advance(Duration::from_secs(601));
        let page = browser.get(&callback).await.expect_failure(410, "flow-expired");
        assert!(Home::find(&page).is_none_or(|home| home.handle.is_none()));
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "expired");
    }

    async fn a_provider_that_cannot_be_discovered_any_more_fails_the_flow_at_home(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let (started, browser, callback) = to_callback(&app, &connector, "u-1").await;
        app.provider().set_down(true);
        let home = browser.come_home(&callback).await;
        // What was discovered before is still known: the answer is judged by it.
        home.handle();
        let refused = app.finish(&connector, &home, "u-1").await.expect_problem(409, "flow-failed");
        assert_eq!(refused.json["flow_code"], "provider-unavailable");
        let status = app.flow_status(&connector, &started.flow_id).await;
        assert_eq!(status, ("failed".to_owned(), Some("provider-unavailable".to_owned())));
    }
}
