//! Cross-app account takeover (cross-app: COAT; draft, "cross-toolkit account takeover"): the victim starts a connection to
//! the attacker's connector, whose server bounces the browser to an honest provider with the attacker's fresh state. The
//! honest code must never be posted to the attacker's token endpoint.

use serde_json::json;
use valetkey_suite::{ConnectorSpec, Home, Started, TestApp, TestConnector, engine_tests};

use super::{
    Sink, Tenant, Walk, metric, nothing_came_of_it, param, refusals,
    tenant::{bait_body, bounced, honest},
};

/// The code of the victim at the honest provider came to the honest connector's address under the attacker's state: it is
/// refused there, and never leaves.
async fn is_caught(app: &TestApp, attacker: &Tenant, sink: &Sink, honest: &TestConnector, flow: &Started) {
    let victim = app.browser("victim");
    let redirect_uri = honest.json["redirect_uri"].as_str().unwrap();
    let consent = bounced(app, sink, &victim, flow, &honest.client_id, redirect_uri).await;
    let callback = victim.consent(&consent).await;
    assert!(callback.starts_with(redirect_uri), "{callback}");
    let page = victim.get(&callback).await.expect_failure(400, "callback-invalid");
    assert!(Home::find(&page).is_none(), "nothing comes home");
    assert_eq!(refusals(&attacker.caller, &flow.flow_id).await, ["wrong_connector"]);
    assert!(metric(app, "callbacks_refused", "reason=\"wrong_connector\"") > 0);
    // The attacker's application has nothing to finish with, whatever it says.
    assert_eq!(attacker.status(&flow.flow_id).await, "pending");
    for handle in [param(&callback, "state"), param(&callback, "code"), "a".repeat(43)] {
        attacker.finish(&flow.flow_id, &handle, "victim").await.expect_problem(409, "flow-not-ready").done();
    }
    assert!(sink.seen_at("/token").is_empty());
    sink.holds_none_of(&[param(&callback, "code"), honest.client_secret.clone()]);
    nothing_came_of_it(app).await;
}

engine_tests! {
    // cross-app, COAT, the attacker's app on the same platform; attack 1.
    async fn an_honest_code_under_the_attackers_state_never_reaches_the_attackers_token_endpoint(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::beside(&app).await);
        let honest = honest(&app, ConnectorSpec::oidc()).await;
        let bait = attacker.bait(&sink).await;
        let flow = attacker.start(&bait, "victim").await;
        is_caught(&app, &attacker, &sink, &honest, &flow).await;
    }

    // connectors, cross-tenant COAT: the attacker is another customer of the same vault; attack 1.
    async fn an_honest_code_never_reaches_the_token_endpoint_of_another_space(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::elsewhere(&app).await);
        let honest = honest(&app, ConnectorSpec::oidc()).await;
        let bait = attacker.bait(&sink).await;
        let flow = attacker.start(&bait, "victim").await;
        is_caught(&app, &attacker, &sink, &honest, &flow).await;
        let here = app.audit("action=flow.callback_refused").await;
        assert!(here.is_empty(), "a stranger's flow is on record in the stranger's space alone: {here:?}");
    }

    // cross-app, COAT by full-page redirect, where no window could be noticed; attack 1.
    async fn a_redirect_flow_of_the_attacker_gets_no_honest_code(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::elsewhere(&app).await);
        let honest = honest(&app, ConnectorSpec::oauth2()).await;
        let bait = attacker.bait(&sink).await;
        let answer = attacker.caller.post(&bait.path("/flows"), &bait.redirect("victim")).await.expect(201);
        let flow = Started { flow_id: answer.text_of("flow_id"), start_url: answer.text_of("start_url") };
        is_caught(&app, &attacker, &sink, &honest, &flow).await;
    }

    // cross-app, COAT where the platform asks on a page of its own instead of waiting for the app; attack 1.
    async fn a_confirm_page_of_the_attacker_is_not_reached_with_an_honest_code(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::beside(&app).await);
        let honest = honest(&app, ConnectorSpec::oidc()).await;
        let mut body = bait_body(&sink);
        body["binding"] = json!("confirm_page");
        let bait = attacker.connector(body).await;
        let flow = attacker.start(&bait, "victim").await;
        is_caught(&app, &attacker, &sink, &honest, &flow).await;
    }

    // cross-app, COAT against a user who connects the honest app at the same moment; attack 1.
    async fn a_victim_with_an_honest_flow_under_way_keeps_it(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::beside(&app).await);
        let honest = honest(&app, ConnectorSpec::oidc()).await;
        let bait = attacker.bait(&sink).await;
        let walk = Walk::of(&app, &honest, "victim").await;
        let flow = attacker.start(&bait, "victim").await;
        let redirect_uri = honest.json["redirect_uri"].as_str().unwrap();
        // One browser holds the cookies of both flows.
        let consent = bounced(&app, &sink, &walk.browser, &flow, &honest.client_id, redirect_uri).await;
        let callback = walk.browser.consent(&consent).await;
        walk.browser.get(&callback).await.expect_failure(400, "callback-invalid");
        assert_eq!(refusals(&attacker.caller, &flow.flow_id).await, ["wrong_connector"]);
        walk.ends_well(&app, &honest, "victim").await;
        sink.holds_none_of(&walk.secrets());
        sink.holds_none_of(&[param(&callback, "code"), honest.client_secret.clone()]);
    }

    // cross-app, COAT by an error answer: the honest provider's refusal must not end anybody's flow; attack 1.
    async fn an_honest_error_under_the_attackers_state_ends_no_flow(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::beside(&app).await);
        let honest = honest(&app, ConnectorSpec::oidc()).await;
        let bait = attacker.bait(&sink).await;
        let flow = attacker.start(&bait, "victim").await;
        let victim = app.browser("victim");
        let redirect_uri = honest.json["redirect_uri"].as_str().unwrap();
        let consent = bounced(&app, &sink, &victim, &flow, &honest.client_id, redirect_uri).await;
        let callback = victim.deny(&consent).await;
        assert_eq!(param(&callback, "error"), "access_denied");
        victim.get(&callback).await.expect_failure(400, "callback-invalid");
        assert_eq!(attacker.status(&flow.flow_id).await, "pending");
        assert_eq!(refusals(&attacker.caller, &flow.flow_id).await, ["wrong_connector"]);
        nothing_came_of_it(&app).await;
    }

    // draft: the code of the honest flow brought to the attacker's address by the victim's own browser; attacks 1 and 6.
    async fn an_honest_answer_at_the_attackers_address_is_refused(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::elsewhere(&app).await);
        let honest = honest(&app, ConnectorSpec::oidc()).await;
        let bait = attacker.bait(&sink).await;
        let walk = Walk::of(&app, &honest, "victim").await;
        let diverted = walk.callback.replace(&honest.id, &bait.id);
        walk.browser.get(&diverted).await.expect_failure(400, "callback-invalid");
        super::refused_for(&app, &walk.started.flow_id, "wrong_connector").await;
        walk.ends_well(&app, &honest, "victim").await;
        sink.holds_none_of(&walk.secrets());
    }
}
