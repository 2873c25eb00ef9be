//! Cross-user session fixation where the application cannot finish (connectors: COSF; the weaker binding by our confirm
//! page): the page names whom it is for, and only the browser that opened the link gets that far.

use reqwest::Method;
use serde_json::json;
use valetkey_suite::{ConnectorSpec, Home, Started, TestApp, TestConnector, engine_tests};

use super::{nothing_came_of_it, refused_for};

async fn start(app: &TestApp, connector: &TestConnector) -> Started {
    let mut body = connector.popup("mallory");
    body["user_display"] = json!("Mallory M.");
    app.start_flow(connector, &body).await
}

engine_tests! {
    // connectors, COSF (a) with a confirm page; attack 3.
    async fn a_forwarded_provider_address_does_not_reach_the_confirm_page(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let started = start(&app, &connector).await;
        let location = app.browser("mallory").open(&started.start_url).await;
        let victim = app.browser("victim");
        let callback = victim.consent(&location).await;
        let page = victim.get(&callback).await.expect_failure(403, "wrong-browser");
        assert!(page.input("token").is_none());
        refused_for(&app, &started.flow_id, "wrong_browser").await;
        nothing_came_of_it(&app).await;
    }

    // connectors, COSF (b) with a confirm page: the victim is told for whom, and warned, before anything is redeemed; attack 3.
    async fn a_victim_of_a_forwarded_start_link_is_told_whose_it_is_and_can_refuse(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let started = start(&app, &connector).await;
        let victim = app.browser("victim");
        let confirming = victim.walk_to_confirm(&started.start_url).await;
        assert!(confirming.page.html.contains("Mallory M.") && confirming.page.html.contains("id=\"warning\""));
        assert!(confirming.page.html.contains(" disabled>"), "the button sleeps at first");
        Home::of(&victim.press(&confirming, "cancel").await).expect_code("flow-cancelled");
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "cancelled");
        nothing_came_of_it(&app).await;
        // The attacker cannot press the button instead.
        let attacker = app.browser("mallory");
        attacker.press(&confirming, "connect").await.expect_failure(403, "wrong-browser");
        nothing_came_of_it(&app).await;
    }

    // RFC 9700, section 4.16 (clickjacking and forged forms at the last button); attacks 4 and 22.
    async fn the_confirm_button_takes_no_other_browsers_form(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let started = start(&app, &connector).await;
        let browser = app.browser("mallory");
        let confirming = browser.walk_to_confirm(&started.start_url).await;
        assert_eq!(confirming.page.header("x-frame-options"), "DENY");
        assert!(confirming.page.header("content-security-policy").contains("frame-ancestors 'none'"));
        let stranger = app.browser("stranger");
        for decision in ["connect", "cancel"] {
            stranger.press(&confirming, decision).await.expect_failure(403, "wrong-browser");
        }
        let form = [("token", confirming.token.as_str()), ("decision", "connect")];
        for (origin, site) in [
            ("https://evil.example", "cross-site"),
            ("null", "cross-site"),
            ("null", "same-site"),
            ("http://127.0.0.1", "same-origin"),
            ("http://localhost", "same-site"),
        ] {
            let request = browser.request(Method::POST, &confirming.action).form(&form);
            let page = browser.send(request.header("origin", origin).header("sec-fetch-site", site)).await;
            page.expect_failure(403, "confirm-invalid");
        }
        refused_for(&app, &started.flow_id, "wrong_browser").await;
        refused_for(&app, &started.flow_id, "foreign_form").await;
        let mut wrong = confirming.clone();
        wrong.token = "a".repeat(43);
        browser.press(&wrong, "connect").await.expect_failure(403, "confirm-invalid");
        refused_for(&app, &started.flow_id, "confirm_token").await;
        nothing_came_of_it(&app).await;
        // None of it cost the right browser its flow.
        Home::of(&browser.press(&confirming, "connect").await.expect(200));
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "connected");
    }

    // The page's token is worth nothing at the finish call, nor twice, nor in another flow; attacks 3 and 12.
    async fn the_confirm_pages_token_works_once_and_only_there(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let (one, two) = (start(&app, &connector).await, start(&app, &connector).await);
        let (first, second) = (app.browser("mallory"), app.browser("victim"));
        let confirming = first.walk_to_confirm(&one.start_url).await;
        let other = second.walk_to_confirm(&two.start_url).await;
        let body = json!({ "handle": confirming.token, "user_id": "mallory" });
        app.finish_with(&connector, &one.flow_id, &body).await.expect_problem(409, "flow-not-ready").done();
        let mut swapped = confirming.clone();
        swapped.token.clone_from(&other.token);
        first.press(&swapped, "connect").await.expect_failure(403, "confirm-invalid");
        nothing_came_of_it(&app).await;
        let (name, value) = first.cookie("vk_").unwrap();
        Home::of(&first.press(&confirming, "connect").await.expect(200));
        let form = [("token", confirming.token.as_str()), ("decision", "connect")];
        let request = first.request(Method::POST, &confirming.action).form(&form);
        let again = first.send(request.header("origin", app.base_url()).header("cookie", format!("{name}={value}"))).await;
        again.expect_failure(200, "already-finished");
        refused_for(&app, &one.flow_id, "already_used").await;
        assert_eq!(app.provider().token_requests().len(), 1);
    }

    // draft: redirect targets used for binding must not be the attacker's: one that was withdrawn while the person read
    // the page is not gone to; attack 9.
    async fn a_target_that_was_withdrawn_while_the_person_read_is_not_gone_to(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        for decision in ["connect", "cancel"] {
            let started = start(&app, &connector).await;
            let browser = app.browser("mallory");
            let confirming = browser.walk_to_confirm(&started.start_url).await;
            let elsewhere = json!({ "return_urls": ["https://elsewhere.example/"] });
            app.admin().patch(&connector.path(""), &elsewhere).await.expect(200).done();
            let page = browser.press(&confirming, decision).await.expect_failure(409, "connector-changed");
            assert!(Home::find(&page).is_none() && !page.html.contains("app.example"), "{}", page.html);
            super::failed_for(&app, &started.flow_id, "connector_changed").await;
            let back = json!({ "return_urls": [valetkey_suite::RETURN_URL] });
            app.admin().patch(&connector.path(""), &back).await.expect(200).done();
        }
        nothing_came_of_it(&app).await;
    }
}
