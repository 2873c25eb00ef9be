//! The browser that opened the start link is the only one that comes back.

use reqwest::Method;
use serde_json::json;
use valetkey_suite::{ConnectorSpec, Home, Setup, engine_tests};

engine_tests! {
    async fn the_bound_browser_may_open_the_link_again(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        browser.open(&started.start_url).await;
        let first = browser.cookie("vk_");
        let location = browser.open(&started.start_url).await;
        assert_eq!(browser.cookie("vk_"), first, "the browser stays the same");
        let callback = browser.consent(&location).await;
        let home = browser.come_home(&callback).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }

    async fn another_browser_cannot_open_the_link_and_the_first_goes_on(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let (right, wrong) = (app.browser("u-1"), app.browser("thief"));
        let location = right.open(&started.start_url).await;
        let refused = wrong.post_start(&started.start_url).await.expect(403);
        assert!(refused.header("set-cookie").is_empty());
        assert!(!refused.html.contains("state="), "{}", refused.html);
        // A cookie of the right name and another value is no better.
        let (name, _) = right.cookie("vk_").unwrap();
        let forged =
            wrong.request(Method::POST, &started.start_url).header("cookie", format!("{name}={}", "a".repeat(43)));
        wrong.send(forged).await.expect(403);
        let callback = right.consent(&location).await;
        let home = right.come_home(&callback).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }

    async fn two_browsers_that_open_a_link_at_once_do_not_share_it(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for round in 0..5 {
            let started = app.start_flow(&connector, &connector.popup(&format!("u-{round}"))).await;
            let (one, two) = (app.browser("one"), app.browser("two"));
            let (first, second) = tokio::join!(one.post_start(&started.start_url), two.post_start(&started.start_url));
            let mut statuses = [first.status, second.status];
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 403]);
        }
    }

    async fn a_wrong_browser_at_the_callback_is_refused_and_burns_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let (right, wrong) = (app.browser("u-1"), app.browser("victim"));
        let location = right.open(&started.start_url).await;
        let callback = right.consent(&location).await;
        let page = wrong.get(&callback).await.expect_failure(403, "wrong-browser");
        assert!(Home::find(&page).is_none(), "nothing of the flow is told to a stranger");
        assert!(!page.html.contains(&started.flow_id));
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "pending");
        let home = right.come_home(&callback).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }

    async fn a_victim_who_consents_over_a_forwarded_provider_link_gives_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("attacker")).await;
        let (attacker, victim) = (app.browser("attacker"), app.browser("victim"));
        let location = attacker.open(&started.start_url).await;
        let callback = victim.consent(&location).await;
        victim.get(&callback).await.expect_failure(403, "wrong-browser");
        assert!(app.provider().token_requests().is_empty());
    }

    async fn a_victim_who_opens_a_forwarded_start_link_cannot_be_finished_by_the_attacker(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("attacker")).await;
        let victim = app.browser("victim");
        let home = victim.walk(&started.start_url).await;
        // The handle is with the victim's browser, whose session at the application is the victim's.
        app.finish(&connector, &home, "victim").await.expect_problem(403, "finish-mismatch").done();
        assert!(app.provider().token_requests().is_empty());
        assert_eq!(app.number("SELECT CAST(COUNT(*) AS BIGINT) FROM connections").await, 0);
    }

    async fn the_cookie_of_another_flow_is_no_proof(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let (one, two) = (app.browser("u-1"), app.browser("u-2"));
        let first = app.start_flow(&connector, &connector.popup("u-1")).await;
        let second = app.start_flow(&connector, &connector.popup("u-2")).await;
        let location = one.open(&first.start_url).await;
        let callback = one.consent(&location).await;
        two.open(&second.start_url).await;
        two.get(&callback).await.expect_failure(403, "wrong-browser");
        // Nor is the same value under the other flow's name.
        let (_, value) = two.cookie("vk_").unwrap();
        let forged = two.request(Method::GET, &callback).header("cookie", format!("vk_{}={value}", first.flow_id));
        two.send(forged).await.expect_failure(403, "wrong-browser");
        one.come_home(&callback).await.handle();
    }

    async fn one_browser_may_have_two_flows_under_way(app: TestApp) {
        let (one, two) = (app.connector(ConnectorSpec::oidc()).await, app.connector(ConnectorSpec::oidc()).await);
        let browser = app.browser("u-1");
        let first = app.start_flow(&one, &one.popup("u-1")).await;
        let second = app.start_flow(&two, &two.popup("u-1")).await;
        let (there, elsewhere) = (browser.open(&first.start_url).await, browser.open(&second.start_url).await);
        let (callback, other) = (browser.consent(&there).await, browser.consent(&elsewhere).await);
        let home = browser.come_home(&other).await;
        app.finish(&two, &home, "u-1").await.expect(200).done();
        let home = browser.come_home(&callback).await;
        app.finish(&one, &home, "u-1").await.expect(200).done();
    }

    async fn a_browser_that_keeps_no_cookies_is_told_so(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let location = browser.open(&started.start_url).await;
        let callback = browser.consent(&location).await;
        browser.forget_cookies();
        browser.get(&callback).await.expect_failure(403, "wrong-browser");
    }

    async fn the_answer_must_come_to_the_address_of_its_connector(app: TestApp) {
        let one = app.connector(ConnectorSpec::oidc()).await;
        let two = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&one, &one.popup("u-1")).await;
        let browser = app.browser("u-1");
        let location = browser.open(&started.start_url).await;
        let callback = browser.consent(&location).await;
        let mixed_up = callback.replace(&one.id, &two.id);
        let page = browser.get(&mixed_up).await.expect(400);
        assert!(page.html.contains("<code>callback-invalid</code>"), "{}", page.html);
        let unknown = callback.replace(&one.id, "ctr_00000000000000000000000000");
        browser.get(&unknown).await.expect(400);
        let home = browser.come_home(&callback).await;
        app.finish(&one, &home, "u-1").await.expect(200).done();
    }

    async fn a_state_works_once(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let location = browser.open(&started.start_url).await;
        let callback = browser.consent(&location).await;
        let (name, value) = browser.cookie("vk_").unwrap();
        let home = browser.come_home(&callback).await;
        // Even for a browser that kept the cookie which it was told to forget.
        let again = async || {
            let request = browser.request(Method::GET, &callback).header("cookie", format!("{name}={value}"));
            browser.send(request).await
        };
        assert!(Home::find(&again().await.expect_failure(410, "link-used")).is_none());
        app.finish(&connector, &home, "u-1").await.expect(200).done();
        assert!(Home::find(&again().await.expect_failure(200, "already-finished")).is_none());
        assert!(Home::find(&browser.get(&callback).await).is_none());
        assert_eq!(app.provider().token_requests().len(), 1);
    }

    async fn of_fifty_callbacks_at_once_one_wins(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.calls.failing_callbacks_per_minute = 1_000),
    ) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = std::sync::Arc::new(app.browser("u-1"));
        let location = browser.open(&started.start_url).await;
        let callback = browser.consent(&location).await;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (browser, callback) = (browser.clone(), callback.clone());
            calls.spawn(async move { browser.get(&callback).await });
        }
        let pages = calls.join_all().await;
        let mut handles = pages.iter().filter_map(Home::find).filter_map(|home| home.handle);
        let handle = handles.next().expect("one of them wins");
        assert_eq!(handles.next(), None, "only one handle is made");
        let body = json!({ "handle": handle, "user_id": "u-1" });
        app.finish_with(&connector, &started.flow_id, &body).await.expect(200).done();
        assert_eq!(app.provider().token_requests().len(), 1);
    }

    async fn callbacks_that_fail_are_counted_by_address_and_good_ones_pass(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.calls.failing_callbacks_per_minute = 3),
    ) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let location = browser.open(&started.start_url).await;
        let callback = browser.consent(&location).await;
        let forged = app.url(&format!("/oauth/callback/{}?state={}&code=x", connector.id, "a".repeat(43)));
        let stranger = app.browser("stranger");
        for _ in 0..3 {
            stranger.get(&forged).await.expect(404);
        }
        let page = stranger.get(&forged).await.expect_failure(429, "too-many-tries");
        assert!(page.header("retry-after").parse::<u64>().is_ok_and(|seconds| (1..=60).contains(&seconds)));
        // Another tenant behind the same address must not suffer.
        let home = browser.come_home(&callback).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
        app.advance(std::time::Duration::from_secs(60));
        stranger.get(&forged).await.expect(404);
    }

    async fn the_cookie_is_out_of_reach_of_scripts_and_other_sites(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let page = app.browser("u-1").post_start(&started.start_url).await.expect(200);
        let cookie = page.header("set-cookie");
        let (pair, attributes) = cookie.split_once("; ").unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        assert_eq!(name, format!("vk_{}", started.flow_id));
        assert_eq!(value.len(), 43);
        assert!(
            attributes.contains("Path=/") && attributes.contains("HttpOnly") && attributes.contains("SameSite=Lax")
        );
        assert!(!attributes.contains("Domain"));
    }

    async fn behind_https_the_cookie_is_secure_and_every_address_is_public(
        app: TestApp,
        setup = |setup: Setup| {
            setup.config(|config| {
                config.server.public_url = Some("https://connect.example".parse().unwrap());
                config.server.tls_terminated = true;
            })
        },
    ) {
        let spec = ConnectorSpec::oidc().client(|client| client.any_redirect_uri = true);
        let connector = app.connector(spec).await;
        let public = format!("https://connect.example/oauth/callback/{}", connector.id);
        assert_eq!(connector.json["redirect_uri"], public);
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let inside = |url: &str| {
            assert!(url.starts_with("https://connect.example/"), "{url}");
            url.replacen("https://connect.example", &app.base_url(), 1)
        };
        let browser = app.browser("u-1");
        let request = browser.request(Method::POST, &inside(&started.start_url));
        let request = request.header("accept", "application/json").header("origin", "https://connect.example");
        let page = browser.send(request).await.expect(200);
        let cookie = page.header("set-cookie");
        assert!(cookie.starts_with(&format!("__Host-vk_{}=", started.flow_id)), "{cookie}");
        assert!(cookie.contains("; Secure") && cookie.contains("Path=/") && !cookie.contains("Domain"), "{cookie}");
        let answer: serde_json::Value = serde_json::from_str(&page.html).unwrap();
        let callback = browser.consent(answer["location"].as_str().unwrap()).await;
        let home = browser.come_home(&inside(&callback)).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }
}
