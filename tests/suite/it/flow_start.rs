//! Starting: who may, where to, with which scopes, how often.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use valetkey_suite::{ConnectorSpec, RETURN_URL, Setup, TestApp, TestConnector, engine_tests};

/// Starts with one member changed; null takes it out.
async fn start_with(app: &TestApp, connector: &TestConnector, member: &str, value: Value) -> valetkey_suite::Answer {
    let mut body = connector.popup("u-1");
    match value {
        Value::Null => drop(body.as_object_mut().unwrap().remove(member)),
        value => body[member] = value,
    }
    app.try_start(connector, &body).await
}

engine_tests! {
    async fn a_return_url_must_be_registered_character_for_character(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for other in [
            "https://app.example/connected/",
            "https://app.example/connected?x=1",
            "https://app.example/connected#x",
            "https://APP.example/connected",
            "https://app.example:443/connected",
            "https://app.example/./connected",
            "https://app.example/%63onnected",
            "https://user@app.example/connected",
            "https://app.example.evil.example/connected",
            "http://app.example/connected",
            "//app.example/connected",
            "/connected",
            "javascript:alert(1)",
            "*",
            "",
        ] {
            start_with(&app, &connector, "return_url", json!(other))
                .await
                .expect_fault("invalid-request", "return_url")
                .done();
        }
        start_with(&app, &connector, "return_url", json!(RETURN_URL)).await.expect(201).done();
    }

    async fn an_origin_must_be_registered_character_for_character(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for other in [
            "https://app.example/",
            "https://app.example:443",
            "https://APP.example",
            "https://evil.example",
            "null",
            "*",
            "",
        ] {
            start_with(&app, &connector, "origin", json!(other)).await.expect_fault("invalid-request", "origin").done();
        }
        start_with(&app, &connector, "origin", Value::Null).await.expect_fault("invalid-request", "origin").done();
    }

    async fn a_popup_relays_on_the_origin_that_opened_it(app: TestApp) {
        let other = json!(["https://app.example", "https://other.example"]);
        let connector = app.connector(ConnectorSpec::oidc().with("origins", other)).await;
        let refused = start_with(&app, &connector, "origin", json!("https://other.example")).await;
        refused.expect_fault("invalid-request", "return_url").done();
    }

    async fn an_origin_has_no_place_in_a_redirect(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        start_with(&app, &connector, "mode", json!("redirect")).await.expect_fault("invalid-request", "origin").done();
    }

    async fn a_connector_refuses_targets_that_are_no_safe_addresses(app: TestApp) {
        for (field, bad) in [
            ("return_urls", "*"),
            ("return_urls", "https://*.app.example/"),
            ("return_urls", "http://app.example/"),
            ("return_urls", "javascript:alert(1)"),
            ("return_urls", "https://app.example/#x"),
            ("origins", "*"),
            ("origins", "null"),
            ("origins", "https://app.example/"),
        ] {
            let body = ConnectorSpec::oidc().with(field, json!([bad])).body(app.provider_url());
            app.admin().post("/v1/connectors", &body).await.expect_fault("invalid-request", field).done();
        }
    }

    async fn scopes_are_those_of_the_connector_and_the_optional_ones(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        start_with(&app, &connector, "scopes", json!(["openid", "admin"]))
            .await
            .expect_fault("invalid-request", "scopes")
            .done();
        start_with(&app, &connector, "scopes", json!(["read write"]))
            .await
            .expect_fault("invalid-request", "scopes")
            .done();
        let mut body = connector.popup("u-1");
        body["scopes"] = json!(["openid", "write"]);
        let connection = app.connect_with(&connector, &body).await;
        assert_eq!(connection["scopes"]["requested"], json!(["openid", "write"]));
        assert_eq!(connection["scopes"]["granted"], json!(["openid", "write"]));
    }

    async fn what_the_provider_grants_is_what_counts(app: TestApp) {
        let narrow = |client: &mut valetkey_suite::sandbox::ClientSettings| {
            client.grantable_scopes = Some(vec!["openid".to_owned()]);
        };
        let connector = app.connector(ConnectorSpec::oidc().client(narrow)).await;
        let connection = app.connect_user(&connector, "u-1").await;
        assert_eq!(connection["scopes"]["requested"], json!(["openid", "read"]));
        assert_eq!(connection["scopes"]["granted"], json!(["openid"]));
    }

    async fn a_flow_names_the_person_that_its_connector_asks_for(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        start_with(&app, &connector, "user_id", Value::Null).await.expect_fault("invalid-request", "user_id").done();
        start_with(&app, &connector, "actor", json!("admin-1")).await.expect_fault("invalid-request", "actor").done();
        start_with(&app, &connector, "user_id", json!("")).await.expect_problem(422, "invalid-request").done();
        start_with(&app, &connector, "user_id", json!("a\u{0}b")).await.expect_problem(422, "invalid-request").done();
        start_with(&app, &connector, "user_id", json!("u".repeat(257)))
            .await
            .expect_problem(422, "invalid-request")
            .done();
        start_with(&app, &connector, "user_id", json!("ü".repeat(128))).await.expect(201).done();
    }

    async fn a_shared_flow_needs_an_actor_and_the_role_shared(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().shared()).await;
        let flows = connector.path("/flows");
        app.application()
            .post(&flows, &connector.popup("admin-1"))
            .await
            .expect_problem(403, "shared-role-required")
            .done();
        start_with(&app, &connector, "actor", Value::Null).await.expect_fault("invalid-request", "actor").done();
        start_with(&app, &connector, "user_id", json!("u-1")).await.expect_fault("invalid-request", "user_id").done();
        let connection = app.connect_user(&connector, "admin-1").await;
        assert_eq!(connection["owner"], json!({ "kind": "shared" }));
        app.fetch(&connector, "").await.expect(200).done();
    }

    async fn client_credentials_have_no_flows(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().client_credentials()).await;
        app.try_start(&connector, &connector.popup("admin-1"))
            .await
            .expect_fault("invalid-request", "connector")
            .done();
    }

    async fn what_does_not_fit_its_type_is_refused_by_name(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        start_with(&app, &connector, "mode", json!("window")).await.expect_fault("invalid-request", "mode").done();
        start_with(&app, &connector, "mode", Value::Null).await.expect_fault("missing-field", "mode").done();
        start_with(&app, &connector, "return_to", json!("x")).await.expect_fault("unknown-field", "return_to").done();
        start_with(&app, &connector, "scopes", json!("read")).await.expect_fault("wrong-type", "scopes").done();
        for bad in ["short", &"a".repeat(44), &"!".repeat(43)] {
            start_with(&app, &connector, "binding_challenge", json!(bad))
                .await
                .expect_fault("invalid-request", "binding_challenge")
                .done();
        }
        start_with(&app, &connector, "user_display", json!("a\nb"))
            .await
            .expect_fault("invalid-request", "user_display")
            .done();
        start_with(&app, &connector, "label", json!("l".repeat(65)))
            .await
            .expect_problem(422, "invalid-request")
            .done();
        let raw = app.application().post_raw(&connector.path("/flows"), "application/json", "{").await;
        raw.expect_problem(400, "malformed-json").done();
    }

    async fn open_flows_are_capped_for_each_user_and_old_ones_live(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.limits.open_flows_per_user = 2),
    ) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let first = app.start_flow(&connector, &connector.popup("u-1")).await;
        let second = app.start_flow(&connector, &connector.popup("u-1")).await;
        let refused = app.try_start(&connector, &connector.popup("u-1")).await.expect_problem(429, "limit-reached");
        assert_eq!(refused.json["limit"], "open-flows");
        app.start_flow(&connector, &connector.popup("u-2")).await;
        let home = app.browser("u-1").walk(&first.start_url).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
        app.application().post(&format!("/v1/flows/{}/cancel", second.flow_id), &json!({})).await.expect(204).done();
        app.start_flow(&connector, &connector.popup("u-1")).await;
        app.start_flow(&connector, &connector.popup("u-1")).await;
        app.try_start(&connector, &connector.popup("u-1")).await.expect_problem(429, "limit-reached").done();
        app.advance(Duration::from_secs(601));
        app.start_flow(&connector, &connector.popup("u-1")).await;
    }

    async fn open_flows_are_capped_for_each_key(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.limits.open_flows_per_caller = 1),
    ) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.start_flow(&connector, &connector.popup("u-1")).await;
        app.try_start(&connector, &connector.popup("u-2")).await.expect_problem(429, "limit-reached").done();
        app.administration().post(&connector.path("/flows"), &connector.popup("u-2")).await.expect(201).done();
    }

    async fn open_flows_are_capped_in_all(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.limits.open_flows_total = 1),
    ) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.start_flow(&connector, &connector.popup("u-1")).await;
        let refused = app.administration().post(&connector.path("/flows"), &connector.popup("u-2")).await;
        refused.expect_problem(429, "limit-reached").done();
    }

    async fn starts_are_counted_for_each_user_and_minute(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.limits.starts_per_minute_and_user = 3),
    ) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for _ in 0..3 {
            app.start_flow(&connector, &connector.popup("u-1")).await;
        }
        let refused = app.try_start(&connector, &connector.popup("u-1")).await.expect_problem(429, "limit-reached");
        assert_eq!(refused.json["limit"], "starts");
        let wait = refused.retry_after();
        assert!((1..=20).contains(&wait), "a third of a minute brings one back, not {wait} s");
        app.start_flow(&connector, &connector.popup("u-2")).await;
        app.advance(Duration::from_secs(wait));
        app.start_flow(&connector, &connector.popup("u-1")).await;
    }

    async fn starts_are_counted_for_each_user_and_hour(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.limits.starts_per_hour_and_user = 2),
    ) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for _ in 0..2 {
            app.start_flow(&connector, &connector.popup("u-1")).await;
            app.advance(Duration::from_secs(61));
        }
        let refused = app.try_start(&connector, &connector.popup("u-1")).await.expect_problem(429, "limit-reached");
        assert!(refused.retry_after() > 60);
    }

    async fn starts_of_one_person_are_counted_over_all_connectors(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.limits.starts_per_minute_and_user = 1),
    ) {
        let one = app.connector(ConnectorSpec::oidc()).await;
        let two = app.connector(ConnectorSpec::oidc()).await;
        app.start_flow(&one, &one.popup("u-1")).await;
        app.try_start(&two, &two.popup("u-1")).await.expect_problem(429, "limit-reached").done();
    }

    async fn a_start_link_is_only_shown_by_get_and_refuses_head(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let preview = app.browser("preview");
        for _ in 0..3 {
            let page = preview.get(&started.start_url).await.expect(200);
            assert!(page.header("set-cookie").is_empty());
        }
        preview.send(preview.request(Method::HEAD, &started.start_url)).await.expect(405);
        for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            preview.send(preview.request(method, &started.start_url)).await.expect(405);
        }
        assert_eq!(app.number("SELECT CAST(COUNT(*) AS BIGINT) FROM flows WHERE browser_hash IS NOT NULL").await, 0);
        let home = app.browser("u-1").walk(&started.start_url).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }

    async fn an_unknown_start_link_has_a_page_that_says_so(app: TestApp) {
        let browser = app.browser("u-1");
        for ticket in ["x", &"a".repeat(43), "..%2F..", "%00", &"a".repeat(5000)] {
            let page = browser.get(&app.url(&format!("/connect/{ticket}"))).await;
            assert!([404, 414].contains(&page.status), "{ticket}: {}", page.status);
        }
        let page = browser.get(&app.url(&format!("/connect/{}", "a".repeat(43)))).await;
        page.expect_failure(404, "link-not-found");
        browser.post_start(&app.url(&format!("/connect/{}", "a".repeat(43)))).await.expect(404);
    }

    async fn a_flow_expires_after_its_life(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        app.advance(Duration::from_secs(599));
        app.browser("u-1").get(&started.start_url).await.expect(200);
        app.advance(Duration::from_secs(2));
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "expired");
        app.browser("u-1").get(&started.start_url).await.expect_failure(410, "flow-expired");
        app.browser("u-1").post_start(&started.start_url).await.expect(410);
    }

    async fn a_provider_that_is_down_refuses_the_start_or_the_opening(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let discovered = app.connector(ConnectorSpec::oidc()).await;
        app.provider().set_down(true);
        let refused = app.try_start(&discovered, &discovered.popup("u-1")).await;
        refused.expect_problem(503, "provider-unavailable").done();
        // Nothing has to be asked of a provider whose endpoints are known.
        app.start_flow(&connector, &connector.popup("u-1")).await;
        app.provider().set_down(false);
        app.advance(Duration::from_secs(11));
        app.start_flow(&discovered, &discovered.popup("u-1")).await;
    }
}
