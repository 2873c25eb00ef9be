//! Import: grants that were made elsewhere move in, line by line.

use std::time::Duration;

use serde_json::{Value, json};
use valetkey_suite::{Answer, Client, ConnectorSpec, TestApp, TestConnector, Work, engine_tests, plant};

const IMPORT: &str = "/v1/connections/import";

async fn send(client: &Client, body: impl Into<reqwest::Body>) -> Answer {
    client.post_raw(IMPORT, "application/x-ndjson", body).await
}

/// Sends lines; the report of each.
async fn import(app: &TestApp, lines: &[Value]) -> Vec<Value> {
    let body = lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    reports(&send(&app.admin(), body).await.expect(200))
}

fn reports(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    answer.text.lines().map(|line| serde_json::from_str(line).expect("a report a line")).collect()
}

/// A grant at the provider as a line for this user.
fn line(app: &TestApp, connector: &TestConnector, user: &str) -> Value {
    let grant = app.provider().seed_grant(&connector.client_id, user, &["read"]).expect("a grant");
    let refresh_token = grant.refresh_token.expect("a refresh token");
    plant(&refresh_token, "a refresh token");
    json!({
        "connector_id": connector.id,
        "user_id": user,
        "access_token": grant.access_token,
        "refresh_token": refresh_token,
        "expires_at": app.clock.now().plus(Duration::from_secs(3_600)).to_string(),
    })
}

fn code(report: &Value) -> &str {
    report["problem"]["code"].as_str().unwrap_or_default()
}

engine_tests! {
    async fn imported_grants_are_served_and_refreshed(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let lines = [line(&app, &connector, "u-1"), line(&app, &connector, "u-2")];
        let reports = import(&app, &lines).await;
        let numbers: Vec<_> = reports.iter().map(|report| (&report["line"], &report["generation"])).collect();
        assert_eq!(numbers, [(&json!(1), &json!(1)), (&json!(2), &json!(1))]);
        let token = app.fetch(&connector, "u-1").await.expect(200);
        assert_eq!((&token.json["access_token"], &token.json["connection_id"]), (&lines[0]["access_token"], &reports[0]["connection_id"]));
        assert_eq!(token.json["scopes"], connector.json["scopes"], "the connector's own, where the line says nothing");
        app.advance(Duration::from_secs(3_400));
        app.run(Work::Refresh).await;
        assert_eq!(app.fetch(&connector, "u-2").await.expect(200).json["generation"], 2);
        let events = app.audit("action=connection.imported").await;
        assert_eq!(events.len(), 2);
        assert_eq!(events[0]["connection_id"], reports[1]["connection_id"]);
        assert!(events.iter().all(|event| event["request_id"].is_string() && event["owner"]["kind"] == "user"));
    }

    async fn each_line_stands_for_itself(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let shared = app.connector(ConnectorSpec::oauth2().shared()).await;
        let client = app.connector(ConnectorSpec::oauth2().client_credentials()).await;
        let good = line(&app, &connector, "u-1");
        let with = |member: &str, value: Value| {
            let mut changed = good.clone();
            changed[member] = value;
            changed.to_string()
        };
        let without = |member: &str| {
            let mut changed = good.clone();
            changed.as_object_mut().expect("an object").remove(member);
            changed.to_string()
        };
        let nothing = json!({ "connector_id": connector.id, "user_id": "u-5" }).to_string();
        let cases = [
            ("{".to_owned(), "malformed-json"),
            ("[]".to_owned(), "wrong-type"),
            ("{}".to_owned(), "missing-field"),
            ("not json at all".to_owned(), "malformed-json"),
            (with("connector_id", json!("ctr_00000000000000000000000000")), "connector-not-found"),
            (with("connector_id", json!("nonsense")), "invalid-request"),
            (with("user_id", json!("")), "invalid-request"),
            (with("user_id", json!("x".repeat(257))), "invalid-request"),
            (with("user_id", json!("a\u{0}b")), "invalid-request"),
            (with("user_id", json!(5)), "wrong-type"),
            (with("label", json!("x".repeat(65))), "invalid-request"),
            (with("expires_at", json!("tomorrow")), "invalid-request"),
            (with("expires_at", json!(1_700_000_000)), "wrong-type"),
            (with("scopes", json!("read")), "wrong-type"),
            (with("replace", json!("yes")), "wrong-type"),
            (with("id_token", json!("x")), "unknown-field"),
            (with("connector_id", json!(shared.id)), "invalid-request"),
            (with("connector_id", json!(client.id)), "invalid-request"),
            (without("user_id"), "invalid-request"),
            (without("connector_id"), "missing-field"),
            (nothing, "invalid-request"),
            (with("access_token", json!("x".repeat(70_000))), "body-too-large"),
            (with("access_token", json!("two\nlines")), "invalid-request"),
            (with("refresh_token", json!("")), "invalid-request"),
        ];
        let mut body = String::new();
        for (bad, _) in &cases {
            // A good line after each bad one.
            let user = format!("good-{}", body.len());
            body = format!("{body}{bad}\n{}\n", line(&app, &connector, &user));
        }
        let reports = reports(&send(&app.admin(), body).await.expect(200));
        assert_eq!(reports.len(), cases.len() * 2);
        for (number, (bad, expected)) in cases.iter().enumerate() {
            let report = &reports[number * 2];
            assert_eq!(report["line"], number * 2 + 1);
            let shown: String = bad.chars().take(200).collect();
            assert_eq!(code(report), *expected, "{shown}: {report}");
            assert!(report.get("connection_id").is_none());
            assert!(reports[number * 2 + 1]["connection_id"].is_string(), "the line after {shown}: {}", reports[number * 2 + 1]);
        }
        let stored = app.number("SELECT COUNT(*) FROM connections").await;
        assert_eq!(stored, i64::try_from(cases.len()).expect("few"));
    }

    async fn an_active_connection_is_replaced_only_if_told_so(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let connection = app.connect_user(&connector, "u-1").await;
        let mut new = line(&app, &connector, "u-1");
        let refused = import(&app, std::slice::from_ref(&new)).await;
        assert_eq!(code(&refused[0]), "connection-exists");
        assert_ne!(app.fetch(&connector, "u-1").await.expect(200).json["access_token"], new["access_token"]);
        new["replace"] = json!(true);
        let replaced = import(&app, std::slice::from_ref(&new)).await;
        assert_eq!((&replaced[0]["connection_id"], &replaced[0]["generation"]), (&connection["id"], &json!(2)));
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["access_token"], new["access_token"]);
        // Another account of the same user is another connection.
        new["label"] = json!("second");
        new["replace"] = json!(false);
        let beside = import(&app, std::slice::from_ref(&new)).await;
        assert_ne!(beside[0]["connection_id"], connection["id"]);
    }

    async fn a_dead_connection_is_brought_back(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        app.provider().revoke_grant_by_user(&seeded[0].grant);
        app.advance(Duration::from_secs(3_601));
        app.fetch(&connector, "u-1").await.expect_problem(409, "reconnect-required").done();
        let back = import(&app, &[line(&app, &connector, "u-1")]).await;
        assert_eq!(back[0]["connection_id"], seeded[0].connection_id);
        app.fetch(&connector, "u-1").await.expect(200).done();
    }

    async fn a_refresh_token_alone_is_enough(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let mut alone = line(&app, &connector, "u-1");
        alone["access_token"] = Value::Null;
        alone["expires_at"] = Value::Null;
        let reports = import(&app, &[alone]).await;
        assert_eq!(reports[0]["generation"], 1, "{reports:?}");
        let token = app.fetch(&connector, "u-1").await.expect(200);
        assert_eq!(token.json["generation"], 2, "the first caller waits for the first refresh");
        assert!(app.provider().is_access_token_live(&token.text_of("access_token")));
        // The scheduler finds it too.
        let mut other = line(&app, &connector, "u-2");
        other["access_token"] = Value::Null;
        import(&app, &[other]).await;
        app.run(Work::Refresh).await;
        assert_eq!(app.refreshes(&connector).len(), 2);
    }

    async fn empty_lines_are_nothing_and_numbers_count_them(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let body = format!("\n  \n{}\r\n\n{}", line(&app, &connector, "u-1"), line(&app, &connector, "u-2"));
        let reports = reports(&send(&app.admin(), body).await.expect(200));
        let numbers: Vec<_> = reports.iter().map(|report| report["line"].as_u64()).collect();
        assert_eq!(numbers, [Some(3), Some(5)]);
        assert!(reports.iter().all(|report| report["connection_id"].is_string()), "{reports:?}");
        let nothing = send(&app.admin(), "").await.expect(200);
        assert_eq!(nothing.text, "");
    }

    async fn an_import_is_ndjson(app: TestApp) {
        for content_type in ["application/json", "text/plain", ""] {
            let refused = app.admin().post_raw(IMPORT, content_type, "{}").await;
            refused.expect_problem(415, "unsupported-media-type").done();
        }
    }

    async fn an_import_may_be_larger_than_any_other_body(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let users: Vec<String> = (0..500).map(|number| format!("user-with-a-rather-long-name-{number}")).collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        let seeded = app.seed_import(&connector, &users).await;
        assert_eq!(seeded.len(), 500);
        app.fetch(&connector, users[499]).await.expect(200).done();
    }

    async fn nothing_is_imported_into_another_space(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        app.space("other").await;
        let elsewhere = app.key(&["admin"], None, "other").await;
        let foreign = reports(&send(&elsewhere, line(&app, &connector, "u-1").to_string()).await.expect(200));
        assert_eq!(code(&foreign[0]), "connector-not-found");
        // Nor by a key that does not name the connector.
        let other = app.connector(ConnectorSpec::oauth2()).await;
        let narrowed = app.key(&["admin"], Some(&[&other.id]), "default").await;
        let hidden = reports(&send(&narrowed, line(&app, &connector, "u-1").to_string()).await.expect(200));
        assert_eq!(code(&hidden[0]), "connector-not-found");
        assert_eq!(app.number("SELECT COUNT(*) FROM connections").await, 0);
    }
}
