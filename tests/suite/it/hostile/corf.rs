//! Cross-app request forgery (cross-app: CORF): the platform takes the context from the redirect URI alone, and the
//! attacker's code ends in the victim's connection. Path, flow and cookie must agree before anything is asked for.

use valetkey_suite::{ConnectorSpec, TestApp, engine_tests};

use super::{
    Sink, Tenant, Walk, callback_address, nothing_came_of_it, param, refusals, refused_for,
    tenant::{bounced, honest},
    with_param,
};

/// A code of the attacker's own account at the honest provider.
async fn code_of_mallory(app: &TestApp, connector: &valetkey_suite::TestConnector) -> String {
    let walk = Walk::of(app, connector, "mallory").await;
    param(&walk.callback, "code")
}

engine_tests! {
    // cross-app, CORF as published: the attacker's app sends the victim to the honest address with the attacker's code;
    // attack 2.
    async fn the_attackers_code_at_the_honest_address_under_another_flows_state_is_refused(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::beside(&app).await);
        let honest = honest(&app, ConnectorSpec::oidc()).await;
        let code = code_of_mallory(&app, &honest).await;
        let bait = attacker.bait(&sink).await;
        let started = attacker.start(&bait, "victim").await;
        let victim = app.browser("victim");
        let location = victim.open(&started.start_url).await;
        let state = param(&location, "state");
        let forged = format!("{}?code={code}&state={state}&iss={}", callback_address(&app, &honest), app.provider_url());
        victim.get(&forged).await.expect_failure(400, "callback-invalid");
        assert_eq!(refusals(&attacker.caller, &started.flow_id).await, ["wrong_connector"]);
        nothing_came_of_it(&app).await;
        assert!(sink.seen_at("/token").is_empty());
    }

    // cross-app, CORF without a state, or with one made up; attack 2.
    async fn the_attackers_code_without_the_victims_state_is_refused(app: TestApp) {
        let honest = honest(&app, ConnectorSpec::oidc()).await;
        let code = code_of_mallory(&app, &honest).await;
        let walk = Walk::of(&app, &honest, "victim").await;
        let address = callback_address(&app, &honest);
        let none = format!("{address}?code={code}&iss={}", app.provider_url());
        walk.browser.get(&none).await.expect_failure(400, "callback-invalid");
        for state in ["a".repeat(43), walk.started.flow_id.clone(), "%00".to_owned()] {
            let made_up = format!("{address}?code={code}&state={state}&iss={}", app.provider_url());
            walk.browser.get(&made_up).await.expect_failure(404, "link-not-found");
        }
        assert!(super::metric(&app, "callbacks_refused", "reason=\"no_state\"") >= 1);
        assert!(super::metric(&app, "callbacks_refused", "reason=\"unknown_state\"") >= 3);
        nothing_came_of_it(&app).await;
        walk.ends_well(&app, &honest, "victim").await;
    }

    // draft: the comparison in the other direction, between two honest connectors of one user; attack 2.
    async fn the_state_of_one_connector_is_refused_at_the_address_of_another(app: TestApp) {
        let (one, two) = (app.connector(ConnectorSpec::oidc()).await, app.connector(ConnectorSpec::oidc()).await);
        let first = Walk::of(&app, &one, "u-1").await;
        let started = app.start_flow(&two, &two.popup("u-1")).await;
        let second = Walk::from(started, app.browser("u-1")).await;
        for (walk, from, to) in [(&first, &one, &two), (&second, &two, &one)] {
            walk.browser.get(&walk.callback.replace(&from.id, &to.id)).await.expect_failure(400, "callback-invalid");
            refused_for(&app, &walk.started.flow_id, "wrong_connector").await;
        }
        nothing_came_of_it(&app).await;
        first.ends_well(&app, &one, "u-1").await;
        second.ends_well(&app, &two, "u-1").await;
    }

    // cross-app, CORF inside one browser that has both flows open: the other flow's cookie must not help; attack 2.
    async fn a_browser_that_holds_both_cookies_cannot_mix_them(app: TestApp) {
        let (one, two) = (app.connector(ConnectorSpec::oidc()).await, app.connector(ConnectorSpec::oidc()).await);
        let walk = Walk::of(&app, &one, "u-1").await;
        let started = app.start_flow(&two, &two.popup("u-1")).await;
        let location = walk.browser.open(&started.start_url).await;
        let other = walk.browser.consent(&location).await;
        let crossed = with_param(&walk.callback, "state", Some(&param(&other, "state")));
        walk.browser.get(&crossed).await.expect_failure(400, "callback-invalid");
        let diverted = other.replace(&two.id, &one.id);
        walk.browser.get(&diverted).await.expect_failure(400, "callback-invalid");
        assert_eq!(refusals(&app.operator(), &started.flow_id).await, ["wrong_connector", "wrong_connector"]);
        nothing_came_of_it(&app).await;
        let home = walk.browser.come_home(&other).await;
        app.finish(&two, &home, "u-1").await.expect(200).done();
        walk.ends_well(&app, &one, "u-1").await;
    }

    // connectors, cross-tenant confusion: an answer of one space at a connector of another; attacks 2 and 17.
    async fn an_answer_of_one_space_is_refused_at_a_connector_of_another(app: TestApp) {
        let attacker = Tenant::elsewhere(&app).await;
        let honest = app.connector(ConnectorSpec::oidc()).await;
        let theirs = attacker.connector(ConnectorSpec::oidc().body(app.provider_url())).await;
        let walk = Walk::of(&app, &honest, "victim").await;
        let diverted = walk.callback.replace(&honest.id, &theirs.id);
        let page = walk.browser.get(&diverted).await.expect_failure(400, "callback-invalid");
        // The page says no more than for a connector that does not exist.
        let nowhere = walk.callback.replace(&honest.id, "ctr_00000000000000000000000000");
        assert_eq!(page.html, walk.browser.get(&nowhere).await.expect(400).html);
        assert!(refusals(&attacker.caller, &walk.started.flow_id).await.is_empty(), "the other space learns nothing");
        refused_for(&app, &walk.started.flow_id, "wrong_connector").await;
        walk.ends_well(&app, &honest, "victim").await;
    }

    // draft: a context id that is no context id; attack 2.
    async fn an_address_that_names_no_connector_takes_no_answer(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let prefix = connector.id.to_uppercase();
        for (place, statuses) in [
            ("nothing", [404, 404]),
            (prefix.as_str(), [404, 404]),
            (walk.started.flow_id.as_str(), [404, 404]),
            ("%2e%2e", [404, 404]),
            ("ctr_", [404, 404]),
            ("", [404, 404]),
            (&format!("{}/", connector.id), [404, 404]),
            (&format!("{}%2f..%2f{}", connector.id, connector.id), [404, 404]),
            (&format!("{}%00", connector.id), [400, 404]),
        ] {
            let page = walk.browser.get(&walk.callback.replace(&connector.id, place)).await;
            assert!(statuses.contains(&page.status), "{place}: {} {}", page.status, page.html);
        }
        nothing_came_of_it(&app).await;
        walk.ends_well(&app, &connector, "u-1").await;
    }

    // cross-app, CORF by the attacker's server itself: the bounce carries a code instead of asking for one; attack 2.
    async fn a_bounce_that_brings_the_attackers_code_along_is_refused(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::elsewhere(&app).await);
        let honest = honest(&app, ConnectorSpec::oauth2()).await;
        let code = code_of_mallory(&app, &honest).await;
        let bait = attacker.bait(&sink).await;
        let started = attacker.start(&bait, "victim").await;
        let victim = app.browser("victim");
        let own = honest.json["redirect_uri"].as_str().unwrap();
        let consent = bounced(&app, &sink, &victim, &started, &honest.client_id, own).await;
        let callback = victim.consent(&consent).await;
        let swapped = with_param(&callback, "code", Some(&code));
        victim.get(&swapped).await.expect_failure(400, "callback-invalid");
        nothing_came_of_it(&app).await;
        sink.holds_none_of(&[code, param(&callback, "code"), honest.client_secret.clone()]);
    }
}
