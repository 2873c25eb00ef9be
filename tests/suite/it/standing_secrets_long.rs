//! The search for secrets at length: a hundred thousand answers, right and wrong.

use std::io::Write as _;

use serde_json::{Value, json};
use valetkey_suite::{ConnectorSpec, Engine, Setup, TestApp, run_test, sandbox::Rotation, witnessed};

use crate::standing_secrets::{records, walk, whatever_left_the_server_in_this_whole_run_holds_no_secret};

/// Answers of a documented run: `cargo test -p valetkey-suite --test it a_hundred_thousand -- --ignored`.
const ANSWERS: usize = 100_000;

#[test]
#[ignore = "takes minutes: a run to be documented"]
fn a_hundred_thousand_answers_hold_no_secret() {
    let setup = Setup::on(Engine::Sqlite).config(|config| {
        config.limits.starts_per_minute_and_user = 1_000_000;
        config.limits.starts_per_hour_and_user = 1_000_000;
        config.limits.open_flows_per_user = 1_000_000;
        config.limits.open_flows_per_caller = 1_000_000;
        config.limits.open_flows_total = 1_000_000;
        config.calls.token_calls_per_second_and_key = 1_000_000;
    });
    run_test(setup, async |app| {
        let before = witnessed().len();
        let mut walk = walk(&app).await;
        let connector = app.connector(ConnectorSpec::oidc().rotation(Rotation::Strict)).await;
        let users: Vec<String> = (0..50).map(|number| format!("u-{number}")).collect();
        for seeded in app.seed_import(&connector, &users.iter().map(String::as_str).collect::<Vec<_>>()).await {
            walk.keep(seeded.access_token, "an imported access token");
            walk.keep(seeded.refresh_token.expect("one"), "an imported refresh token");
        }
        let mut tasks = tokio::task::JoinSet::new();
        for worker in 0..4 {
            let calls = calls(&app, &connector, worker).await;
            tasks.spawn(async move {
                for turn in 0..=ANSWERS / 4 / calls.len() {
                    for (number, (client, method, path, body)) in calls.iter().enumerate() {
                        let mut body = body.clone();
                        if let Some(user) = body.as_mut().and_then(|body| body.get_mut("user_id")) {
                            *user = json!(format!("u-{}", (turn + number) % 55));
                        }
                        client.call(method, path, body.as_ref()).await.done();
                    }
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("a worker");
        }
        let seen = witnessed();
        let answers = records(&seen[before..]).iter().filter(|seen| seen.kind.starts_with("answer ")).count();
        assert!(answers >= ANSWERS, "{answers}");
        let mut hits = walk.hits_since(before);
        hits.extend(walk.hits_stored(&app));
        hits.truncate(10);
        assert_eq!(hits, Vec::<String>::new(), "{answers} answers");
        let _ = writeln!(std::io::stderr(), "{answers} answers searched for {} secrets", walk.secrets.len());
    });
    whatever_left_the_server_in_this_whole_run_holds_no_secret();
}

type Call = (valetkey_suite::Client, &'static str, String, Option<Value>);

/// Right and wrong calls of every kind, with secrets where they do not belong.
async fn calls(app: &TestApp, connector: &valetkey_suite::TestConnector, worker: usize) -> Vec<Call> {
    let wrong = "planted-in-a-wrong-place-0123456789";
    let (admin, application) = (app.admin(), app.application());
    let client = app.connector_client(&connector.id).await;
    let outsider = app.key(&["operator"], None, "default").await;
    let token = connector.path("/token");
    let flow = app.start_flow(connector, &connector.redirect(&format!("w-{worker}"))).await.flow_id;
    let get = |client: &valetkey_suite::Client, path: &str| (client.clone(), "GET", path.to_owned(), None);
    vec![
        (client.clone(), "POST", token.clone(), Some(json!({ "user_id": "u-1" }))),
        (client.clone(), "POST", token.clone(), Some(json!({ "user_id": "u-1", "scopes": ["read", "write"] }))),
        (client.clone(), "POST", token.clone(), Some(json!({ "user_id": "u-1", "rejected": wrong }))),
        (client.clone(), "POST", token.clone(), Some(json!({ "user_id": "u-1", "min_ttl": wrong }))),
        (client.clone(), "POST", token.clone(), Some(json!({ "user_id": "u-1", wrong: 1 }))),
        (client.clone(), "POST", token.clone(), Some(json!({ "user_id": { "secret": wrong } }))),
        (outsider, "POST", token.clone(), Some(json!({ "user_id": "u-1" }))),
        (app.caller(wrong), "POST", token, Some(json!({ "user_id": "u-1" }))),
        (application.clone(), "POST", connector.path("/flows"), Some(connector.redirect("u-1"))),
        (
            application.clone(),
            "POST",
            format!("/v1/flows/{flow}/finish"),
            Some(json!({ "user_id": "u-1", "handle": wrong })),
        ),
        (admin.clone(), "POST", "/v1/keys".to_owned(), Some(json!({ "name": wrong, "roles": [wrong] }))),
        (admin.clone(), "PATCH", connector.path(""), Some(json!({ "client_secrets": wrong }))),
        (admin.clone(), "PATCH", connector.path(""), Some(json!({ "client_id": wrong }))),
        get(&application, &format!("/v1/flows/{flow}")),
        get(&application, "/v1/connections?user_id=u-1"),
        get(&admin, "/v1/connections?limit=5"),
        get(&admin, &connector.path("")),
        get(&admin, "/v1/audit?limit=5"),
        get(&admin, "/v1/keys?limit=5"),
        get(&admin, "/v1/revocations?limit=5"),
        get(&admin, &format!("/v1/connections?token={wrong}")),
        get(&admin, &format!("/v1/connections/{wrong}")),
        get(&admin, &format!("/{wrong}")),
        get(&app.anonymous(), "/metrics"),
    ]
}
