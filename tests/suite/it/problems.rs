//! Bad input: each kind of it is refused with a code of its own, which the documentation explains.

use std::{collections::BTreeSet, fs};

use reqwest::Method;
use serde_json::{Value, json};
use valetkey_api::ProblemCode;
use valetkey_suite::{Answer, Client, ConnectorSpec, RETURN_URL, engine_tests};

/// The codes that `docs/problems.md` explains, with where they are shown: `API` or `page`.
fn documented() -> BTreeSet<(String, &'static str)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/problems.md");
    let text = fs::read_to_string(path).expect("docs/problems.md");
    let mut found = BTreeSet::new();
    for section in text.split("\n### ").skip(1) {
        let code = section.lines().next().unwrap_or_default().trim().to_owned();
        let places = section.lines().nth(1).unwrap_or_default();
        assert!(section.contains("**Cause.**") && section.contains("**Remedy.**"), "{code} lacks cause or remedy");
        for place in ["API", "page"] {
            if places.contains(&format!("{place}:")) {
                found.insert((code.clone(), place));
            }
        }
    }
    found
}

/// Fails unless the answer is a problem of this status and code that the documentation has.
#[track_caller]
fn is(answer: Answer, status: u16, code: &str) -> Answer {
    let answer = answer.expect_problem(status, code);
    assert!(documented().contains(&(code.to_owned(), "API")), "docs/problems.md does not explain {code}");
    answer
}

async fn post(client: Client, path: String, body: Value) -> Answer {
    client.post(&path, &body).await
}

/// The field that the first fault of an answer names.
fn field(answer: &Answer) -> String {
    answer.json["faults"][0]["field"].as_str().unwrap_or_default().to_owned()
}

engine_tests! {
    async fn every_problem_is_explained_and_every_explanation_is_of_a_problem(app: TestApp) {
        let written: BTreeSet<String> = ProblemCode::ALL.iter().map(|code| code.as_str().to_owned()).collect();
        let api: BTreeSet<String> =
            documented().into_iter().filter(|(_, place)| *place == "API").map(|(code, _)| code).collect();
        assert_eq!(written, api);
        // And the address that a problem's type names shows it.
        for (code, _) in documented() {
            let page = app.anonymous().get(&format!("/problems/{code}")).await.expect(200);
            assert!(page.text.contains(&code), "{code}");
        }
        app.anonymous().get("/problems/nonsense").await.expect_problem(404, "not-found").done();
    }

    async fn a_body_that_is_no_json_is_told_where(app: TestApp) {
        for (body, line, column) in [("{\"name\": }", 1, 10), ("{\n\"name\":\n", 3, 0), ("nonsense", 1, 2), ("{\"name\":\"K\",\"roles\":[\"app\"]} x", 1, 30), ("\u{feff}{}", 1, 1)] {
            let refused = app.admin().post_raw("/v1/keys", "application/json", body).await;
            let refused = is(refused, 400, "malformed-json");
            assert_eq!((&refused.json["line"], &refused.json["column"]), (&json!(line), &json!(column)), "{body}");
        }
        let refused = app.admin().post_raw("/v1/keys", "application/json", vec![b'{', 0xff, 0xfe, b'}']).await;
        is(refused, 400, "malformed-json").done();
        // Depth is bounded too.
        let deep = format!("{{\"name\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
        let refused = app.admin().post_raw("/v1/keys", "application/json", deep).await;
        assert!([400, 422].contains(&refused.status), "{}", refused.text);
    }

    async fn a_field_that_nobody_knows_is_named(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let spec = ConnectorSpec::oauth2().with("colour", json!("red")).body(app.provider_url());
        assert_eq!(field(&is(app.admin().post("/v1/connectors", &spec).await, 422, "unknown-field")), "colour");
        let nested = ConnectorSpec::oauth2().with("endpoints", json!({ "tokens": "x" })).body(app.provider_url());
        assert_eq!(field(&is(app.admin().post("/v1/connectors", &nested).await, 422, "unknown-field")), "endpoints.tokens");
        let mut flow = connector.redirect("u-1");
        flow["userid"] = json!("u-2");
        assert_eq!(field(&is(app.try_start(&connector, &flow).await, 422, "unknown-field")), "userid");
        let token = json!({ "user_id": "u-1", "minttl": 5 });
        let refused = app.connector_client(&connector.id).await.post(&connector.path("/token"), &token).await;
        assert_eq!(field(&is(refused, 422, "unknown-field")), "minttl");
    }

    async fn a_list_is_no_object(app: TestApp) {
        let new = json!({ "name": "New", "provider": "oauth2", "auth_mode": "per_user", "client_id": "x" });
        for (field_name, list) in [("endpoints", json!([])), ("rotation", json!(["grace", 60]))] {
            let mut body = new.clone();
            body[field_name] = list;
            let answer = post(app.admin(), "/v1/connectors".to_owned(), body.clone()).await;
            assert_eq!(field(&is(answer, 422, "wrong-type")), field_name, "{body}");
        }
        let everything = json!({ "dry_run": true, "filter": [] });
        let answer = post(app.operator(), "/v1/connections/revoke".to_owned(), everything).await;
        assert_eq!(field(&is(answer, 422, "wrong-type")), "filter");
    }

    async fn a_field_of_another_type_is_named_and_its_value_is_not_repeated(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let client = app.connector_client(&connector.id).await;
        let token = |body: Value| post(client.clone(), connector.path("/token"), body);
        for (body, named) in [
            (json!({ "user_id": 5 }), "user_id"),
            (json!({ "user_id": ["u-1"] }), "user_id"),
            (json!({ "user_id": "u-1", "min_ttl": "60" }), "min_ttl"),
            (json!({ "user_id": "u-1", "scopes": "read" }), "scopes"),
            (json!({ "user_id": "u-1", "scopes": ["read", 1] }), "scopes[1]"),
            (json!({ "user_id": "u-1", "start": "popup" }), "start"),
            (json!({ "user_id": "u-1", "start": ["popup", "https://app.example/connected"] }), "start"),
            (json!({ "user_id": "u-1", "min_ttl": 1.5 }), "min_ttl"),
        ] {
            assert_eq!(field(&is(token(body.clone()).await, 422, "wrong-type")), named, "{body}");
        }
        for body in [json!([]), json!(["u-1"]), json!("u-1"), json!(5), json!(null), json!(true)] {
            is(token(body).await, 422, "wrong-type").done();
        }
        for body in [json!({ "user_id": "u-1", "min_ttl": -1 }), json!({ "user_id": "u-1", "min_ttl": 5_000_000_000_u64 })] {
            assert_eq!(field(&is(token(body).await, 422, "invalid-request")), "min_ttl");
        }
        let planted = json!({ "user_id": { "planted": "planted-in-the-wrong-place" } });
        assert!(!token(planted).await.text.contains("planted-in-the-wrong-place"));
        let twice = app.connector_client(&connector.id).await;
        let twice = twice.post_raw(&connector.path("/token"), "application/json", "{\"user_id\":\"a\",\"user_id\":\"b\"}").await;
        assert_eq!(field(&is(twice, 422, "invalid-request")), "user_id");
    }

    async fn a_field_that_is_missing_is_named(app: TestApp) {
        for (body, named) in [(json!({}), "name"), (json!({ "name": "K" }), "roles")] {
            assert_eq!(field(&is(app.admin().post("/v1/keys", &body).await, 422, "missing-field")), named);
        }
        let empty = app.admin().send(app.admin().request(Method::POST, "/v1/keys")).await;
        is(empty, 422, "missing-field").done();
    }

    async fn a_body_of_another_kind_or_size_is_refused(app: TestApp) {
        let small = json!({ "name": "K", "roles": ["app"] }).to_string();
        for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/xml", "nonsense"] {
            is(app.admin().post_raw("/v1/keys", content_type, small.clone()).await, 415, "unsupported-media-type").done();
        }
        let request = app.admin().request(Method::POST, "/v1/keys").body(small.clone());
        is(app.admin().send(request).await, 415, "unsupported-media-type").done();
        let large = json!({ "name": "x".repeat(70_000), "roles": ["app"] });
        is(app.admin().post("/v1/keys", &large).await, 413, "body-too-large").done();
        app.admin().post_raw("/v1/keys", "application/json; charset=utf-8", small).await.expect(201).done();
    }

    async fn an_address_that_is_not_there_is_a_problem(app: TestApp) {
        for path in ["/", "/v1", "/v1/", "/v1/tokens", "/v2/keys", "/v1/keys/", "/V1/keys", "/v1//keys", "/v1/spaces", "/admin", "/../etc/passwd"] {
            is(app.admin().get(path).await, 404, "not-found").done();
        }
        for (method, path) in [("PUT", "/v1/keys"), ("POST", "/v1/connections"), ("PATCH", "/v1/flows/flw_x"), ("DELETE", "/v1/audit"), ("GET", "/v1/connections/import/x")] {
            let answer = app.admin().call(method, path, None).await;
            if path.ends_with("/x") {
                is(answer, 404, "not-found").done();
                continue;
            }
            let answer = is(answer, 405, "method-not-allowed");
            assert!(!answer.header("allow").is_empty(), "{method} {path}");
        }
        // Nothing speaks to other origins.
        let preflight = app.anonymous().request(Method::OPTIONS, "/v1/keys").header("origin", "https://evil.example");
        let answer = app.anonymous().send(preflight.header("access-control-request-method", "POST")).await;
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{:?}", answer.headers);
    }

    async fn an_id_of_another_kind_is_refused(app: TestApp) {
        for path in [
            "/v1/connectors/x",
            "/v1/connectors/cxn_00000000000000000000000000",
            "/v1/connectors/ctr_0000000000000000000000000",
            "/v1/connectors/CTR_00000000000000000000000000",
            "/v1/connections/ctr_00000000000000000000000000",
            "/v1/connections/%00",
            "/v1/connections/%ff",
            "/v1/connections/..%2Fkeys",
            "/v1/flows/1",
        ] {
            let client = if path.contains("flows") { app.application() } else { app.admin() };
            is(client.get(path).await, 400, "invalid-path").done();
        }
        is(app.admin().get("/v1/providers/nonsense").await, 404, "provider-not-found").done();
        is(app.admin().delete("/v1/keys/key_00000000000000000000000000").await, 404, "key-not-found").done();
    }

    async fn a_query_that_does_not_fit_is_refused(app: TestApp) {
        for query in [
            "limit=0", "limit=-1", "limit=201", "limit=many", "limit=", "limit=1&limit=2", "after=nonsense",
            "after=ctr_00000000000000000000000000", "status=nonsense", "status=active&status=active", "colour=red",
            "connector_id=x", "user_id=", "user_id=%00", "owner=nobody", "owner=shared&user_id=u-1", "label=%01", "reason=x",
            "provider=%00", "provider=", "provider=GitHub",
        ] {
            let refused = is(app.operator().get(&format!("/v1/connections?{query}")).await, 400, "invalid-query");
            assert!(refused.json["faults"].as_array().is_some_and(|faults| !faults.is_empty()), "{query}: {}", refused.text);
        }
        app.operator().get("/v1/connections?limit=1&user_id=%C3%A9%20x").await.expect(200).done();
        app.operator().get("/v1/connections?provider=nobody").await.expect(200).done();
        let filter = json!({ "dry_run": true, "filter": { "provider": "a\u{0}b" } });
        let refused = is(app.operator().post("/v1/connections/revoke", &filter).await, 422, "invalid-request");
        assert_eq!(field(&refused), "filter.provider");
    }

    async fn names_that_applications_choose_have_bounds(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let client = app.connector_client(&connector.id).await;
        for bad in [String::new(), "x".repeat(257), "x".repeat(60_000), "a\nb".to_owned(), "a\u{0}".to_owned(), "\u{7f}".to_owned(), "é".repeat(129)] {
            let refused = client.post(&connector.path("/token"), &json!({ "user_id": bad })).await;
            assert_eq!(field(&is(refused, 422, "invalid-request")), "user_id");
            let mut flow = connector.redirect("u-1");
            flow["user_id"] = json!(bad);
            assert_eq!(field(&is(app.try_start(&connector, &flow).await, 422, "invalid-request")), "user_id");
        }
        for fine in ["x".repeat(256), "é".repeat(128), " ".to_owned(), "'; DROP TABLE connections; --".to_owned(), "u:1".to_owned(), "shared".to_owned()] {
            let nobody = client.post(&connector.path("/token"), &json!({ "user_id": fine })).await;
            nobody.expect_problem(404, "connection-not-found").done();
        }
        let label = json!({ "user_id": "u-1", "label": "x".repeat(65) });
        assert_eq!(field(&is(client.post(&connector.path("/token"), &label).await, 422, "invalid-request")), "label");
    }

    async fn odd_user_names_are_users_of_their_own(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let names = ["u-1", "U-1", " u-1", "u-1 ", "ü", "u\u{308}", "%75-1", "u-1/../u-2", "\u{202e}1-u", "shared", "u:u-1"];
        let seeded = app.seed_import(&connector, &names).await;
        for (name, seeded) in names.iter().zip(&seeded) {
            let token = app.fetch(&connector, name).await.expect(200);
            assert_eq!(token.json["connection_id"], seeded.connection_id.as_str(), "{name:?}");
            assert_eq!(token.json["access_token"], seeded.access_token.as_str(), "{name:?}");
        }
    }

    async fn every_fault_of_a_connector_is_told_at_once(app: TestApp) {
        let body = json!({
            "name": "", "provider": "nonsense", "auth_mode": "per_user", "grant": "client_credentials", "client_id": "",
            "client_secrets": ["a", "b", "c", "d", "e", "f"], "scopes": ["two words"],
            "return_urls": ["https://*.app.example/"], "origins": ["https://app.example/path"],
        });
        let refused = is(app.admin().post("/v1/connectors", &body).await, 422, "invalid-request");
        let named: BTreeSet<&str> =
            refused.json["faults"].as_array().expect("faults").iter().filter_map(|fault| fault["field"].as_str()).collect();
        for expected in ["name", "provider", "grant", "client_id", "client_secrets", "scopes", "return_urls", "origins"] {
            assert!(named.contains(expected), "{expected} is missing: {}", refused.text);
        }
    }

    async fn a_connector_leads_to_no_address_that_is_not_allowed(app: TestApp) {
        for (which, address) in [
            ("token", "http://192.168.0.1/token"),
            ("token", "https://user:hunter2@idp.example/token"),
            ("token", "file:///etc/passwd"),
            ("token", "gopher://127.0.0.1/"),
            ("authorization", "javascript:alert(1)"),
            ("revocation", "http://idp.example/revoke"),
            ("token", "not an address"),
        ] {
            let mut endpoints = json!({
                "authorization": format!("{}/authorize", app.provider_url()), "token": format!("{}/token", app.provider_url()),
            });
            endpoints[which] = json!(address);
            let body = ConnectorSpec::oauth2().with("endpoints", endpoints).body(app.provider_url());
            let refused = is(app.admin().post("/v1/connectors", &body).await, 422, "invalid-request");
            assert_eq!(field(&refused), format!("endpoints.{which}"), "{address}");
            assert!(!refused.text.contains("hunter2"), "{}", refused.text);
        }
    }

    async fn an_address_inside_of_the_house_is_not_reached_by_name_or_number(app: TestApp) {
        // Only loopback is allowed in these tests; the metadata service of clouds is not, nor is anything private.
        for host in ["https://169.254.169.254", "https://10.0.0.1", "https://[::ffff:10.0.0.1]", "https://0x0a000001", "https://[fd00::1]"] {
            let endpoints = json!({ "authorization": format!("{host}/a"), "token": format!("{host}/t") });
            let body = ConnectorSpec::oauth2().with("endpoints", endpoints).body(app.provider_url());
            let made = app.admin().post("/v1/connectors", &body).await;
            if made.status == 422 {
                is(made, 422, "invalid-request").done();
                continue;
            }
            let id = made.expect(201).text_of("id");
            let line = json!({ "connector_id": id, "user_id": "u-1", "refresh_token": "x" }).to_string();
            app.admin().post_raw("/v1/connections/import", "application/x-ndjson", line).await.expect(200).done();
            let refused = app.connector_client(&id).await.post(&format!("/v1/connectors/{id}/token"), &json!({ "user_id": "u-1" })).await;
            is(refused, 503, "provider-unavailable").done();
            assert_eq!(app.number("SELECT COUNT(*) FROM connections WHERE last_outcome NOT IN ('address_refused', 'provider_unresolved')").await, 0);
        }
    }

    async fn a_connector_cannot_become_another_one(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        app.seed_import(&connector, &["u-1"]).await;
        for (member, value) in [
            ("provider", json!("oidc")),
            ("client_id", json!("another")),
            ("auth_mode", json!("shared")),
            ("endpoints", json!({ "authorization": "https://evil.example/a", "token": "https://evil.example/t" })),
        ] {
            let refused = app.admin().patch(&connector.path(""), &json!({ member: value })).await;
            assert_eq!(field(&is(refused, 409, "connector-in-use")), member);
        }
        let stale = app.admin().patch(&connector.path(""), &json!({ "version": 7, "name": "x" })).await;
        assert_eq!(is(stale, 409, "version-conflict").json["current_version"], 1);
        app.admin().patch(&connector.path(""), &json!({ "version": 1, "name": "x", "scopes": ["write"] })).await.expect(200).done();
    }

    async fn a_key_is_made_right_or_not_at_all(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        for (body, named) in [
            (json!({ "name": "", "roles": ["app"] }), "name"),
            (json!({ "name": "a\nb", "roles": ["app"] }), "name"),
            (json!({ "name": "K", "roles": [] }), "roles"),
            (json!({ "name": "K", "roles": ["shared"] }), "roles"),
            (json!({ "name": "K", "roles": ["king"] }), "roles[0]"),
            (json!({ "name": "K", "roles": ["connector"] }), "connectors"),
            (json!({ "name": "K", "roles": ["app"], "connectors": [] }), "connectors"),
            (json!({ "name": "K", "roles": ["connector"], "connectors": ["ctr_00000000000000000000000000"] }), "connectors"),
            (json!({ "name": "K", "roles": ["app"], "expires_at": "2001-01-01T00:00:00Z" }), "expires_at"),
            (json!({ "name": "K", "roles": ["app"], "expires_at": "soon" }), "expires_at"),
        ] {
            assert_eq!(field(&is(app.admin().post("/v1/keys", &body).await, 422, "invalid-request")), named, "{body}");
        }
        let good = json!({ "name": "K", "roles": ["connector"], "connectors": [connector.id] });
        app.admin().post("/v1/keys", &good).await.expect(201).done();
    }

    async fn a_request_id_is_kept_if_it_is_harmless(app: TestApp) {
        let ask = |id: &str| {
            let request = app.admin().request(Method::GET, "/v1/nothing").header("x-request-id", id);
            let client = app.admin();
            async move { client.send(request).await.expect_problem(404, "not-found") }
        };
        assert_eq!(ask("my-request-17").await.json["request_id"], "my-request-17");
        for odd in ["x".repeat(500), "a b\"c".to_owned(), "<script>".to_owned()] {
            assert_ne!(ask(&odd).await.json["request_id"], odd.as_str());
        }
    }

    async fn every_answer_forbids_sniffing_and_keeping(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        app.seed_import(&connector, &["u-1"]).await;
        let answers = [
            app.fetch(&connector, "u-1").await.expect(200),
            app.fetch(&connector, "u-2").await.expect(404),
            app.anonymous().get("/v1/keys").await.expect(401),
            app.admin().get("/v1/keys").await.expect(200),
            app.try_start(&connector, &json!({ "user_id": "u-1", "mode": "redirect", "return_url": RETURN_URL })).await.expect(201),
            app.anonymous().get("/nowhere").await.expect(404),
        ];
        for answer in answers {
            assert_eq!(answer.header("cache-control"), "no-store", "{}", answer.request);
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{}", answer.request);
            assert!(!answer.header("x-request-id").is_empty(), "{}", answer.request);
            assert!(answer.header("server").is_empty(), "{}", answer.request);
        }
    }
}
