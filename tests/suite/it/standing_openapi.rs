//! The OpenAPI document: current, whole, and true of what is answered.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};
use valetkey_suite::{Answer, ConnectorSpec, TestApp, Work, engine_tests, extra::text_of};

/// What a document says.
struct Document(Value);

impl Document {
    async fn of(app: &TestApp) -> Self {
        Self(app.anonymous().get("/openapi.json").await.expect(200).json)
    }

    /// Every operation: method, path, description.
    fn operations(&self) -> Vec<(String, String, &Value)> {
        let mut found = Vec::new();
        for (path, methods) in self.0["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                found.push((method.to_uppercase(), path.clone(), operation));
            }
        }
        found
    }

    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => {
                let pointer = reference.strip_prefix('#').expect("a reference within the document");
                self.resolve(self.0.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere")))
            }
            None => schema,
        }
    }

    /// Where a value differs from its schema, in words.
    fn faults(&self, place: &str, schema: &Value, value: &Value) -> Vec<String> {
        let schema = self.resolve(schema);
        for many in ["oneOf", "anyOf"] {
            if let Some(choices) = schema[many].as_array() {
                let fits = choices.iter().any(|choice| self.faults(place, choice, value).is_empty());
                return if fits { Vec::new() } else { vec![format!("{place}: none of {many} fits {value}")] };
            }
        }
        if let Some(parts) = schema["allOf"].as_array() {
            // The parts describe one object together: what one does not know, another may.
            return self.faults(place, &self.merged(parts), value);
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            _ => return Vec::new(),
        };
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let is_promised = types.contains(&kind) || (kind == "integer" && types.contains(&"number"));
        if !is_promised {
            return vec![format!("{place}: {kind} where {types:?} is promised")];
        }
        match value {
            Value::Array(items) => {
                let each = items.iter().enumerate();
                each.flat_map(|(number, item)| self.faults(&format!("{place}[{number}]"), &schema["items"], item))
                    .collect()
            }
            Value::Object(members) => {
                let mut faults = Vec::new();
                for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if !members.contains_key(required) {
                        faults.push(format!("{place}.{required}: missing"));
                    }
                }
                for (name, member) in members {
                    let place = format!("{place}.{name}");
                    match (&schema["properties"][name], &schema["additionalProperties"]) {
                        (Value::Null, Value::Null) if schema["properties"].is_object() => {
                            faults.push(format!("{place}: not described"));
                        }
                        (Value::Null, rest @ Value::Object(_)) => faults.extend(self.faults(&place, rest, member)),
                        (Value::Null, _) => {}
                        (known, _) => faults.extend(self.faults(&place, known, member)),
                    }
                }
                faults
            }
            _ => Vec::new(),
        }
    }

    fn merged(&self, parts: &[Value]) -> Value {
        let mut whole = json!({ "type": "object", "properties": {}, "required": [] });
        for part in parts {
            let part = self.resolve(part);
            for (name, property) in part["properties"].as_object().into_iter().flatten() {
                whole["properties"][name] = property.clone();
            }
            let required = whole["required"].as_array_mut().expect("a list");
            required.extend(part["required"].as_array().into_iter().flatten().cloned());
        }
        whole
    }

    /// Fails unless the answer is one that the document promises for the operation.
    #[track_caller]
    fn promises(&self, operation_id: &str, answer: &Answer) {
        let found = self.operations().into_iter().find(|(_, _, operation)| operation["operationId"] == operation_id);
        let (_, _, operation) = found.unwrap_or_else(|| panic!("no operation {operation_id}"));
        let responses = &operation["responses"];
        let response = match &responses[answer.status.to_string()] {
            Value::Null => panic!("{operation_id}: {} is not promised: {}", answer.status, answer.text),
            response => self.resolve(response),
        };
        let content = response["content"].as_object();
        let media = answer.header("content-type").split(';').next().unwrap_or_default().to_owned();
        let Some(content) = content.filter(|content| !content.is_empty()) else {
            assert_eq!(answer.text, "", "{operation_id}: a body that is not described");
            return;
        };
        let schema = content.get(&media).unwrap_or_else(|| panic!("{operation_id}: {media} is not promised"));
        if media == "application/x-ndjson" {
            for line in answer.text.lines() {
                let value = serde_json::from_str(line).expect("JSON");
                assert_eq!(self.faults(operation_id, &schema["schema"], &value), Vec::<String>::new());
            }
        } else if media.ends_with("json") {
            let mut faults = self.faults(operation_id, &schema["schema"], &answer.json);
            // A problem may have members of its own (RFC 9457, section 3.2); docs/problems.md names them.
            faults.retain(|fault| media != "application/problem+json" || !fault.ends_with(": not described"));
            assert_eq!(faults, Vec::<String>::new(), "{}", answer.text);
        }
    }
}

/// Every reference of a document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if let ("$ref", Some(reference)) = (name.as_str(), member.as_str()) {
                    found.insert(reference.to_owned());
                }
                references(member, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

engine_tests! {
    async fn the_file_in_the_repository_is_what_is_served(app: TestApp) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let file = fs::read_to_string(path).expect("docs/openapi.json");
        let served = app.anonymous().get("/openapi.json").await.expect(200).text;
        assert!(file == served, "docs/openapi.json is not current: cargo run -p valetkey-server -- openapi > docs/openapi.json");
    }

    async fn the_document_is_whole(app: TestApp) {
        let document = Document::of(&app).await;
        assert!(document.0["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
        let mut found = BTreeSet::new();
        references(&document.0, &mut found);
        for reference in &found {
            document.resolve(&json!({ "$ref": reference }));
        }
        let named = document.0["components"]["schemas"].as_object().expect("schemas");
        for schema in named.keys() {
            assert!(found.contains(&format!("#/components/schemas/{schema}")), "{schema} is used nowhere");
        }
        let mut ids = BTreeSet::new();
        for (method, path, operation) in document.operations() {
            let id = text_of(&operation["operationId"]);
            assert!(ids.insert(id.clone()), "{id} twice");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{id}: no summary");
            let is_public = path.starts_with("/health") || path == "/metrics";
            assert_eq!(operation["security"].is_null(), is_public, "{method} {path}");
            let described: BTreeSet<&str> =
                operation["parameters"].as_array().into_iter().flatten().filter_map(|each| each["name"].as_str()).collect();
            for parameter in path.split(['{', '}']).skip(1).step_by(2) {
                assert!(described.contains(parameter), "{id}: {parameter} is not described");
            }
            assert_eq!(operation["requestBody"].is_object(), ["POST", "PATCH"].contains(&method.as_str()) && id != "cancel_flow", "{id}");
        }
    }

    async fn every_operation_refuses_who_has_no_key(app: TestApp) {
        let document = Document::of(&app).await;
        for (method, path, operation) in document.operations() {
            let path = path.replace("{id}", "ctr_00000000000000000000000000").replace("{name}", "github");
            let answer = app.anonymous().call(&method, &path, None).await;
            if operation["security"].is_null() {
                answer.expect(200).done();
            } else {
                let id = text_of(&operation["operationId"]);
                document.promises(&id, &answer);
                answer.expect_problem(401, "unauthenticated").done();
            }
        }
    }

    async fn what_is_answered_is_what_was_promised(app: TestApp) {
        let document = Document::of(&app).await;
        let (admin, application, operator) = (app.admin(), app.application(), app.operator());
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.seed_import(&connector, &["u-2"]).await;
        let spec = ConnectorSpec::oauth2().body(app.provider_url());
        document.promises("create_connector", &admin.post("/v1/connectors", &spec).await.expect(201));
        document.promises("create_connector", &admin.post("/v1/connectors", &json!({})).await.expect(422));
        document.promises("list_connectors", &admin.get("/v1/connectors").await);
        document.promises("show_connector", &admin.get(&connector.path("")).await);
        document.promises("update_connector", &admin.patch(&connector.path(""), &json!({ "name": "New" })).await.expect(200));
        document.promises("list_providers", &admin.get("/v1/providers").await);
        document.promises("show_provider", &admin.get("/v1/providers/slack").await.expect(200));
        document.promises("show_provider", &admin.get("/v1/providers/none").await.expect(404));

        let started = application.post(&connector.path("/flows"), &connector.popup("u-1")).await.expect(201);
        document.promises("start_flow", &started);
        let flow = format!("/v1/flows/{}", started.text_of("flow_id"));
        document.promises("show_flow", &application.get(&flow).await.expect(200));
        document.promises("finish_flow", &application.post(&format!("{flow}/finish"), &json!({ "handle": "x", "user_id": "u-1" })).await.expect(409));
        let home = app.browser("u-1").walk(&started.text_of("start_url")).await;
        let finished = app.finish(&connector, &home, "u-1").await.expect(200);
        document.promises("finish_flow", &finished);
        document.promises("show_flow", &application.get(&flow).await.expect(200));
        document.promises("cancel_flow", &application.post(&format!("{flow}/cancel"), &json!({})).await.expect(204));

        let key = admin.post("/v1/keys", &json!({ "name": "K", "roles": ["connector", "app"], "connectors": [connector.id] })).await;
        document.promises("create_key", &key.clone().expect(201));
        let client = app.caller(&key.text_of("key"));
        let token = connector.path("/token");
        document.promises("fetch_token", &client.post(&token, &json!({ "user_id": "u-1" })).await.expect(200));
        let start = json!({ "mode": "redirect", "return_url": valetkey_suite::RETURN_URL });
        document.promises("fetch_token", &client.post(&token, &json!({ "user_id": "u-9", "start": start })).await.expect(404));
        document.promises("fetch_token", &client.post(&token, &json!({ "user_id": "u-1", "scopes": ["no"] })).await.expect(403));
        document.promises("list_keys", &admin.get("/v1/keys").await);
        document.promises("revoke_key", &admin.delete(&format!("/v1/keys/{}", key.text_of("id"))).await.expect(200));

        document.promises("list_connections", &operator.get("/v1/connections").await);
        // An application has to say whose, which is no matter of one parameter.
        document.promises("list_connections", &application.get("/v1/connections").await.expect(422));
        let connection = format!("/v1/connections/{}", finished.text_of("id"));
        document.promises("show_connection", &operator.get(&connection).await.expect(200));
        let plan = operator.post("/v1/connections/revoke", &json!({ "dry_run": true, "filter": { "user_id": "u-2" } })).await.expect(200);
        document.promises("revoke_connections", &plan);
        let call = json!({ "plan_id": plan.json["plan_id"], "expected_count": 1 });
        document.promises("revoke_connections", &operator.post("/v1/connections/revoke", &call).await.expect(200));
        document.promises("revoke_connections", &operator.post("/v1/connections/revoke", &call).await.expect(409));
        let absent = json!({ "plan_id": "pln_00000000000000000000000000", "expected_count": 1 });
        document.promises("revoke_connections", &operator.post("/v1/connections/revoke", &absent).await.expect(404));
        let lines = format!("{}\nnonsense\n", json!({ "connector_id": connector.id, "user_id": "u-3", "refresh_token": "r" }));
        document.promises("import_connections", &admin.post_raw("/v1/connections/import", "application/x-ndjson", lines).await.expect(200));
        let taken_back = application.post(&connector.path("/disconnect"), &json!({ "user_id": "u-1" })).await.expect(200);
        document.promises("disconnect_connection", &taken_back);
        document.promises("revoke_connection", &operator.delete(&connection).await.expect(200));
        app.run(Work::Deliver).await;
        document.promises("list_revocations", &operator.get("/v1/revocations").await);
        app.run(Work::Issues).await;
        document.promises("list_audit", &operator.get("/v1/audit?limit=200").await);
        document.promises("delete_connector", &admin.delete(&connector.path("")).await.expect(200));
        document.promises("check_liveness", &app.anonymous().get("/health/live").await);
        document.promises("check_readiness", &app.anonymous().get("/health/ready").await);
        document.promises("read_metrics", &app.anonymous().get("/metrics").await);
    }

    async fn a_body_that_is_not_needed_is_not_asked_for(app: TestApp) {
        let document = Document::of(&app).await;
        let connector = app.connector(ConnectorSpec::oauth2().client_credentials()).await;
        let key = app.connector_client(&connector.id).await;
        for (operation_id, client, method, path) in [
            ("fetch_token", &key, "POST", connector.path("/token")),
            ("update_connector", &app.admin(), "PATCH", connector.path("")),
        ] {
            client.call(method, &path, None).await.expect(200).done();
            let found = document.operations().into_iter().find(|(_, _, operation)| operation["operationId"] == operation_id);
            let (_, _, operation) = found.expect("the operation");
            assert_eq!(operation["requestBody"]["required"], json!(false), "{operation_id}");
        }
        // What may be sent as null is described so.
        let edit = json!({ "rotation": { "class": "strict", "grace_seconds": null }, "endpoints": null });
        app.admin().patch(&connector.path(""), &edit).await.expect(200).done();
        let schemas = &document.0["components"]["schemas"];
        assert_eq!(schemas["Rotation"]["properties"]["grace_seconds"]["type"], json!(["integer", "null"]));
        assert_eq!(schemas["Endpoints"]["properties"]["token"]["type"], json!(["string", "null"]));
    }

    async fn the_reference_page_comes_from_the_binary(app: TestApp) {
        let page = app.browser("reader").get(&app.url("/docs")).await.expect(200);
        assert!(page.header("content-type").starts_with("text/html"));
        let policy = page.header("content-security-policy");
        assert!(policy.contains("default-src 'none'"), "{policy}");
        for outside in ["https://cdn", "http://", "//unpkg"] {
            assert!(!page.html.contains(&format!("src=\"{outside}")) && !page.html.contains(&format!("href=\"{outside}")), "{outside}");
        }
    }
}
