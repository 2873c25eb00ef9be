//! Connectors that change while flows run: what is fixed once it is used, and what a change in mid-flow does.

use serde_json::{Value, json};
use valetkey_suite::{
    ConnectorSpec, Home, engine_tests,
    sandbox::{Fault, FaultRule},
};

engine_tests! {
    async fn what_a_connector_is_cannot_change_once_a_flow_exists(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.start_flow(&connector, &connector.popup("u-1")).await;
        let admin = app.admin();
        for (field, value) in [
            ("provider", json!("oauth2")),
            ("issuer", json!("http://127.0.0.1:9")),
            ("endpoints", json!({ "token": "http://127.0.0.1:9/token" })),
            ("settings", json!({ "client_authentication": "body" })),
            ("client_id", json!("another")),
            ("auth_mode", json!("shared")),
            ("grant", json!("client_credentials")),
        ] {
            let patch = json!({ field: value, "client_secrets": ["given-again"] });
            let refused = admin.patch(&connector.path(""), &patch).await.expect_problem(409, "connector-in-use");
            assert_eq!(refused.json["faults"][0]["field"], field, "{}", refused.text);
        }
        let shown = admin.get(&connector.path("")).await.expect(200);
        assert_eq!(shown.json, connector.json, "nothing has changed");
    }

    async fn the_rest_of_a_connector_stays_editable(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        let admin = app.admin();
        for (field, value) in [
            ("name", json!("Another name")),
            ("scopes", json!(["openid"])),
            ("optional_scopes", json!(["read", "write"])),
            ("return_urls", json!(["https://app.example/elsewhere"])),
            ("origins", json!(["https://elsewhere.example"])),
            ("binding", json!("confirm_page")),
            ("rotation", json!({ "class": "strict" })),
        ] {
            let changed = admin.patch(&connector.path(""), &json!({ field: value })).await.expect(200);
            assert_eq!(changed.json[field], value);
        }
        let changed = admin.patch(&connector.path(""), &json!({ "client_secrets": ["one", "two"] })).await.expect(200);
        assert_eq!(changed.json["client_secret_count"], 2);
        assert_eq!(changed.json["version"], 9);
    }

    async fn saying_what_a_connector_is_already_changes_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        let patch = json!({ "client_id": connector.client_id, "provider": "oidc", "issuer": app.provider_url() });
        app.admin().patch(&connector.path(""), &patch).await.expect(200).done();
    }

    async fn an_unused_connector_can_change_but_stored_secrets_never_go_to_another_host(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let admin = app.admin();
        let patch = json!({ "issuer": "http://127.0.0.1:9" });
        admin.patch(&connector.path(""), &patch).await.expect_fault("invalid-request", "client_secrets").done();
        let patch = json!({ "client_id": "another", "client_secrets": ["given-again"] });
        admin.patch(&connector.path(""), &patch).await.expect(200).done();
    }

    async fn secrets_are_write_only(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        assert!(connector.json.get("client_secrets").is_none());
        assert_eq!(connector.json["client_secret_count"], 1);
        for answer in [app.admin().get(&connector.path("")).await, app.admin().get("/v1/connectors").await] {
            assert!(!answer.expect(200).text.contains(&connector.client_secret));
        }
    }

    async fn an_edit_that_did_not_see_the_newest_version_is_refused(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let admin = app.admin();
        admin.patch(&connector.path(""), &json!({ "version": 1, "name": "One" })).await.expect(200).done();
        let refused = admin.patch(&connector.path(""), &json!({ "version": 1, "name": "Two" })).await;
        assert_eq!(refused.expect_problem(409, "version-conflict").json["current_version"], 2);
    }

    async fn of_edits_at_once_none_is_lost(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let mut edits = tokio::task::JoinSet::new();
        for number in 0..8 {
            let (admin, path) = (app.admin(), connector.path(""));
            edits
                .spawn(async move { admin.patch(&path, &json!({ "version": 1, "name": format!("n{number}") })).await });
        }
        let statuses: Vec<u16> = edits.join_all().await.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
    }

    async fn a_return_target_that_was_removed_in_mid_flow_is_not_used(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for (person, patch) in [
            ("u-1", json!({ "return_urls": ["https://app.example/elsewhere"] })),
            (
                "u-2",
                json!({ "return_urls": ["https://app.example/connected"], "origins": ["https://elsewhere.example"] }),
            ),
        ] {
            let restore =
                json!({ "return_urls": ["https://app.example/connected"], "origins": ["https://app.example"] });
            app.admin().patch(&connector.path(""), &restore).await.expect(200).done();
            let started = app.start_flow(&connector, &connector.popup(person)).await;
            let browser = app.browser(person);
            let location = browser.open(&started.start_url).await;
            let callback = browser.consent(&location).await;
            app.admin().patch(&connector.path(""), &patch).await.expect(200).done();
            let page = browser.get(&callback).await.expect_failure(409, "connector-changed");
            assert!(!page.html.contains("app.example"), "{}", page.html);
            let status = app.flow_status(&connector, &started.flow_id).await;
            assert_eq!(status, ("failed".to_owned(), Some("connector-changed".to_owned())));
        }
        assert!(app.provider().token_requests().is_empty());
    }

    async fn a_connector_that_is_deleted_in_mid_flow_ends_it(app: TestApp) {
        for steps in 0..3 {
            let connector = app.connector(ConnectorSpec::oidc()).await;
            let started = app.start_flow(&connector, &connector.popup("u-1")).await;
            let browser = app.browser("u-1");
            let admin = app.admin();
            let delete = async || admin.delete(&connector.path("")).await.expect(200).done();
            if steps == 0 {
                delete().await;
                browser.get(&started.start_url).await.expect_failure(409, "connector-changed");
                browser.post_start(&started.start_url).await.expect(409);
                continue;
            }
            let location = browser.open(&started.start_url).await;
            let callback = browser.consent(&location).await;
            if steps == 1 {
                delete().await;
                let page = browser.get(&callback).await.expect_failure(409, "connector-changed");
                assert!(Home::find(&page).is_none(), "{}", page.html);
                continue;
            }
            let home = browser.come_home(&callback).await;
            delete().await;
            app.finish(&connector, &home, "u-1").await.expect_problem(409, "flow-failed").done();
            let status = app.flow_status(&connector, &home.flow_id).await;
            assert_eq!(status, ("failed".to_owned(), Some("connector-changed".to_owned())));
        }
        assert!(app.provider().token_requests().is_empty());
    }

    async fn tokens_that_arrive_after_their_connector_was_deleted_are_revoked(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let home = app.browser("u-1").walk(&started.start_url).await;
        app.provider().inject(FaultRule::token(Fault::HoldUntilReleased { gate: "redeem".to_owned() }));
        let finish = app.finish(&connector, &home, "u-1");
        let meanwhile = async {
            assert!(app.provider().wait_until_held("redeem").await);
            app.admin().delete(&connector.path("")).await.expect(200).done();
            app.provider().release("redeem");
        };
        let (finished, ()) = tokio::join!(finish, meanwhile);
        finished.expect_problem(409, "flow-failed").done();
        app.settle().await;
        let grants = app.provider().grants_of(&connector.client_id, "u-1");
        assert!(grants.iter().all(|grant| !grant.alive), "{grants:?}");
        assert_eq!(grants.len(), 1);
    }

    async fn a_deleted_connector_is_gone_at_once_for_everybody(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        let fetcher = app.connector_client(&connector.id).await;
        let deleted = app.admin().delete(&connector.path("")).await.expect(200);
        assert_eq!(deleted.json["connections_revoked"], 1);
        app.admin().get(&connector.path("")).await.expect_problem(404, "connector-not-found").done();
        app.admin().delete(&connector.path("")).await.expect_problem(404, "connector-not-found").done();
        app.admin()
            .patch(&connector.path(""), &json!({ "name": "x" }))
            .await
            .expect_problem(404, "connector-not-found")
            .done();
        app.try_start(&connector, &connector.popup("u-1")).await.expect_problem(404, "connector-not-found").done();
        let token = fetcher.post(&connector.path("/token"), &json!({ "user_id": "u-1" })).await;
        token.expect_problem(404, "connector-not-found").done();
        let listed = app.admin().get("/v1/connectors").await.expect(200);
        assert_eq!(listed.json["items"], json!([]));
        app.settle().await;
        assert!(app.provider().grants_of(&connector.client_id, "u-1").iter().all(|grant| !grant.alive));
    }

    async fn connectors_of_another_space_do_not_exist(app: TestApp) {
        app.space("other").await;
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let stranger = app.key(&["admin", "app"], None, "other").await;
        let absent = "/v1/connectors/ctr_00000000000000000000000000";
        let flows = (connector.path("/flows"), format!("{absent}/flows"));
        let edit: Value = json!({ "name": "x" });
        for (one, two) in [
            (stranger.get(&connector.path("")).await, stranger.get(absent).await),
            (stranger.patch(&connector.path(""), &edit).await, stranger.patch(absent, &edit).await),
            (stranger.delete(&connector.path("")).await, stranger.delete(absent).await),
            (
                stranger.post(&flows.0, &connector.popup("u-1")).await,
                stranger.post(&flows.1, &connector.popup("u-1")).await,
            ),
        ] {
            let (one, two) =
                (one.expect_problem(404, "connector-not-found"), two.expect_problem(404, "connector-not-found"));
            assert_eq!(one.text_without_request_id(), two.text_without_request_id());
        }
        app.admin().get(&connector.path("")).await.expect(200).done();
    }
}
