//! Finishing and cancelling by somebody else (connectors: finish calls that trust the wrong party, cross-tenant confusion):
//! a handle fits one flow, one user and one space, once.

use std::time::Duration;

use serde_json::json;
use valetkey_suite::{Client, ConnectorSpec, TestApp, TestConnector, engine_tests};

use super::{Walk, failed_for, finish_refusals, holds_own_grant, metric, nothing_came_of_it};

async fn home(app: &TestApp, connector: &TestConnector, person: &str) -> valetkey_suite::Home {
    let started = app.start_flow(connector, &connector.popup(person)).await;
    app.browser(person).walk(&started.start_url).await
}

/// Everything that may be asked about a flow is refused to this caller exactly as for a flow that does not exist.
async fn does_not_exist_for(caller: &Client, home: &valetkey_suite::Home, person: &str) {
    let absent = "flw_00000000000000000000000000";
    let body = json!({ "handle": home.handle(), "user_id": person });
    for (method, rest, body) in
        [("GET", "", None), ("POST", "/finish", Some(&body)), ("POST", "/cancel", Some(&json!({})))]
    {
        let one = caller.call(method, &format!("/v1/flows/{}{rest}", home.flow_id), body).await;
        let two = caller.call(method, &format!("/v1/flows/{absent}{rest}"), body).await;
        let (one, two) = (one.expect_problem(404, "flow-not-found"), two.expect_problem(404, "flow-not-found"));
        assert_eq!(one.text_without_request_id(), two.text_without_request_id());
    }
}

engine_tests! {
    // connectors, cross-tenant: a handle, its user and its flow, presented with another space's key; attack 17.
    async fn another_spaces_key_cannot_finish_see_or_cancel_a_flow(app: TestApp) {
        app.space("other").await;
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = home(&app, &connector, "u-1").await;
        let stranger = app.key(&["app", "shared", "admin"], None, "other").await;
        does_not_exist_for(&stranger, &home, "u-1").await;
        assert!(metric(&app, "flow_calls_refused", "reason=\"not_found\"") >= 6);
        app.finish(&connector, &home, "u-1").await.expect(200).done();
        holds_own_grant(&app, &connector, "u-1").await;
    }

    // cross-app: another application of the same space, whose key names another connector; attacks 1 and 17.
    async fn a_key_for_another_connector_cannot_finish_see_or_cancel_a_flow(app: TestApp) {
        let (one, two) = (app.connector(ConnectorSpec::oidc()).await, app.connector(ConnectorSpec::oidc()).await);
        let home = home(&app, &one, "u-1").await;
        let other = app.key(&["app"], Some(&[&two.id]), "default").await;
        does_not_exist_for(&other, &home, "u-1").await;
        app.finish(&one, &home, "u-1").await.expect(200).done();
    }

    // A key that may do other things, one that was revoked, and none at all; attack 17.
    async fn a_key_without_the_role_finishes_and_cancels_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = home(&app, &connector, "u-1").await;
        let revoked = app.admin().post("/v1/keys", &json!({ "name": "K", "roles": ["app"] })).await.expect(201);
        app.admin().delete(&format!("/v1/keys/{}", revoked.text_of("id"))).await.expect(200).done();
        let body = json!({ "handle": home.handle(), "user_id": "u-1" });
        for (caller, status, code) in [
            (app.connector_client(&connector.id).await, 403, "forbidden"),
            (app.operator(), 403, "forbidden"),
            (app.caller(&revoked.text_of("key")), 401, "unauthenticated"),
            (app.anonymous(), 401, "unauthenticated"),
        ] {
            for rest in ["finish", "cancel"] {
                let body = if rest == "finish" { body.clone() } else { json!({}) };
                let path = format!("/v1/flows/{}/{rest}", home.flow_id);
                caller.post(&path, &body).await.expect_problem(status, code).done();
            }
        }
        nothing_came_of_it(&app).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }

    // connectors, COSF at the finish call: the handle is right and the user is not; attack 3.
    async fn a_wrong_user_ends_the_flow_and_erases_the_code(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for (person, named) in [
            ("u-1", json!({ "user_id": "u-2" })),
            ("u-3", json!({})),
            ("u-4", json!({ "actor": "u-4" })),
            ("u-5", json!({ "user_id": "U-5" })),
            ("u-6", json!({ "user_id": "u-6 " })),
            ("u-7", json!({ "user_id": "u-7", "actor": "u-7" })),
            ("é", json!({ "user_id": "e\u{301}" })),
        ] {
            let home = home(&app, &connector, person).await;
            let mut body = named;
            body["handle"] = json!(home.handle());
            app.finish_with(&connector, &home.flow_id, &body).await.expect_problem(403, "finish-mismatch").done();
            failed_for(&app, &home.flow_id, "user_mismatch").await;
            app.finish(&connector, &home, person).await.expect_problem(409, "flow-failed").done();
        }
        assert_eq!(app.number("SELECT CAST(COUNT(*) AS BIGINT) FROM flows WHERE code IS NOT NULL").await, 0);
        nothing_came_of_it(&app).await;
    }

    // A handle that is not the flow's own: refused, on record, and the flow goes on; attacks 7 and 12.
    async fn a_foreign_handle_is_refused_and_the_right_one_still_fits(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let (one, two) = (home(&app, &connector, "u-1").await, home(&app, &connector, "u-2").await);
        for wrong in [two.handle(), "", &one.handle()[1..], &one.handle().to_uppercase(), &format!("{} ", one.handle())] {
            let body = json!({ "handle": wrong, "user_id": "u-1" });
            app.finish_with(&connector, &one.flow_id, &body).await.expect_problem(403, "handle-refused").done();
        }
        assert_eq!(finish_refusals(&app, &one.flow_id).await, ["handle"; 5]);
        assert_eq!(metric(&app, "flow_calls_refused", "reason=\"handle\""), 5);
        nothing_came_of_it(&app).await;
        app.finish(&connector, &one, "u-1").await.expect(200).done();
        app.finish(&connector, &two, "u-2").await.expect(200).done();
        holds_own_grant(&app, &connector, "u-1").await;
        holds_own_grant(&app, &connector, "u-2").await;
    }

    // A handle that was used already, by its own user and by others; attack 12.
    async fn a_handle_that_is_replayed_connects_nobody_else(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = home(&app, &connector, "u-1").await;
        let first = app.finish(&connector, &home, "u-1").await.expect(200).json;
        for _ in 0..3 {
            app.finish(&connector, &home, "mallory").await.expect_problem(403, "finish-mismatch").done();
        }
        assert_eq!(finish_refusals(&app, &home.flow_id).await, ["user_mismatch"; 3], "it is on record though the flow is over");
        app.fetch(&connector, "mallory").await.expect_problem(404, "connection-not-found").done();
        let again = app.finish(&connector, &home, "u-1").await.expect(200).json;
        assert_eq!((&again["id"], &again["generation"]), (&first["id"], &first["generation"]));
        assert_eq!(app.provider().token_requests().len(), 1);
        app.advance(Duration::from_secs(601));
        app.finish(&connector, &home, "u-1").await.expect_problem(409, "flow-not-ready").done();
    }

    // A handle that somebody kept for later; attack 12.
    async fn a_handle_lapses_with_its_code(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = home(&app, &connector, "u-1").await;
        app.advance(Duration::from_secs(61));
        app.finish(&connector, &home, "u-1").await.expect_problem(410, "handle-expired").done();
        failed_for(&app, &home.flow_id, "handle_expired").await;
        nothing_came_of_it(&app).await;
    }

    // A hundred finishes at once, half of them by the attacker: one redemption, for the right user or for nobody; attack 12.
    async fn of_a_hundred_finishes_by_two_users_none_connects_the_wrong_one(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let home = home(&app, &connector, "u-1").await;
        let path = format!("/v1/flows/{}/finish", home.flow_id);
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..100 {
            let (application, path) = (app.application(), path.clone());
            let user = if number % 2 == 0 { "mallory" } else { "u-1" };
            let body = json!({ "handle": home.handle(), "user_id": user });
            calls.spawn(async move { (user, application.post(&path, &body).await) });
        }
        for (user, answer) in calls.join_all().await {
            if user == "mallory" {
                answer.expect_problem(403, "finish-mismatch").done();
            } else {
                assert!([200, 409].contains(&answer.status), "{}", answer.text);
            }
        }
        assert!(app.provider().token_requests().len() <= 1);
        app.fetch(&connector, "mallory").await.expect_problem(404, "connection-not-found").done();
    }

    // A shared grant is the whole application's: an application without the role can neither finish nor start it; attack 17.
    async fn a_shared_flow_is_not_finished_without_the_role(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().shared()).await;
        let home = home(&app, &connector, "admin-1").await;
        let body = json!({ "handle": home.handle(), "actor": "admin-1" });
        let path = format!("/v1/flows/{}/finish", home.flow_id);
        app.application().post(&path, &body).await.expect_problem(403, "shared-role-required").done();
        assert_eq!(finish_refusals(&app, &home.flow_id).await, ["shared_role"]);
        nothing_came_of_it(&app).await;
        app.finish(&connector, &home, "admin-1").await.expect(200).done();
    }

    // No answer and no record ever holds what one could finish with; attacks 15 and 16.
    async fn no_answer_of_the_api_holds_a_secret_of_the_flow(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let mut secrets = walk.secrets();
        let home = walk.browser.come_home(&walk.callback).await;
        secrets.push(home.handle().to_owned());
        for done in [false, true] {
            if done {
                app.finish(&connector, &home, "u-1").await.expect(200).done();
            }
            for path in [
                format!("/v1/flows/{}", home.flow_id),
                connector.path(""),
                "/v1/connectors".to_owned(),
                "/v1/audit?limit=200".to_owned(),
                "/v1/connections".to_owned(),
            ] {
                let all = app.key(&["admin", "app", "operator"], None, "default").await;
                super::holds_none_of(&all.get(&path).await.expect(200).json, &secrets);
            }
        }
    }
}
