//! The audit: every change of state is on record with whom it was by, in the same transaction, and never a secret.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use valetkey_core::Action;
use valetkey_suite::{
    ConnectorSpec, Engine, TestApp, Work, engine_tests,
    extra::{items_of, text_of},
    sandbox::{Fault, FaultRule, Rotation},
};

/// From now on no audit event can be written.
async fn break_audit(app: &TestApp) {
    app.execute(match app.engine() {
        Engine::Sqlite => "CREATE TRIGGER broken BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'broken'); END",
        Engine::Postgres => "ALTER TABLE audit ADD CONSTRAINT broken CHECK (false) NOT VALID",
    })
    .await;
}

async fn mend_audit(app: &TestApp) {
    app.execute(match app.engine() {
        Engine::Sqlite => "DROP TRIGGER broken",
        Engine::Postgres => "ALTER TABLE audit DROP CONSTRAINT broken",
    })
    .await;
}

fn actions(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| text_of(&event["action"])).collect()
}

/// Everything that can happen, once.
async fn everything(app: &TestApp) {
    app.space("other").await;
    let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
    app.admin().patch(&connector.path(""), &json!({ "name": "Renamed" })).await.expect(200).done();
    let key = app.admin().post("/v1/keys", &json!({ "name": "K", "roles": ["app"] })).await.expect(201);
    app.admin().delete(&format!("/v1/keys/{}", key.text_of("id"))).await.expect(200).done();
    let connection = app.connect_user(&connector, "u-1").await;
    let id = text_of(&connection["id"]);
    app.fetch(&connector, "u-1").await.expect(200).done();
    app.run(Work::Issues).await;
    // Somebody else opens the link; the provider is told no; the application calls it off.
    let started = app.start_flow(&connector, &connector.redirect("u-2")).await;
    let browser = app.browser("u-2");
    let location = browser.open(&started.start_url).await;
    app.browser("stranger").post_start(&started.start_url).await.expect(403);
    let denied = browser.deny(&location).await;
    browser.come_home(&denied).await.expect_code("access-denied");
    let waiting = app.start_flow(&connector, &connector.redirect("u-4")).await;
    let home = app.browser("u-4").walk(&waiting.start_url).await;
    let wrong = json!({ "handle": "wrong", "user_id": "u-4" });
    app.finish_with(&connector, &home.flow_id, &wrong).await.expect_problem(403, "handle-refused").done();
    let mut unregistered = connector.redirect("u-4");
    unregistered["return_url"] = json!("https://elsewhere.example/");
    app.try_start(&connector, &unregistered).await.expect_problem(422, "invalid-request").done();
    let cancelled = app.start_flow(&connector, &connector.redirect("u-2")).await;
    let path = format!("/v1/flows/{}/cancel", cancelled.flow_id);
    app.application().post(&path, &json!({})).await.expect(204).done();
    // Refreshed, then dead; imported; planned; revoked; told.
    app.advance_to_due(&id).await;
    app.run(Work::Refresh).await;
    app.provider().revoke_grants_by_user(&connector.client_id, "u-1");
    app.advance_to_due(&id).await;
    app.run(Work::Refresh).await;
    app.seed_import(&connector, &["u-3"]).await;
    let plan = json!({ "dry_run": true, "filter": {} });
    app.operator().post("/v1/connections/revoke", &plan).await.expect(200).done();
    app.operator().delete(&format!("/v1/connections/{id}")).await.expect(200).done();
    app.settle().await;
    app.advance(Duration::from_secs(31 * 86_400));
    app.run(Work::Purge).await;
    app.admin().delete(&connector.path("")).await.expect(200).done();
}

engine_tests! {
    async fn everything_that_happens_is_on_record(app: TestApp) {
        everything(&app).await;
        let mut seen: BTreeSet<String> = actions(&app.audit("").await).into_iter().collect();
        let made = "SELECT COUNT(*) FROM audit WHERE space_id = 'other' AND action = 'space.created'";
        assert_eq!(app.number(made).await, 1, "a space's making is on record in that space");
        seen.insert("space.created".to_owned());
        // Those of a hold and of the keys have tests of their own (hold.rs, rotation.rs, the server's keyring.rs), and what
        // needs a replica that gave up too early (silence.rs).
        let elsewhere = |action: &Action| {
            ["hold.", "data_key", "connection.recovered"].iter().any(|start| action.as_str().starts_with(start))
        };
        let missing: Vec<_> =
            Action::ALL.iter().filter(|action| !seen.contains(action.as_str()) && !elsewhere(action)).collect();
        assert!(missing.is_empty(), "never seen: {missing:?}");
    }

    async fn events_say_who_what_and_when(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let connection = app.connect_user(&connector, "u-1").await;
        let events = app.audit(&format!("connection_id={}", text_of(&connection["id"]))).await;
        let connected = events.iter().find(|event| event["action"] == "connection.connected").expect("an event");
        assert_eq!(connected["actor"]["kind"], "key");
        assert_eq!(connected["connector_id"], connector.id);
        assert_eq!(connected["owner"], json!({ "kind": "user", "user_id": "u-1" }));
        assert!(connected["flow_id"].is_string() && connected["request_id"].is_string() && connected["at"].is_string());
        let opened = &app.audit("action=flow.opened").await[0];
        assert_eq!(opened["actor"], json!({ "kind": "browser" }));
        // An answer's request id finds its events.
        let new = json!({ "name": "K", "roles": ["app"] });
        let made = app.admin().post("/v1/keys", &new).await.expect(201);
        let event = &app.audit(&format!("key_id={}", made.text_of("id"))).await[0];
        assert_eq!((&event["action"], text_of(&event["request_id"])), (&json!("key.created"), made.header("x-request-id").to_owned()));
        assert_eq!(event["detail"]["roles"], json!(["app"]));
    }

    async fn issued_tokens_are_on_record_by_fingerprint_and_count(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        app.seed_import(&connector, &["u-1"]).await;
        let client = app.connector_client(&connector.id).await;
        let body = json!({ "user_id": "u-1" });
        let token = client.post(&connector.path("/token"), &body).await.expect(200);
        for _ in 0..4 {
            client.post(&connector.path("/token"), &body).await.expect(200).done();
        }
        app.run(Work::Issues).await;
        app.advance(Duration::from_secs(61));
        app.run(Work::Issues).await;
        let events = app.audit("action=token.issued").await;
        let issued: u64 = events.iter().filter_map(|event| event["detail"]["count"].as_u64()).sum();
        assert_eq!(issued, 5, "{events:?}");
        for event in &events {
            assert_eq!(event["detail"]["fingerprint"], token.json["fingerprint"]);
            assert_eq!((&event["actor"]["kind"], &event["owner"]["user_id"]), (&json!("key"), &json!("u-1")));
        }
    }

    async fn what_was_issued_is_written_at_shutdown(app: TestApp) {
        let mut app = app;
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        app.seed_import(&connector, &["u-1"]).await;
        app.fetch(&connector, "u-1").await.expect(200).done();
        app.restart().await;
        assert_eq!(app.audit("action=token.issued").await.len(), 1);
    }

    async fn the_audit_can_be_narrowed(app: TestApp) {
        let one = app.connector(ConnectorSpec::oauth2()).await;
        let two = app.connector(ConnectorSpec::oauth2()).await;
        app.seed_import(&one, &["u-1", "u-2"]).await;
        app.advance(Duration::from_secs(3_600));
        let between = app.clock.now().to_string();
        app.seed_import(&two, &["u-1"]).await;
        let started = app.start_flow(&one, &one.redirect("u-2")).await;
        for (query, expected) in [
            (format!("connector_id={}", one.id), 4),
            (format!("connector_id={}&action=connection.imported", one.id), 2),
            ("user_id=u-1".to_owned(), 2),
            ("user_id=u-1&action=connection.revoked".to_owned(), 0),
            (format!("flow_id={}", started.flow_id), 1),
            (format!("action=connection.imported&from={between}"), 1),
            (format!("action=connection.imported&to={between}"), 2),
            ("action=connection.imported&from=2001-01-01T00:00:00Z&to=2002-01-01T00:00:00Z".to_owned(), 0),
        ] {
            assert_eq!(app.audit(&query).await.len(), expected, "{query}");
        }
        for bad in ["action=nonsense", "from=yesterday", "connector_id=x", "limit=0", "limit=201", "after=x", "nonsense=1"] {
            app.operator().get(&format!("/v1/audit?{bad}")).await.expect_problem(400, "invalid-query").done();
        }
    }

    async fn pages_follow_one_another_and_miss_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let users: Vec<String> = (0..25).map(|number| format!("u-{number}")).collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        app.seed_import(&connector, &users).await;
        for (list, all) in [
            ("/v1/audit?action=connection.imported", 25),
            ("/v1/connections?status=active", 25),
            ("/v1/connectors?", 1),
        ] {
            let mut ids: Vec<String> = Vec::new();
            let mut after = String::new();
            let mut pages = 0;
            loop {
                let page = app.operator().get(&format!("{list}&limit=10{after}")).await.expect(200);
                ids.extend(items_of(&page).iter().map(|item| text_of(&item["id"])));
                pages += 1;
                if pages == 1 && list.contains("audit") {
                    // What happens meanwhile does not move the pages.
                    app.seed_import(&connector, &["late"]).await;
                }
                match page.json["next"].as_str() {
                    Some(next) => after = format!("&after={next}"),
                    None => break,
                }
            }
            let distinct: BTreeSet<&String> = ids.iter().collect();
            let late = usize::from(list.contains("connections?"));
            assert_eq!((ids.len(), distinct.len()), (all + late, all + late), "{list}");
            assert_eq!(pages, if all == 1 { 1 } else { 3 }, "{list}");
        }
    }

    async fn a_dead_grant_that_could_not_be_put_on_record_is_found_dead_later(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::NonRotating)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        app.provider().revoke_grant_by_user(&seeded[0].grant);
        app.advance(Duration::from_secs(3_601));
        let key = app.connector_client(&connector.id).await;
        break_audit(&app).await;
        let ask = json!({ "user_id": "u-1" });
        key.post(&connector.path("/token"), &ask).await.expect_problem(503, "provider-unavailable").done();
        mend_audit(&app).await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["status"], "active");
        // As after a crash at this point: once the lease is over somebody looks after it.
        app.advance(Duration::from_secs(51));
        app.run(Work::Recover).await;
        app.advance(Duration::from_secs(5));
        key.post(&connector.path("/token"), &ask).await.expect_problem(409, "reconnect-required").done();
        assert_eq!(app.audit("action=connection.needs_reauth").await.len(), 1);
    }

    async fn an_unknown_outcome_that_could_not_be_put_on_record_is_decided_later(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::StrictWide)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        app.seed_import_with(&connector, &["u-1"], |_, line| line["label"] = json!("second")).await;
        app.provider().inject(FaultRule::refresh(Fault::ResetBeforeAnswer).grant(&seeded[0].grant));
        app.advance(Duration::from_secs(3_601));
        let key = app.connector_client(&connector.id).await;
        break_audit(&app).await;
        let ask = json!({ "user_id": "u-1" });
        key.post(&connector.path("/token"), &ask).await.expect_problem(503, "provider-unavailable").done();
        // Looked at while it cannot be put on record either, and then again.
        app.advance(Duration::from_secs(51));
        assert!(app.broker().recover_attempts(10).await.is_err());
        mend_audit(&app).await;
        app.run(Work::Recover).await;
        key.post(&connector.path("/token"), &ask).await.expect_problem(409, "reconnect-required").done();
        assert_eq!(app.connection(&seeded[0].connection_id).await["needs_reauth"]["reason"], "unknown_outcome");
        let presented = app.refreshes(&connector).iter().filter(|event| event.grant.as_ref() == Some(&seeded[0].grant)).count();
        assert_eq!(presented, 1);
    }

    async fn nothing_changes_that_cannot_be_put_on_record(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let id = &seeded[0].connection_id;
        let pending = app.start_flow(&connector, &connector.redirect("u-2")).await;
        let bound = app.start_flow(&connector, &connector.redirect("u-3")).await;
        let browser = app.browser("u-3");
        let callback = browser.consent(&browser.open(&bound.start_url).await).await;
        let key = app.admin().post("/v1/keys", &json!({ "name": "K", "roles": ["app"] })).await.expect(201).text_of("id");
        let tables = ["connectors", "connections", "flows", "api_keys", "revocations", "revoke_plans"];
        let mut before = Vec::new();
        for table in tables {
            before.push(app.number(&format!("SELECT COUNT(*) FROM {table}")).await);
        }
        break_audit(&app).await;
        let spec = ConnectorSpec::oauth2().body(app.provider_url());
        let (admin, application, operator) = (app.admin(), app.application(), app.operator());
        let line = json!({ "connector_id": connector.id, "user_id": "u-9", "refresh_token": "x" }).to_string();
        let refused = [
            admin.post("/v1/connectors", &spec).await,
            admin.patch(&connector.path(""), &json!({ "name": "Renamed" })).await,
            admin.delete(&connector.path("")).await,
            admin.post("/v1/keys", &json!({ "name": "K", "roles": ["app"] })).await,
            admin.delete(&format!("/v1/keys/{key}")).await,
            application.post(&connector.path("/flows"), &connector.redirect("u-4")).await,
            application.post(&format!("/v1/flows/{}/cancel", pending.flow_id), &json!({})).await,
            application.post(&connector.path("/disconnect"), &json!({ "user_id": "u-1" })).await,
            operator.delete(&format!("/v1/connections/{id}")).await,
            operator.post("/v1/connections/revoke", &json!({ "dry_run": true, "filter": {} })).await,
        ];
        for answer in refused {
            let told = answer.request.clone();
            let answer = answer.expect_problem(500, "internal-error");
            assert!(answer.json.get("detail").is_none() && !answer.text.contains("broken"), "{told}: {}", answer.text);
        }
        let import = admin.post_raw("/v1/connections/import", "application/x-ndjson", line).await.expect(200);
        assert!(import.text.contains("internal-error"), "{}", import.text);
        browser.get(&callback).await.expect(500);
        mend_audit(&app).await;

        for (table, before) in tables.into_iter().zip(before) {
            assert_eq!(app.number(&format!("SELECT COUNT(*) FROM {table}")).await, before, "{table}");
        }
        assert_eq!(app.admin().get(&connector.path("")).await.expect(200).json, connector.json);
        assert_eq!(app.connection(id).await["status"], "active");
        assert_eq!(app.flow_status(&connector, &pending.flow_id).await.0, "pending");
        app.fetch(&connector, "u-1").await.expect(200).done();
        // Nothing was used up: the flow goes on where it stood.
        let home = browser.come_home(&callback).await;
        app.finish(&connector, &home, "u-3").await.expect(200).done();
    }
}
