//! Who may do what: one table, and every operation of the API with every identity.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use valetkey_core::{Clock, KeyId, PresentedKey, SystemClock, SystemEntropy};
use valetkey_suite::{
    Answer, Client, ConnectorSpec, RETURN_URL, Setup, TestApp, TestConnector, engine_tests, extra::text_of,
};

/// Operations by their id in the OpenAPI document, and the roles of which one is enough. An operation that is missing here
/// fails the test; so does a line without an operation.
const TABLE: &[(&str, &[&str])] = &[
    ("check_liveness", &[EVERYBODY]),
    ("check_readiness", &[EVERYBODY]),
    ("read_metrics", &[EVERYBODY]),
    ("list_providers", &["connector", "app", "operator", "admin"]),
    ("show_provider", &["connector", "app", "operator", "admin"]),
    ("create_connector", &["admin"]),
    ("update_connector", &["admin"]),
    ("delete_connector", &["admin"]),
    ("list_connectors", &["app", "operator", "admin"]),
    ("show_connector", &["app", "operator", "admin"]),
    ("start_flow", &["app"]),
    ("show_flow", &["app"]),
    ("finish_flow", &["app"]),
    ("cancel_flow", &["app"]),
    ("disconnect_connection", &["app"]),
    ("fetch_token", &["connector"]),
    ("list_connections", &["app", "operator", "admin"]),
    ("show_connection", &["app", "operator", "admin"]),
    ("revoke_connection", &["operator", "admin"]),
    ("revoke_connections", &["operator", "admin"]),
    ("import_connections", &["admin"]),
    ("list_revocations", &["operator", "admin"]),
    ("list_audit", &["operator", "admin"]),
    ("create_key", &["admin"]),
    ("list_keys", &["admin"]),
    ("revoke_key", &["admin"]),
];

/// No key is asked for.
pub(crate) const EVERYBODY: &str = "everybody";

/// The identities that have a key in the space, by their roles.
const CALLERS: [&[&str]; 5] = [&["connector"], &["app"], &["app", "shared"], &["operator"], &["admin"]];

pub(crate) const ALL_ROLES: &[&str] = &["connector", "app", "shared", "operator", "admin"];

const NO_CONNECTOR: &str = "ctr_00000000000000000000000000";

/// One operation of the document.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) method: String,
    pub(crate) path: String,
}

/// What operations are about.
pub(crate) struct Things {
    pub(crate) connector: TestConnector,
    pub(crate) connection: String,
    pub(crate) flow: String,
    pub(crate) key: String,
}

/// The ids that go into a request.
#[derive(Clone, Copy)]
pub(crate) struct Ids<'a> {
    connector: &'a str,
    connection: &'a str,
    flow: &'a str,
    key: &'a str,
}

impl Things {
    pub(crate) fn ids(&self) -> Ids<'_> {
        Ids { connector: &self.connector.id, connection: &self.connection, flow: &self.flow, key: &self.key }
    }
}

/// Well-formed ids of nothing.
pub(crate) const MISSING: Ids<'static> = Ids {
    connector: NO_CONNECTOR,
    connection: "cxn_00000000000000000000000000",
    flow: "flw_00000000000000000000000000",
    key: "key_00000000000000000000000000",
};

async fn operations(app: &TestApp) -> Vec<Operation> {
    let document = app.anonymous().get("/openapi.json").await.expect(200).json;
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let id = text_of(&operation["operationId"]);
            found.push(Operation { id, method: method.to_uppercase(), path: path.clone() });
        }
    }
    found
}

pub(crate) fn roles_of(operation: &Operation) -> &'static [&'static str] {
    let found = TABLE.iter().find(|(id, _)| *id == operation.id);
    found.unwrap_or_else(|| panic!("{operation:?} is not in the table of roles")).1
}

/// A connector with a connection and a flow of user `u-1`, and a key of no importance.
pub(crate) async fn things(app: &TestApp) -> Things {
    let connector = app.connector(ConnectorSpec::oauth2()).await;
    let connection = app.seed_import(&connector, &["u-1"]).await.remove(0).connection_id;
    let flow = app.start_flow(&connector, &connector.redirect("u-1")).await.flow_id;
    let key =
        app.admin().post("/v1/keys", &json!({ "name": "Test", "roles": ["app"] })).await.expect(201).text_of("id");
    Things { connector, connection, flow, key }
}

/// The operation as a caller would use it on these things: a body that is right in itself.
pub(crate) async fn call(client: &Client, operation: &Operation, ids: Ids<'_>) -> Answer {
    let id = match operation.path.split('/').nth(2) {
        Some("connectors") => ids.connector,
        Some("connections") => ids.connection,
        Some("flows") => ids.flow,
        Some("keys") => ids.key,
        _ => "",
    };
    let mut path = operation.path.replace("{id}", id).replace("{name}", "github");
    let body = match operation.id.as_str() {
        "create_connector" => Some(json!({
            "name": "New", "provider": "github", "auth_mode": "per_user", "client_id": "x", "scopes": ["repo"],
        })),
        "update_connector" => Some(json!({ "name": "Renamed" })),
        "start_flow" => Some(json!({ "user_id": "u-1", "mode": "redirect", "return_url": RETURN_URL })),
        "finish_flow" => Some(json!({ "user_id": "u-1", "handle": "nothing that came home" })),
        "disconnect_connection" | "fetch_token" => Some(json!({ "user_id": "u-1" })),
        "revoke_connections" => Some(json!({ "dry_run": true, "filter": { "connector_id": ids.connector } })),
        "create_key" => Some(json!({ "name": "New", "roles": ["connector"], "connectors": [ids.connector] })),
        _ => None,
    };
    match operation.id.as_str() {
        "list_connections" => path.push_str("?user_id=u-1"),
        "import_connections" => {
            let line = json!({ "connector_id": ids.connector, "user_id": "u-2", "refresh_token": "imported" });
            return client.post_raw(&path, "application/x-ndjson", line.to_string()).await;
        }
        _ => {}
    }
    client.call(&operation.method, &path, body.as_ref()).await
}

/// Whether the answer refuses the caller for what it is.
pub(crate) fn is_refused(answer: &Answer) -> bool {
    answer.status == 401 || (answer.status == 403 && answer.json["code"] == "forbidden")
}

/// The answer without what names the request and the ids that were asked for.
pub(crate) fn bare(answer: &Answer, ids: Ids<'_>) -> String {
    let mut headers: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    let mut text = format!("{} {}\n{}", answer.status, headers.join("\n"), answer.text_without_request_id());
    for id in [ids.connector, ids.connection, ids.flow, ids.key] {
        text = text.replace(id, "(id)");
    }
    text
}

/// A caller of every role whose key is narrowed to this connector.
async fn narrowed(app: &TestApp, connector: &TestConnector, space: &str) -> Client {
    app.key(ALL_ROLES, Some(&[&connector.id]), space).await
}

/// What of these things is left as it was.
pub(crate) async fn state(app: &TestApp, things: &Things) -> Value {
    let admin = app.admin();
    let connector = admin.get(&things.connector.path("")).await.json;
    let keys = admin.get("/v1/keys?limit=200").await.json["items"].clone();
    let key = keys.as_array().expect("keys").iter().find(|key| key["id"] == things.key.as_str()).cloned();
    json!({
        "connector": connector,
        "connection": app.connection(&things.connection).await,
        "flow": app.flow_status(&things.connector, &things.flow).await.0,
        "key": key.map(|key| key["revoked_at"].clone()),
        "connectors": app.number("SELECT COUNT(*) FROM connectors").await,
        "keys": app.number("SELECT COUNT(*) FROM api_keys").await,
        "connections": app.number("SELECT COUNT(*) FROM connections").await,
        "flows": app.number("SELECT COUNT(*) FROM flows").await,
    })
}

engine_tests! {
    async fn the_table_names_every_operation_and_no_other(app: TestApp) {
        let operations = operations(&app).await;
        for operation in &operations {
            roles_of(operation);
        }
        for (id, roles) in TABLE {
            assert!(operations.iter().any(|operation| operation.id == *id), "there is no operation {id}");
            assert!(roles.iter().all(|role| ALL_ROLES.contains(role) || *role == EVERYBODY), "{id}: {roles:?}");
        }
        assert_eq!(operations.len(), TABLE.len());
    }

    async fn who_has_no_valid_key_is_told_nothing(app: TestApp) {
        let things = things(&app).await;
        let all = Some(&[things.connector.id.as_str()][..]);
        let revoked = app.admin().post("/v1/keys", &json!({ "name": "R", "roles": ALL_ROLES, "connectors": all })).await.expect(201);
        app.admin().delete(&format!("/v1/keys/{}", revoked.text_of("id"))).await.expect(200).done();
        let soon = app.clock.now().plus(Duration::from_secs(60)).to_string();
        let body = json!({ "name": "E", "roles": ALL_ROLES, "connectors": all, "expires_at": soon });
        let expired = app.admin().post("/v1/keys", &body).await.expect(201).text_of("key");
        app.caller(&expired).get("/v1/connectors").await.expect(200).done();
        app.advance(Duration::from_secs(61));
        let unknown = PresentedKey::generate(KeyId::new(SystemClock::new().now(), &SystemEntropy), &SystemEntropy).0;
        let mut changed = expired.clone();
        changed.pop();
        let callers = [
            app.anonymous(),
            app.caller("vk_nonsense"),
            app.caller(""),
            app.caller(&changed),
            app.caller(&revoked.text_of("key")),
            app.caller(&expired),
            app.caller(unknown.expose()),
        ];
        let before = state(&app, &things).await;
        for operation in operations(&app).await {
            let mut first: Option<String> = None;
            for (number, caller) in callers.iter().enumerate() {
                let answer = call(caller, &operation, things.ids()).await;
                if roles_of(&operation) == [EVERYBODY] {
                    answer.expect(200).done();
                    continue;
                }
                let answer = answer.expect_problem(401, "unauthenticated");
                assert_eq!(answer.header("www-authenticate"), "Bearer", "{operation:?}");
                let text = bare(&answer, MISSING);
                assert_eq!(*first.get_or_insert(text.clone()), text, "{operation:?}: caller {number} learns more than the others");
                // Nor does it say whether the thing is there.
                let absent = call(caller, &operation, MISSING).await;
                assert_eq!(bare(&absent, MISSING), text, "{operation:?}");
            }
        }
        assert_eq!(state(&app, &things).await, before);
    }

    async fn each_role_may_what_the_table_says_and_nothing_else(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| {
            config.limits.starts_per_minute_and_user = 1_000;
            config.limits.open_flows_per_user = 1_000;
        }),
    ) {
        let kept = things(&app).await;
        let before = state(&app, &kept).await;
        let operations = operations(&app).await;
        let mut callers = Vec::new();
        for roles in CALLERS {
            callers.push((roles, app.key(roles, roles.contains(&"connector").then_some(&[kept.connector.id.as_str()][..]), "default").await));
        }
        let before = json!({ "keys": app.number("SELECT COUNT(*) FROM api_keys").await, "rest": before });
        for operation in &operations {
            for (roles, caller) in &callers {
                let may = roles_of(operation);
                if may == [EVERYBODY] || may.iter().any(|role| roles.contains(role)) {
                    continue;
                }
                let answer = call(caller, operation, kept.ids()).await.expect_problem(403, "forbidden");
                assert!(answer.json["operation"].is_string(), "{roles:?} {operation:?}: {}", answer.text);
                // Refused before anything is looked up.
                let absent = call(caller, operation, MISSING).await;
                assert_eq!(bare(&answer, MISSING), bare(&absent, MISSING), "{roles:?} {operation:?}");
            }
        }
        let mut after = state(&app, &kept).await;
        let keys = after["keys"].take();
        let mut expected = before["rest"].clone();
        expected["keys"].take();
        assert_eq!((keys, after), (before["keys"].clone(), expected), "whoever was refused changed nothing");

        for operation in &operations {
            for roles in CALLERS {
                let may = roles_of(operation);
                if may == [EVERYBODY] || !may.iter().any(|role| roles.contains(role)) {
                    continue;
                }
                let things = things(&app).await;
                let named = [things.connector.id.as_str()];
                let caller = app.key(roles, roles.contains(&"connector").then_some(&named[..]), "default").await;
                let answer = call(&caller, operation, things.ids()).await;
                assert!(!is_refused(&answer), "{roles:?} {operation:?}: {} {}", answer.status, answer.text);
                // The one flow that nobody has opened yet cannot be finished; everything else works.
                let expected = if operation.id == "finish_flow" { 409 } else { answer.status };
                assert_eq!(answer.status, expected);
                assert!(operation.id == "finish_flow" || answer.status < 300, "{roles:?} {operation:?}: {}", answer.text);
            }
        }
    }

    async fn what_belongs_to_another_space_answers_like_what_is_not_there(app: TestApp) {
        let things = things(&app).await;
        app.space("other").await;
        let elsewhere = app.key(&["admin"], None, "other").await;
        let own = app.connector_by(&elsewhere, ConnectorSpec::oauth2()).await;
        let outsider = narrowed(&app, &own, "other").await;
        let unnarrowed = app.key(&["app", "shared", "operator", "admin"], None, "other").await;
        let before = state(&app, &things).await;
        for (list, ours) in [("/v1/connectors", 1), ("/v1/connections", 0), ("/v1/revocations", 0)] {
            let shown = unnarrowed.get(list).await.expect(200);
            assert_eq!(shown.json["items"].as_array().map(Vec::len), Some(ours), "{list}: {}", shown.text);
        }
        let texts = [things.connector.id.as_str(), &things.connection, &things.flow, &things.key];
        for list in ["/v1/connectors", "/v1/connections", "/v1/keys?limit=200", "/v1/audit?limit=200", "/v1/revocations"] {
            let shown = unnarrowed.get(list).await.expect(200).text;
            assert!(texts.iter().all(|text| !shown.contains(text)), "{list}: {shown}");
        }
        hides(&app, &outsider, things.ids()).await;
        hides(&app, &unnarrowed, things.ids()).await;
        assert_eq!(state(&app, &things).await, before);
    }

    async fn what_a_key_does_not_name_answers_like_what_is_not_there(app: TestApp) {
        let hidden = things(&app).await;
        let named = things(&app).await;
        let caller = narrowed(&app, &named.connector, "default").await;
        for things in [&hidden, &named] {
            app.operator().delete(&format!("/v1/connections/{}", things.connection)).await.expect(200).done();
            app.seed_import(&things.connector, &["u-1"]).await;
        }
        let before = state(&app, &hidden).await;
        hides(&app, &caller, hidden.ids()).await;
        let keys = caller.get("/v1/keys?limit=200").await.expect(200).text;
        assert!(keys.contains(&named.connector.id) && !keys.contains(&hidden.key) && !keys.contains(&named.key), "{keys}");
        for list in ["/v1/connectors", "/v1/connections?user_id=u-1", "/v1/audit?limit=200", "/v1/revocations"] {
            let shown = caller.get(list).await.expect(200).text;
            assert!(shown.contains(&named.connector.id), "{list}: {shown}");
            assert!(!shown.contains(&hidden.connector.id) && !shown.contains(&hidden.connection), "{list}: {shown}");
        }
        // It can make neither a connector nor a key that sees more than itself.
        let new = json!({ "name": "New", "provider": "github", "auth_mode": "per_user", "client_id": "x" });
        caller.post("/v1/connectors", &new).await.expect_problem(403, "forbidden").done();
        let wide = json!({ "name": "Wide", "roles": ["app"] });
        caller.post("/v1/keys", &wide).await.expect_fault("invalid-request", "connectors").done();
        assert_eq!(state(&app, &hidden).await, before);
        caller.post(&named.connector.path("/token"), &json!({ "user_id": "u-1" })).await.expect(200).done();
    }

    async fn the_role_app_sees_one_user_at_a_time(app: TestApp) {
        let things = things(&app).await;
        app.seed_import(&things.connector, &["u-2"]).await;
        let shared = app.connector(ConnectorSpec::oauth2().shared()).await;
        let everybody = app.seed_import(&shared, &["everybody"]).await.remove(0).connection_id;
        let application = app.application();
        application.get("/v1/connections").await.expect_fault("invalid-request", "user_id").done();
        let mine = application.get("/v1/connections?user_id=u-1").await.expect(200);
        assert_eq!(mine.json["items"].as_array().map(Vec::len), Some(1));
        application.get("/v1/connections?owner=shared").await.expect_problem(403, "shared-role-required").done();
        let path = format!("/v1/connections/{everybody}");
        let hidden = application.get(&path).await.expect_problem(404, "connection-not-found");
        let absent = application.get(&format!("/v1/connections/{}", MISSING.connection)).await;
        assert_eq!(hidden.text_without_request_id(), absent.text_without_request_id());
        app.administration().get(&path).await.expect(200).done();
        let listed = app.administration().get("/v1/connections?owner=shared").await.expect(200);
        assert_eq!(listed.json["items"].as_array().map(Vec::len), Some(1));
    }

    async fn no_list_and_no_show_holds_a_token(app: TestApp) {
        let things = things(&app).await;
        let issued = app.fetch(&things.connector, "u-1").await.expect(200).text_of("access_token");
        let shown: BTreeMap<&str, String> = [
            ("connection", format!("/v1/connections/{}", things.connection)),
            ("connections", "/v1/connections".to_owned()),
            ("connector", things.connector.path("")),
            ("keys", "/v1/keys".to_owned()),
            ("audit", "/v1/audit?limit=200".to_owned()),
        ]
        .into();
        for (what, path) in shown {
            let answer = app.admin().get(&path).await.expect(200);
            for secret in [issued.as_str(), "sbx_", &things.connector.client_secret, "access_token\":", "secret_hash"] {
                assert!(!answer.text.contains(secret), "{what} shows {secret}");
            }
        }
    }
}

/// Every operation on these things answers this caller like one on things that were never there.
async fn hides(app: &TestApp, caller: &Client, ids: Ids<'_>) {
    for operation in operations(app).await {
        let speaks_of_one = operation.path.contains("{id}")
            || ["create_key", "import_connections", "revoke_connections"].contains(&operation.id.as_str());
        if !speaks_of_one {
            continue;
        }
        let foreign = call(caller, &operation, ids).await;
        let absent = call(caller, &operation, MISSING).await;
        if operation.path.contains("{id}") && !is_refused(&absent) {
            assert_eq!(absent.status, 404, "{operation:?}: {}", absent.text);
        }
        let plan = |answer: &Answer| match answer.json.get("plan_id").and_then(Value::as_str) {
            // A plan of nothing: its own id and time are new each time.
            Some(_) => format!("{} {} {}", answer.status, answer.json["count"], answer.json["sample"]),
            None => String::new(),
        };
        if operation.id == "revoke_connections" && foreign.status == 200 {
            assert_eq!((plan(&foreign), &foreign.json["count"]), (plan(&absent), &json!(0)), "{operation:?}");
            continue;
        }
        assert_eq!(bare(&foreign, ids), bare(&absent, MISSING), "{operation:?}");
    }
}
