//! Whose account it is: what the provider says of it, and who may take its place.

use serde_json::json;
use valetkey_suite::{Answer, ConnectorSpec, Started, TestApp, TestConnector, engine_tests, sandbox::IdToken};

/// Reconnects `u-1`, who signs in at the provider as somebody else.
async fn reconnect_as(app: &TestApp, connector: &TestConnector, account: &str, allow: bool) -> Answer {
    let mut body = connector.popup("u-1");
    body["allow_account_change"] = json!(allow);
    let Started { start_url, .. } = app.start_flow(connector, &body).await;
    let browser = app.browser("u-1");
    let location = browser.open(&start_url).await;
    let callback = browser.consent_as(&location, account).await;
    let home = browser.come_home(&callback).await;
    app.finish(connector, &home, "u-1").await
}

fn is_alive(app: &TestApp, connector: &TestConnector, account: &str) -> bool {
    app.provider().grants_of(&connector.client_id, account).iter().any(|grant| grant.alive)
}

engine_tests! {
    async fn another_account_is_refused_and_its_tokens_are_revoked(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let first = app.connect_user(&connector, "u-1").await;
        let refused = reconnect_as(&app, &connector, "somebody-else", false).await.expect_problem(409, "flow-failed");
        assert_eq!(refused.json["flow_code"], "account-changed");
        let token = app.fetch(&connector, "u-1").await.expect(200);
        assert_eq!(token.json["generation"], first["generation"]);
        assert_eq!(app.provider().grant_of_token(&token.text_of("access_token")).unwrap().user, "u-1");
        assert!(is_alive(&app, &connector, "somebody-else"));
        app.settle().await;
        assert!(!is_alive(&app, &connector, "somebody-else"), "{:?}", app.provider().revocations());
        assert!(is_alive(&app, &connector, "u-1"), "the connection that stays is untouched");
    }

    async fn another_account_takes_the_place_where_that_was_allowed(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let first = app.connect_user(&connector, "u-1").await;
        let changed = reconnect_as(&app, &connector, "somebody-else", true).await.expect(200).json;
        assert_eq!(changed["id"], first["id"]);
        assert_eq!(changed["account"]["subject"], "somebody-else");
        let token = app.fetch(&connector, "u-1").await.expect(200).text_of("access_token");
        assert_eq!(app.provider().grant_of_token(&token).unwrap().user, "somebody-else");
    }

    async fn the_same_account_may_always_come_back(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        let again = reconnect_as(&app, &connector, "u-1", false).await.expect(200).json;
        assert_eq!(again["generation"], 2);
        app.settle().await;
        let token = app.fetch(&connector, "u-1").await.expect(200).text_of("access_token");
        assert!(app.provider().is_access_token_live(&token), "revoking the old tokens spared the new ones");
    }

    async fn a_second_account_lives_under_another_label(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let mut body = connector.popup("u-1");
        body["label"] = json!("work");
        let started = app.start_flow(&connector, &body).await;
        let browser = app.browser("u-1");
        let location = browser.open(&started.start_url).await;
        let callback = browser.consent_as(&location, "u-1-work").await;
        let home = browser.come_home(&callback).await;
        let work = app.finish(&connector, &home, "u-1").await.expect(200).json;
        assert_eq!(work["label"], "work");

        // It is chosen by name only, never by guess.
        app.fetch(&connector, "u-1").await.expect_problem(404, "connection-not-found").done();
        let private = app.connect_user(&connector, "u-1").await;
        assert_ne!(private["id"], work["id"]);
        for (label, account) in [("work", "u-1-work"), ("", "u-1")] {
            let token = app.fetch_with(&connector, "u-1", json!({ "label": label })).await.expect(200);
            assert_eq!(app.provider().grant_of_token(&token.text_of("access_token")).unwrap().user, account);
        }
        app.fetch_with(&connector, "u-1", json!({ "label": "Work" }))
            .await
            .expect_problem(404, "connection-not-found")
            .done();
    }

    async fn a_statement_about_the_account_that_does_not_fit_ends_the_flow(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for (number, fault) in [
            IdToken::WrongIssuer,
            IdToken::WrongAudience,
            IdToken::WrongNonce,
            IdToken::NoNonce,
            IdToken::NoSubject,
            IdToken::Expired,
            IdToken::Malformed,
        ]
        .into_iter()
        .enumerate()
        {
            let person = format!("u-{number}");
            app.provider().update_client(&connector.client_id, |client| client.id_token = fault).unwrap();
            let started = app.start_flow(&connector, &connector.popup(&person)).await;
            let home = app.browser(&person).walk(&started.start_url).await;
            let refused = app.finish(&connector, &home, &person).await.expect_problem(409, "flow-failed");
            assert_eq!(refused.json["flow_code"], "id-token-invalid", "{fault:?}");
            app.fetch(&connector, &person).await.expect_problem(404, "connection-not-found").done();
        }
        app.settle().await;
        let alive: Vec<_> = app.provider().grants().into_iter().filter(|grant| grant.alive).collect();
        assert!(alive.is_empty(), "tokens that were redeemed and not stored live on: {alive:?}");
    }

    async fn an_expired_statement_does_not_replace_what_is_connected(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        app.provider().update_client(&connector.client_id, |client| client.id_token = IdToken::Expired).unwrap();
        reconnect_as(&app, &connector, "u-1", true).await.expect_problem(409, "flow-failed").done();
        let token = app.fetch(&connector, "u-1").await.expect(200);
        assert_eq!(token.json["generation"], 1);
    }
}
