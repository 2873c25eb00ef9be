//! Whoever is refused is counted: each failure of the API under the code of its problem, each browser under a reason.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::json;
use valetkey_suite::{Answer, ConnectorSpec, TestApp, engine_tests};

use crate::{hostile::metric, roles::things};

/// The failures counted so far, by code.
async fn counted(app: &TestApp) -> BTreeMap<String, u64> {
    let text = app.anonymous().get("/metrics").await.expect(200).text;
    let lines =
        text.lines().filter_map(|line| line.strip_prefix("valetkey_problems_total{code=\"")?.split_once("\"} "));
    lines.map(|(code, count)| (code.to_owned(), count.parse().expect("a number"))).collect()
}

/// The one call that was made since then was counted under the code that it was answered with, and nothing else was.
async fn counts(app: &TestApp, before: &mut BTreeMap<String, u64>, answer: Answer, status: u16, code: &str) {
    let request = answer.request.clone();
    answer.expect_problem(status, code).done();
    *before.get_mut(code).unwrap_or_else(|| panic!("{code} is not there from the beginning")) += 1;
    assert_eq!(counted(app).await, *before, "{request}");
}

engine_tests! {
    async fn each_refused_call_is_counted_by_the_code_of_its_problem(app: TestApp) {
        let things = things(&app).await;
        let (connector, own) = (&things.connector, app.connector_client(&things.connector.id).await);
        app.space("other").await;
        let stranger = app.key(&["admin", "app", "operator"], None, "other").await;
        let another = app.connector(ConnectorSpec::oauth2()).await;
        let outsider = app.connector_client(&another.id).await;
        let elsewhere = app.key(&["app"], Some(&[&another.id]), "default").await;
        let mut before = counted(&app).await;
        let token = connector.path("/token");
        let of_user = json!({ "user_id": "u-1" });

        // Who is nobody, and who may not.
        counts(&app, &mut before, app.anonymous().get("/v1/keys").await, 401, "unauthenticated").await;
        counts(&app, &mut before, app.caller("vk_nonsense").post(&token, &of_user).await, 401, "unauthenticated").await;
        counts(&app, &mut before, app.operator().post("/v1/keys", &json!({})).await, 403, "forbidden").await;
        counts(&app, &mut before, app.operator().post(&token, &of_user).await, 403, "forbidden").await;

        // What belongs to others, or is nowhere: in the token call, about flows, and elsewhere.
        counts(&app, &mut before, outsider.post(&token, &of_user).await, 404, "connector-not-found").await;
        counts(&app, &mut before, stranger.get(&connector.path("")).await, 404, "connector-not-found").await;
        counts(&app, &mut before, own.post(&token, &json!({ "user_id": "nobody" })).await, 404, "connection-not-found").await;
        let connection = format!("/v1/connections/{}", things.connection);
        counts(&app, &mut before, stranger.get(&connection).await, 404, "connection-not-found").await;
        counts(&app, &mut before, stranger.delete(&format!("/v1/keys/{}", things.key)).await, 404, "key-not-found").await;
        let flow = format!("/v1/flows/{}", things.flow);
        for caller in [&stranger, &elsewhere] {
            counts(&app, &mut before, caller.get(&flow).await, 404, "flow-not-found").await;
            counts(&app, &mut before, caller.post(&format!("{flow}/cancel"), &json!({})).await, 404, "flow-not-found").await;
        }
        assert_eq!(metric(&app, "flow_calls_refused", "reason=\"not_found\""), 4);

        // Flows that are finished by the wrong one.
        let started = app.start_flow(connector, &connector.popup("u-2")).await;
        let home = app.browser("u-2").walk(&started.start_url).await;
        let wrong = json!({ "user_id": "u-2", "handle": "nothing that came home" });
        counts(&app, &mut before, app.finish_with(connector, &home.flow_id, &wrong).await, 403, "handle-refused").await;
        counts(&app, &mut before, app.finish(connector, &home, "u-3").await, 403, "finish-mismatch").await;
        counts(&app, &mut before, app.finish(connector, &home, "u-2").await, 409, "flow-failed").await;

        // What is no request of ours.
        counts(&app, &mut before, app.admin().get("/v1/nothing").await, 404, "not-found").await;
        counts(&app, &mut before, app.admin().get(&token).await, 405, "method-not-allowed").await;
        counts(&app, &mut before, own.post(&token, &json!({ "user": "u-1" })).await, 422, "unknown-field").await;
        let broken = own.post_raw(&token, "application/json", "{".to_owned()).await;
        counts(&app, &mut before, broken, 400, "malformed-json").await;

        // Whoever is served is not counted.
        own.post(&token, &of_user).await.expect(200).done();
        app.admin().get(&connection).await.expect(200).done();
        assert_eq!(counted(&app).await, before);
    }

    async fn the_codes_that_are_counted_are_known_from_the_beginning_and_grow_by_nothing_that_is_sent(app: TestApp) {
        let known: Vec<String> = counted(&app).await.into_keys().collect();
        let mut all: Vec<String> = valetkey_api::ProblemCode::ALL.iter().map(|code| code.as_str().to_owned()).collect();
        all.sort();
        assert_eq!(known, all);
        for number in 0..50 {
            app.caller(&format!("vk_{number}")).get("/v1/keys").await.expect(401).done();
            app.admin().get(&format!("/v1/made-up-{number}")).await.expect(404).done();
            app.admin().get(&format!("/v1/keys?made_up_{number}=1")).await.expect(400).done();
        }
        assert_eq!(counted(&app).await.into_keys().collect::<Vec<_>>(), all);
    }

    async fn a_form_that_is_none_of_ours_is_counted_and_on_record(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let confirming = browser.walk_to_confirm(&started.start_url).await;
        let forms: [(&str, &[(&str, &str)]); 3] = [
            ("malformed_form", &[("token", &confirming.token)]),
            ("malformed_form", &[("token", ""), ("decision", "connect")]),
            ("malformed_form", &[("token", &confirming.token), ("decision", "connect"), ("decision", "cancel")]),
        ];
        let press = async |action: &str, form: &[(&str, &str)]| {
            let request = browser.request(Method::POST, action).form(form).header("origin", app.base_url());
            browser.send(request).await
        };
        for (number, (reason, form)) in (1..).zip(forms) {
            press(&confirming.action, form).await.expect_failure(403, "confirm-invalid");
            crate::hostile::refused_for(&app, &started.flow_id, reason).await;
            assert_eq!(metric(&app, "callbacks_refused", "reason=\"malformed_form\""), number);
        }
        // Of flows that nobody has started, only the number is kept.
        for nowhere in ["flw_00000000000000000000000000", "nothing"] {
            let right = [("token", confirming.token.as_str()), ("decision", "connect")];
            press(&app.url(&format!("/oauth/confirm/{nowhere}")), &right).await.expect_failure(404, "link-not-found");
        }
        assert_eq!(metric(&app, "callbacks_refused", "reason=\"unknown_flow\""), 2);
        assert!(app.provider().token_requests().is_empty());
    }
}
