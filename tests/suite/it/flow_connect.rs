//! The whole flow, from the start link to a stored connection.

use serde_json::json;
use url::Url;
use valetkey_suite::{ConnectorSpec, ORIGIN, RETURN_URL, engine_tests};

engine_tests! {
    async fn a_popup_brings_a_handle_home_and_finish_makes_the_connection(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        assert_eq!(app.flow_status(&connector, &started.flow_id).await, ("pending".to_owned(), None));

        let home = app.browser("u-1").walk(&started.start_url).await;
        assert_eq!(home.flow_id, started.flow_id);
        assert_eq!(home.origin.as_deref(), Some(ORIGIN));
        assert_eq!(home.target.as_str().split('#').next(), Some(RETURN_URL));
        assert!(home.target.query().is_none(), "a popup's load is in the fragment: {}", home.target.path());
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "awaiting_finish");
        assert!(app.provider().token_requests().is_empty(), "nothing is redeemed before finish");

        let connection = app.finish(&connector, &home, "u-1").await.expect(200).json;
        assert_eq!(connection["connector_id"], connector.id);
        assert_eq!(connection["owner"], json!({ "kind": "user", "user_id": "u-1" }));
        assert_eq!(connection["status"], "active");
        assert_eq!(connection["generation"], 1);
        assert_eq!(connection["label"], "");
        assert_eq!(connection["weakly_bound"], false);
        assert_eq!(connection["scopes"]["granted"], json!(["openid", "read"]));
        assert_eq!(connection["account"]["issuer"], app.provider_url());
        assert_eq!(connection["account"]["subject"], "u-1");
        assert!(connection["refresh_due_at"].is_string());
        let status = app.application().get(&format!("/v1/flows/{}", started.flow_id)).await.expect(200);
        assert_eq!(status.json["status"], "connected");
        assert_eq!(status.json["connection_id"], connection["id"]);
        assert_eq!(app.provider().token_requests().len(), 1);
    }

    async fn a_redirect_comes_home_to_the_return_url(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.redirect("u-1")).await;
        let home = app.browser("u-1").walk(&started.start_url).await;
        assert_eq!(home.page.status, 303);
        assert_eq!(home.origin, None);
        assert_eq!(home.target.as_str().split('?').next(), Some(RETURN_URL));
        assert!(home.target.fragment().is_none());
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }

    async fn a_return_url_keeps_the_query_that_was_registered(app: TestApp) {
        let target = "https://app.example/connected?tenant=a%26b";
        let connector = app.connector(ConnectorSpec::oidc().with("return_urls", json!([target]))).await;
        let mut body = connector.redirect("u-1");
        body["return_url"] = json!(target);
        let started = app.start_flow(&connector, &body).await;
        let home = app.browser("u-1").walk(&started.start_url).await;
        assert!(home.target.as_str().starts_with(&format!("{target}&flow_id=")));
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }

    async fn a_provider_with_given_endpoints_connects_too(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let connection = app.connect_user(&connector, "u-1").await;
        assert_eq!(connection["provider"], "oauth2");
        assert_eq!(connection["account"], json!(null));
        app.fetch(&connector, "u-1").await.expect(200).done();
    }

    async fn the_authorization_request_has_pkce_and_a_state_of_256_bits(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().client(|client| client.require_pkce = true)).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let location: Url = app.browser("u-1").open(&started.start_url).await.parse().unwrap();
        let of = |name: &str| {
            let mut found = location.query_pairs().filter(|(key, _)| key == name).map(|(_, value)| value.into_owned());
            let value = found.next().unwrap_or_default();
            assert_eq!(found.next(), None, "{name} comes twice");
            value
        };
        assert_eq!(of("response_type"), "code");
        assert_eq!(of("client_id"), connector.client_id);
        assert_eq!(of("scope"), "openid read");
        assert_eq!(of("code_challenge_method"), "S256");
        assert_eq!((of("code_challenge").len(), of("state").len(), of("nonce").len()), (43, 43, 43));
        assert_eq!(of("redirect_uri"), app.url(&format!("/oauth/callback/{}", connector.id)));
        assert_eq!(connector.json["redirect_uri"], of("redirect_uri"));
    }

    async fn the_redirect_uri_comes_from_the_public_address_and_never_from_the_host(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let request = browser.request(reqwest::Method::POST, &started.start_url);
        let forged = request
            .header("accept", "application/json")
            .header("host", "evil.example")
            .header("x-forwarded-host", "evil.example")
            .header("forwarded", "host=evil.example");
        let page = browser.send(forged).await.expect(200);
        assert!(!page.html.contains("evil.example"), "{}", page.html);
    }

    async fn each_flow_has_its_own_state_verifier_and_nonce(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let mut seen = std::collections::BTreeSet::new();
        for person in ["u-1", "u-2", "u-1"] {
            let started = app.start_flow(&connector, &connector.popup(person)).await;
            let location: Url = app.browser(person).open(&started.start_url).await.parse().unwrap();
            for (name, value) in location.query_pairs() {
                if ["state", "code_challenge", "nonce"].contains(&&*name) {
                    assert!(seen.insert(value.into_owned()), "{name} came twice");
                }
            }
        }
        assert_eq!(seen.len(), 9);
    }

    async fn a_login_hint_reaches_the_provider(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let mut body = connector.popup("u-1");
        body["login_hint"] = json!("someone@app.example");
        let started = app.start_flow(&connector, &body).await;
        let location: Url = app.browser("u-1").open(&started.start_url).await.parse().unwrap();
        assert!(location.query_pairs().any(|(name, value)| name == "login_hint" && value == "someone@app.example"));
    }

    async fn reconnecting_continues_the_connection(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let first = app.connect_user(&connector, "u-1").await;
        let second = app.connect_user(&connector, "u-1").await;
        assert_eq!(second["id"], first["id"]);
        assert_eq!(second["generation"], 2);
        let answer = app.fetch(&connector, "u-1").await.expect(200);
        assert_eq!(answer.json["generation"], 2);
    }

    async fn two_users_have_two_connections(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let one = app.connect_user(&connector, "u-1").await;
        let two = app.connect_user(&connector, "u-2").await;
        assert_ne!(one["id"], two["id"]);
        let token_one = app.fetch(&connector, "u-1").await.expect(200).text_of("access_token");
        let token_two = app.fetch(&connector, "u-2").await.expect(200).text_of("access_token");
        assert_eq!(app.provider().grant_of_token(&token_one).unwrap().user, "u-1");
        assert_eq!(app.provider().grant_of_token(&token_two).unwrap().user, "u-2");
    }

    async fn no_answer_of_the_api_ever_holds_the_handle(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let home = app.browser("u-1").walk(&started.start_url).await;
        let flow = format!("/v1/flows/{}", started.flow_id);
        let waiting = app.application().get(&flow).await.expect(200);
        let finished = app.finish(&connector, &home, "u-1").await.expect(200);
        let connected = app.application().get(&flow).await.expect(200);
        let audit = app.operator().get("/v1/audit?limit=200").await.expect(200);
        let refused = app.finish_with(&connector, &started.flow_id, &json!({ "handle": 5 })).await;
        for answer in [waiting, finished, connected, audit, refused] {
            assert!(!answer.text.contains(home.handle()), "{}", answer.request);
            assert!(!format!("{:?}", answer.headers).contains(home.handle()), "{}", answer.request);
        }
    }

    async fn the_whole_flow_is_in_the_audit(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let connection = app.connect_user(&connector, "u-1").await;
        let audit = app.operator().get("/v1/audit?limit=200").await.expect(200);
        let events = audit.json["items"].as_array().unwrap();
        let find = |action: &str| events.iter().find(|event| event["action"] == action);
        for action in ["connector.created", "flow.started", "flow.opened", "flow.callback", "connection.connected"] {
            let event = find(action).unwrap_or_else(|| panic!("no {action} in {}", audit.text));
            assert_eq!(event["connector_id"], connector.id, "{action}");
            assert!(event["request_id"].is_string(), "{action}");
        }
        assert_eq!(find("connection.connected").unwrap()["connection_id"], connection["id"]);
        assert_eq!(find("flow.opened").unwrap()["actor"]["kind"], "browser");
        assert_eq!(find("flow.started").unwrap()["actor"]["kind"], "key");
    }
}
