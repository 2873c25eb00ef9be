//! Login request forgery and foreign cookies (RFC 9700, section 4.7; connectors, COSF through the callback): an answer
//! counts only in the browser that asked for it, and a wrong browser never ends the right user's flow.

use reqwest::Method;
use serde_json::json;
use valetkey_suite::{ConnectorSpec, engine_tests};

use super::{Walk, nothing_came_of_it, refusals, refused_for};

engine_tests! {
    // CVE-2026-40948 (no state, no PKCE): the victim follows a link with the attacker's finished consent; attack 4.
    async fn the_attackers_own_callback_link_does_nothing_in_the_victims_browser(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let attackers = Walk::of(&app, &connector, "mallory").await;
        let victim = app.browser("victim");
        victim.get(&attackers.callback).await.expect_failure(403, "wrong-browser");
        refused_for(&app, &attackers.started.flow_id, "wrong_browser").await;
        nothing_came_of_it(&app).await;
        // Nor with the cookie of an honest flow of the victim's own.
        let walk = Walk::of(&app, &connector, "victim").await;
        walk.browser.get(&attackers.callback).await.expect_failure(403, "wrong-browser");
        nothing_came_of_it(&app).await;
        walk.ends_well(&app, &connector, "victim").await;
        attackers.ends_well(&app, &connector, "mallory").await;
    }

    // connectors, COSF (c), the forwarded callback: whoever reads the victim's address bar is not the victim; attack 3.
    async fn the_victims_callback_link_does_nothing_in_the_attackers_browser(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "victim").await;
        for attacker in [app.browser("mallory"), Walk::of(&app, &connector, "mallory").await.browser] {
            let page = attacker.get(&walk.callback).await.expect_failure(403, "wrong-browser");
            assert!(!page.html.contains(&walk.started.flow_id), "nothing of the flow is told");
        }
        assert_eq!(refusals(&app.operator(), &walk.started.flow_id).await, ["wrong_browser", "wrong_browser"]);
        walk.ends_well(&app, &connector, "victim").await;
    }

    // RFC 9700, section 4.7: a hundred tries by strangers cost the right user nothing; attacks 4 and 12.
    async fn a_hundred_wrong_browsers_do_not_burn_the_right_ones_flow(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let stranger = app.browser("stranger");
        for _ in 0..100 {
            let page = stranger.get(&walk.callback).await;
            assert!([403, 429].contains(&page.status), "{}", page.status);
        }
        assert_eq!(super::metric(&app, "callbacks_refused", "reason=\"wrong_browser\""), 100);
        assert!(super::metric(&app, "limited", "limit=\"callbacks\"") > 0);
        let on_record = refusals(&app.operator(), &walk.started.flow_id).await.len();
        assert_eq!(on_record, 20, "a stranger cannot make us write as much as they like");
        walk.ends_well(&app, &connector, "u-1").await;
    }

    // The cookie's value under other names, and other values under its name; attack 4.
    async fn a_cookie_that_is_not_exactly_the_flows_is_no_cookie(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let other = Walk::of(&app, &connector, "u-2").await;
        let (name, value) = walk.cookie().unwrap();
        let (other_name, other_value) = other.cookie().unwrap();
        let stranger = app.browser("stranger");
        for line in [
            format!("{other_name}={value}"),
            format!("{other_name}={other_value}"),
            format!("{name}={other_value}"),
            format!("{}={value}", name.to_uppercase()),
            format!("__Host-{name}={value}"),
            format!("{name}={}", value.to_uppercase()),
            format!("{name}=\"{value}\""),
            format!("{name}={value}x"),
            format!("{name}={}", &value[1..]),
            format!("{name}="),
            name.clone(),
            // Set by two, so by somebody else than us.
            format!("{name}={value}; {name}={other_value}"),
        ] {
            let request = stranger.request(Method::GET, &walk.callback).header("cookie", &line);
            stranger.send(request).await.expect_failure(403, "wrong-browser");
        }
        refused_for(&app, &walk.started.flow_id, "wrong_browser").await;
        nothing_came_of_it(&app).await;
        walk.ends_well(&app, &connector, "u-1").await;
        other.ends_well(&app, &connector, "u-2").await;
    }

    // A cookie planted by a neighbour domain: the browser check passes, the person's does not; attacks 3 and 4.
    async fn a_planted_cookie_gives_the_attacker_nothing_to_finish_with(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("mallory")).await;
        let attacker = app.browser("mallory");
        let location = attacker.open(&started.start_url).await;
        let (name, value) = attacker.cookie("vk_").unwrap();
        let victim = app.browser("victim");
        let callback = victim.consent(&location).await;
        let request = victim.request(Method::GET, &callback).header("cookie", format!("{name}={value}"));
        let home = valetkey_suite::Home::of(&victim.send(request).await);
        // The handle is in the victim's window, and the victim's session is what the application sees.
        app.finish(&connector, &home, "victim").await.expect_problem(403, "finish-mismatch").done();
        super::failed_for(&app, &started.flow_id, "user_mismatch").await;
        app.finish(&connector, &home, "mallory").await.expect_problem(409, "flow-failed").done();
        nothing_came_of_it(&app).await;
    }

    // An answer by form post (OAuth 2.0 Form Post Response Mode), which no cookie of ours would come with; attack 4.
    async fn an_answer_that_is_posted_is_no_answer(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let (address, query) = walk.callback.split_once('?').unwrap();
        let form: Vec<(String, String)> = super::members(query).into_iter().collect();
        let pairs: Vec<(&str, &str)> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        walk.browser.post_form(address, &pairs).await.expect(405);
        walk.browser.post_form(&walk.callback, &[]).await.expect(405);
        for method in [Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
            walk.browser.send(walk.browser.request(method, &walk.callback)).await.expect(405);
        }
        nothing_came_of_it(&app).await;
        walk.ends_well(&app, &connector, "u-1").await;
    }

    // A hostile page submits the attacker's start link in the victim's browser, past the page that names it; attack 3.
    async fn a_start_link_that_is_submitted_by_another_site_gives_the_attacker_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("mallory")).await;
        let victim = app.browser("victim");
        for (origin, site) in [("https://evil.example", "cross-site"), ("null", "cross-site"), ("null", "same-site")] {
            let request = victim.request(Method::POST, &started.start_url).header("origin", origin);
            let page = victim.send(request.header("sec-fetch-site", site)).await.expect_failure(403, "confirm-invalid");
            assert!(page.header("refresh").is_empty() && page.header("set-cookie").is_empty());
        }
        refused_for(&app, &started.flow_id, "foreign_form").await;
        // A browser too old to say where it comes from binds the victim's window; the finish call is what holds.
        let page = victim.send(victim.request(Method::POST, &started.start_url)).await.expect(200);
        let location = page.header("refresh").split_once("url=").unwrap().1.to_owned();
        let callback = victim.consent(&location).await;
        let home = victim.come_home(&callback).await;
        app.finish(&connector, &home, "victim").await.expect_problem(403, "finish-mismatch").done();
        super::failed_for(&app, &started.flow_id, "user_mismatch").await;
        nothing_came_of_it(&app).await;
        // And the confirm page's form takes nothing from there at all.
        let confirmed = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let started = app.start_flow(&confirmed, &confirmed.popup("u-1")).await;
        let browser = app.browser("u-1");
        let confirming = browser.walk_to_confirm(&started.start_url).await;
        let form = [("token", confirming.token.as_str()), ("decision", "connect")];
        let request = browser.request(Method::POST, &confirming.action).form(&form);
        browser.send(request.header("origin", "https://evil.example")).await.expect_failure(403, "confirm-invalid");
        refused_for(&app, &started.flow_id, "foreign_form").await;
        nothing_came_of_it(&app).await;
        assert_eq!(app.application().get(&format!("/v1/flows/{}", started.flow_id)).await.json["status"], json!("pending"));
    }
}
