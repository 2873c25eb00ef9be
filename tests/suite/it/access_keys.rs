//! Who may fetch tokens: keys, what they are narrowed to, and how often they may ask.

use std::time::Duration;

use serde_json::json;
use valetkey_suite::{Answer, Client, ConnectorSpec, Setup, TestConnector, engine_tests};

/// A call with a caller's own body.
async fn ask(client: &Client, connector: &TestConnector, body: serde_json::Value) -> Answer {
    client.post(&connector.path("/token"), &body).await
}

engine_tests! {
    async fn a_key_fetches_only_for_the_connectors_it_names(app: TestApp) {
        let one = app.connector(ConnectorSpec::oidc()).await;
        let two = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&one, "u-1").await;
        app.connect_user(&two, "u-1").await;
        let client = app.connector_client(&one.id).await;
        let body = json!({ "user_id": "u-1" });
        ask(&client, &one, body.clone()).await.expect(200).done();
        let hidden = ask(&client, &two, body.clone()).await.expect_problem(404, "connector-not-found");
        let absent = client.post("/v1/connectors/ctr_00000000000000000000000000/token", &body).await;
        let absent = absent.expect_problem(404, "connector-not-found");
        assert_eq!(hidden.text_without_request_id(), absent.text_without_request_id());
    }

    async fn other_spaces_do_not_exist(app: TestApp) {
        app.space("other").await;
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        let elsewhere = app.key(&["admin"], None, "other").await;
        let foreign = app.connector_by(&elsewhere, ConnectorSpec::oidc()).await;
        let client = app.key(&["connector"], Some(&[&foreign.id]), "other").await;
        let body = json!({ "user_id": "u-1" });
        let hidden = ask(&client, &connector, body.clone()).await.expect_problem(404, "connector-not-found");
        let absent = client.post("/v1/connectors/ctr_00000000000000000000000000/token", &body).await;
        assert_eq!(hidden.text_without_request_id(), absent.text_without_request_id());
        ask(&client, &foreign, body).await.expect_problem(404, "connection-not-found").done();
    }

    async fn only_the_role_connector_fetches_tokens(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        let body = json!({ "user_id": "u-1" });
        for client in [app.admin(), app.operator(), app.application(), app.administration()] {
            ask(&client, &connector, body.clone()).await.expect_problem(403, "forbidden").done();
        }
        ask(&app.anonymous(), &connector, body).await.expect_problem(401, "unauthenticated").done();
    }

    async fn a_revoked_key_is_refused_at_its_next_call(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        let new = json!({ "name": "Sync", "roles": ["connector"], "connectors": [connector.id] });
        let made = app.admin().post("/v1/keys", &new).await.expect(201);
        let client = app.caller(&made.text_of("key"));
        let body = json!({ "user_id": "u-1" });
        ask(&client, &connector, body.clone()).await.expect(200).done();
        app.admin().delete(&format!("/v1/keys/{}", made.text_of("id"))).await;
        ask(&client, &connector, body.clone()).await.expect_problem(401, "unauthenticated").done();
        client.get("/v1/providers").await.expect_problem(401, "unauthenticated").done();
    }

    async fn a_key_that_expires_is_refused_from_then_on(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        let until = app.clock.now().plus(Duration::from_secs(100)).to_string();
        let new = json!({ "name": "Sync", "roles": ["connector"], "connectors": [connector.id], "expires_at": until });
        let made = app.admin().post("/v1/keys", &new).await.expect(201);
        let client = app.caller(&made.text_of("key"));
        let body = json!({ "user_id": "u-1" });
        ask(&client, &connector, body.clone()).await.expect(200).done();
        app.advance(Duration::from_secs(101));
        ask(&client, &connector, body).await.expect_problem(401, "unauthenticated").done();
    }

    async fn keys_that_are_not_whole_are_all_refused_alike(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let new = json!({ "name": "Sync", "roles": ["connector"], "connectors": [connector.id] });
        let key = app.admin().post("/v1/keys", &new).await.expect(201).text_of("key");
        let other = app.admin().post("/v1/keys", &new).await.expect(201).text_of("key");
        let (id, secret) = (&key[..30], &other[30..]);
        let mut flipped = key.clone().into_bytes();
        flipped[40] ^= 1;
        let flipped = String::from_utf8(flipped).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for bad in [
            "",
            "x",
            "vk_",
            &key[1..],
            &key[..key.len() - 1],
            &format!("{key}0"),
            &format!("{id}{secret}"),
            &flipped,
            &key.to_uppercase(),
        ] {
            let answer = ask(&app.caller(bad), &connector, json!({ "user_id": "u-1" })).await;
            let answer = answer.expect_problem(401, "unauthenticated");
            assert!(answer.header("www-authenticate").starts_with("Bearer"));
            seen.insert(answer.text_without_request_id());
        }
        assert_eq!(seen.len(), 1, "{seen:?}");
    }

    async fn token_calls_are_counted_for_each_key(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.calls.token_calls_per_second_and_key = 5),
    ) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        let client = app.connector_client(&connector.id).await;
        let body = json!({ "user_id": "u-1" });
        let mut refused = None;
        for _ in 0..50 {
            let answer = ask(&client, &connector, body.clone()).await;
            if answer.status != 200 {
                refused = Some(answer);
                break;
            }
        }
        let refused = refused.expect("the quota is five a second").expect_problem(429, "limit-reached");
        assert_eq!(refused.json["limit"], "token-calls");
        app.fetch(&connector, "u-1").await.expect(200).done();
        app.advance(Duration::from_secs(refused.retry_after()));
        ask(&client, &connector, body).await.expect(200).done();
    }

    async fn what_does_not_fit_is_refused_by_name(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for (body, code, field) in [
            (json!({ "user_id": "u-1", "min_tll": 60 }), "unknown-field", "min_tll"),
            (json!({ "user_id": 17 }), "wrong-type", "user_id"),
            (json!({ "user_id": "u-1", "min_ttl": "60" }), "wrong-type", "min_ttl"),
            (json!({ "user_id": "u-1", "scopes": "read" }), "wrong-type", "scopes"),
            (json!({ "user_id": "u-1", "rejected": "short" }), "invalid-request", "rejected"),
            (json!({ "user_id": "u-1", "start": { "mode": "popup" } }), "missing-field", "start.return_url"),
        ] {
            let client = app.connector_client(&connector.id).await;
            ask(&client, &connector, body).await.expect_fault(code, field).done();
        }
        let client = app.connector_client(&connector.id).await;
        let path = connector.path("/token");
        client.post_raw(&path, "application/json", "{\"user_id\":").await.expect_problem(400, "malformed-json").done();
        client.post_raw(&path, "text/plain", "{}").await.expect_problem(415, "unsupported-media-type").done();
        client
            .post_raw(&path, "application/json", format!("{{\"user_id\":\"{}\"}}", "u".repeat(70_000)))
            .await
            .expect_problem(413, "body-too-large")
            .done();
        client.get(&path).await.expect_problem(405, "method-not-allowed").done();
        client.post("/v1/connectors/nonsense/token", &json!({})).await.expect_problem(400, "invalid-path").done();
    }
}
