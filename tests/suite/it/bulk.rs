//! Many at once: revoking by filter with a plan, deleting a connector, off-boarding a user.

use std::time::Duration;

use serde_json::{Value, json};
use valetkey_suite::{
    Answer, Client, ConnectorSpec, TestApp, TestConnector, Work, engine_tests,
    sandbox::{Fault, FaultRule},
};

const REVOKE: &str = "/v1/connections/revoke";

async fn plan(client: &Client, filter: Value) -> Answer {
    client.post(REVOKE, &json!({ "dry_run": true, "filter": filter })).await.expect(200)
}

async fn carry_out(client: &Client, plan: &Answer, count: i64) -> Answer {
    client.post(REVOKE, &json!({ "plan_id": plan.json["plan_id"], "expected_count": count })).await
}

/// How many connections of the connector are in this status.
async fn count(app: &TestApp, connector: &TestConnector, status: &str) -> i64 {
    let statement = "SELECT COUNT(*) FROM connections WHERE connector_id";
    app.number(&format!("{statement} = '{}' AND status = '{status}'", connector.id)).await
}

/// Two connectors, the first with three users, the second with two of them.
async fn two_connectors(app: &TestApp) -> (TestConnector, TestConnector) {
    let (one, two) = (app.connector(ConnectorSpec::oauth2()).await, app.connector(ConnectorSpec::oidc()).await);
    app.seed_import(&one, &["u-1", "u-2", "u-3"]).await;
    app.seed_import(&two, &["u-1", "u-2"]).await;
    (one, two)
}

engine_tests! {
    async fn a_plan_counts_what_its_call_revokes(app: TestApp) {
        let (one, two) = two_connectors(&app).await;
        let operator = app.operator();
        let planned = plan(&operator, json!({ "user_id": "u-1" })).await;
        assert_eq!(planned.json["count"], 2);
        assert_eq!(planned.json["by_provider"], json!({ "oauth2": 1, "oidc": 1 }));
        assert_eq!(planned.json["by_outcome"], json!({ "confirmable": 2, "unsupported": 0 }));
        assert_eq!(planned.json["sample"].as_array().map(Vec::len), Some(2));
        app.fetch(&one, "u-1").await.expect(200).done();

        let done = carry_out(&operator, &planned, 2).await.expect(200);
        assert_eq!(done.json, json!({ "revoked": 2 }));
        for connector in [&one, &two] {
            app.fetch(connector, "u-1").await.expect_problem(404, "connection-not-found").done();
            app.fetch(connector, "u-2").await.expect(200).done();
        }
        app.run(Work::Deliver).await;
        assert_eq!((count(&app, &one, "revoked").await, count(&app, &two, "revoked").await), (1, 1));
        let told = app.revocations_seen(&one).len() + app.revocations_seen(&two).len();
        assert_eq!(told, 4);
        // Who did it is on record, for the plan and for each connection.
        let planned_event = &app.audit("action=revoke.planned").await[0];
        assert_eq!((&planned_event["detail"]["count"], &planned_event["actor"]["kind"]), (&json!(2), &json!("key")));
        let revoked = app.audit("action=connection.revoked&user_id=u-1").await;
        assert_eq!(revoked.len(), 2, "found by the user it was about");
        assert!(revoked.iter().all(|event| event["detail"]["reason"] == "bulk"));
    }

    async fn filters_narrow(app: TestApp) {
        let (one, two) = two_connectors(&app).await;
        app.seed_import_with(&one, &["u-1"], |_, line| line["label"] = json!("second")).await;
        app.operator().post(REVOKE, &json!({ "dry_run": true })).await.expect_fault("invalid-request", "filter").done();
        for (filter, expected) in [
            (json!({}), 6),
            (json!({ "connector_id": one.id }), 4),
            (json!({ "connector_id": two.id, "user_id": "u-2" }), 1),
            (json!({ "provider": "oidc" }), 2),
            (json!({ "user_id": "u-1", "label": "second" }), 1),
            (json!({ "user_id": "nobody" }), 0),
            (json!({ "owner": "shared" }), 0),
            (json!({ "status": "needs_reauth" }), 0),
            (json!({ "status": "active" }), 6),
            (json!({ "reason": "grant_revoked" }), 0),
        ] {
            let planned = plan(&app.operator(), filter.clone()).await;
            assert_eq!(planned.json["count"], expected, "{filter}");
        }
        let bad = app.operator().post(REVOKE, &json!({ "dry_run": true, "filter": { "user": "u-1" } })).await;
        bad.expect_fault("unknown-field", "filter.user").done();
    }

    async fn a_plan_whose_set_grew_is_refused(app: TestApp) {
        let (one, _) = two_connectors(&app).await;
        let planned = plan(&app.operator(), json!({ "connector_id": one.id })).await;
        app.seed_import(&one, &["u-4"]).await;
        let refused = carry_out(&app.operator(), &planned, 3).await.expect_problem(409, "plan-stale");
        assert_eq!((&refused.json["planned"], &refused.json["now"]), (&json!(3), &json!(4)));
        assert_eq!(count(&app, &one, "active").await, 4, "nothing was revoked");
        let again = plan(&app.operator(), json!({ "connector_id": one.id })).await;
        assert_eq!(carry_out(&app.operator(), &again, 4).await.expect(200).json["revoked"], 4);
    }

    async fn a_plan_whose_set_shrank_revokes_what_is_left(app: TestApp) {
        let (one, _) = two_connectors(&app).await;
        let planned = plan(&app.operator(), json!({ "connector_id": one.id })).await;
        app.application().post(&one.path("/disconnect"), &json!({ "user_id": "u-1" })).await.expect(200).done();
        assert_eq!(carry_out(&app.operator(), &planned, 3).await.expect(200).json["revoked"], 2);
    }

    async fn a_plan_with_another_count_than_a_person_saw_is_refused(app: TestApp) {
        let (one, _) = two_connectors(&app).await;
        let planned = plan(&app.operator(), json!({ "connector_id": one.id })).await;
        for wrong in [2, 4, 0, -1] {
            carry_out(&app.operator(), &planned, wrong).await.expect_problem(409, "plan-stale").done();
        }
        assert_eq!(count(&app, &one, "active").await, 3);
        carry_out(&app.operator(), &planned, 3).await.expect(200).done();
    }

    async fn a_plan_is_used_once(app: TestApp) {
        let (one, _) = two_connectors(&app).await;
        let planned = plan(&app.operator(), json!({ "connector_id": one.id })).await;
        let (first, second) = tokio::join!(
            async { carry_out(&app.operator(), &planned, 3).await },
            async { carry_out(&app.operator(), &planned, 3).await },
        );
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409]);
        carry_out(&app.operator(), &planned, 3).await.expect_problem(409, "plan-over").done();
    }

    async fn a_plan_lasts_ten_minutes(app: TestApp) {
        let (one, _) = two_connectors(&app).await;
        let planned = plan(&app.operator(), json!({ "connector_id": one.id })).await;
        app.advance(Duration::from_secs(601));
        carry_out(&app.operator(), &planned, 3).await.expect_problem(409, "plan-over").done();
        assert_eq!(count(&app, &one, "active").await, 3);
        app.advance(Duration::from_secs(2 * 86_400));
        app.run(Work::Purge).await;
        carry_out(&app.operator(), &planned, 3).await.expect_problem(404, "plan-not-found").done();
    }

    async fn a_plan_does_not_exist_in_another_space(app: TestApp) {
        let (one, _) = two_connectors(&app).await;
        app.space("other").await;
        let elsewhere = app.key(&["operator"], None, "other").await;
        assert_eq!(plan(&elsewhere, json!({})).await.json["count"], 0, "another space is empty");
        let planned = plan(&app.operator(), json!({})).await;
        let hidden = carry_out(&elsewhere, &planned, 5).await.expect_problem(404, "plan-not-found");
        let missing = json!({ "plan_id": "pln_00000000000000000000000000", "expected_count": 5 });
        let absent = elsewhere.post(REVOKE, &missing).await.expect_problem(404, "plan-not-found");
        assert_eq!(hidden.text_without_request_id(), absent.text_without_request_id());
        assert_eq!(count(&app, &one, "active").await, 3);
    }

    async fn a_narrowed_operator_plans_for_its_connectors_only(app: TestApp) {
        let (one, two) = two_connectors(&app).await;
        let narrowed = app.key(&["operator"], Some(&[&one.id]), "default").await;
        assert_eq!(plan(&narrowed, json!({ "connector_id": two.id })).await.json["count"], 0);
        let planned = plan(&narrowed, json!({})).await;
        assert_eq!(planned.json["count"], 3);
        // What it does not see does not make its set grow.
        app.seed_import(&two, &["u-9"]).await;
        assert_eq!(carry_out(&narrowed, &planned, 3).await.expect(200).json["revoked"], 3);
        assert_eq!(count(&app, &two, "active").await, 3);
        // Nor can it carry out a plan that reaches further.
        app.seed_import(&one, &["u-1"]).await;
        let wide = plan(&app.operator(), json!({})).await;
        carry_out(&narrowed, &wide, 4).await.expect_problem(404, "plan-not-found").done();
        assert_eq!((count(&app, &one, "active").await, count(&app, &two, "active").await), (1, 3));
    }

    async fn hundreds_are_revoked_together(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let users: Vec<String> = (0..300).map(|number| format!("u-{number}")).collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        app.seed_import(&connector, &users).await;
        let planned = plan(&app.operator(), json!({})).await;
        assert_eq!((&planned.json["count"], planned.json["sample"].as_array().map(Vec::len)), (&json!(300), Some(20)));
        assert_eq!(carry_out(&app.operator(), &planned, 300).await.expect(200).json["revoked"], 300);
        app.fetch(&connector, "u-299").await.expect_problem(404, "connection-not-found").done();
        app.provider().inject(FaultRule::revoke(Fault::ResetBeforeAnswer).times(40));
        app.settle().await;
        assert_eq!(count(&app, &connector, "revoked").await, 300);
        assert_eq!(app.provider().grants().iter().filter(|grant| grant.alive).count(), 0);
        assert_eq!(app.number("SELECT COUNT(*) FROM revocations WHERE state = 'confirmed'").await, 600);
    }

    async fn a_deleted_connector_takes_its_connections_with_it(app: TestApp) {
        let (one, two) = two_connectors(&app).await;
        let started = app.start_flow(&one, &one.redirect("u-7")).await;
        let key = app.connector_client(&one.id).await;
        let deleted = app.admin().delete(&one.path("")).await.expect(200);
        assert_eq!(deleted.json, json!({ "connections_revoked": 3 }));
        for path in [one.path(""), one.path("/token")] {
            let gone = if path.ends_with("/token") {
                key.post(&path, &json!({ "user_id": "u-1" })).await
            } else {
                app.admin().get(&path).await
            };
            gone.expect_problem(404, "connector-not-found").done();
        }
        app.admin().delete(&one.path("")).await.expect_problem(404, "connector-not-found").done();
        app.application().post(&one.path("/flows"), &one.redirect("u-1")).await.expect_problem(404, "connector-not-found").done();
        let listed = app.admin().get("/v1/connectors").await.expect(200);
        assert_eq!(listed.json["items"].as_array().map(Vec::len), Some(1));
        // A person who stands at the provider comes back to a page that says so.
        let browser = app.browser("u-7");
        assert!(browser.get(&started.start_url).await.status >= 400);
        app.fetch(&two, "u-1").await.expect(200).done();

        // Its secrets stay as long as its revocations need them.
        app.provider().set_down(true);
        app.run(Work::Deliver).await;
        app.run(Work::Purge).await;
        let secrets = format!("SELECT COUNT(*) FROM connectors WHERE id = '{}' AND secret_count > 0", one.id);
        assert_eq!(app.number(&secrets).await, 1);
        app.provider().set_down(false);
        app.settle().await;
        assert_eq!(count(&app, &one, "revoked").await, 3);
        assert_eq!(app.revocations_seen(&one).iter().filter(|event| event.status == Some(200)).count(), 6);
        app.run(Work::Purge).await;
        assert_eq!(app.number(&secrets).await, 0, "and no longer");
    }
}
