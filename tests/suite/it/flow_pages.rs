//! The pages that a person sees: their headers, and that nothing foreign is in them.

use serde_json::json;
use valetkey_suite::{ConnectorSpec, Page, engine_tests};

fn check_headers(page: &Page) {
    let policy = page.header("content-security-policy");
    for directive in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.split(';').any(|part| part.trim() == directive), "{}: {directive} in {policy}", page.request);
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{}: {policy}", page.request);
    assert_eq!(page.header("referrer-policy"), "no-referrer", "{}", page.request);
    assert_eq!(page.header("cache-control"), "no-store", "{}", page.request);
    assert_eq!(page.header("x-content-type-options"), "nosniff", "{}", page.request);
    assert_eq!(page.header("x-frame-options"), "DENY", "{}", page.request);
    assert!(page.header("content-type").starts_with("text/html"), "{}", page.request);
    // It would cut the window from the one that opened it.
    assert!(page.headers.get("cross-origin-opener-policy").is_none(), "{}", page.request);
    assert!(!page.header("x-request-id").is_empty(), "{}", page.request);
    assert!(!page.html.contains("style=") && !page.html.contains(" onclick="), "{}", page.request);
    assert!(!page.html.contains("<script>"), "{}: no script of its own", page.request);
    // Whatever a page loads is ours.
    for attribute in ["src=\"", "<link rel=\"stylesheet\" href=\""] {
        for part in page.html.split(attribute).skip(1) {
            assert!(part.starts_with("/assets/"), "{}: loads {}", page.request, part.split('"').next().unwrap());
        }
    }
}

engine_tests! {
    async fn every_page_has_the_headers_that_keep_it_safe(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let confirmed = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let browser = app.browser("u-1");

        let popup = app.start_flow(&connector, &connector.popup("u-1")).await;
        check_headers(&browser.get(&popup.start_url).await.expect(200));
        check_headers(&browser.walk(&popup.start_url).await.page);
        let redirect = app.start_flow(&connector, &connector.redirect("u-2")).await;
        check_headers(&browser.walk(&redirect.start_url).await.page);

        let started = app.start_flow(&confirmed, &confirmed.redirect("u-3")).await;
        let confirming = browser.walk_to_confirm(&started.start_url).await;
        check_headers(&confirming.page);
        check_headers(&browser.press(&confirming, "connect").await);

        let refused = app.start_flow(&connector, &connector.popup("u-4")).await;
        let location = browser.open(&refused.start_url).await;
        let callback = browser.deny(&location).await;
        check_headers(&browser.get(&callback).await.expect(200));
        check_headers(&browser.get(&callback).await);
        check_headers(&browser.get(&app.url("/connect/nothing")).await);
        check_headers(&browser.get(&app.url("/oauth/callback/nothing?state=a")).await);
        check_headers(&app.browser("other").post_start(&refused.start_url).await);
    }

    async fn a_browser_without_script_goes_on_by_the_button(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let page = browser.post_form(&started.start_url, &[]).await.expect(200);
        check_headers(&page);
        let location = page.header("refresh").split_once("url=").unwrap().1.to_owned();
        assert!(location.starts_with(&format!("{}/authorize?", app.provider_url())), "{location}");
        let callback = browser.consent(&location).await;
        let home = browser.come_home(&callback).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }

    async fn the_start_page_names_connector_provider_and_space_and_escapes_them(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().with("name", json!("<img src=x>\"'&"))).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let page = app.browser("u-1").get(&started.start_url).await.expect(200);
        assert!(!page.html.contains("<img"), "{}", page.html);
        assert!(page.html.contains("default"), "{}", page.html);
    }

    async fn the_pages_scripts_and_styles_are_served(app: TestApp) {
        for (file, kind) in [
            ("page.css", "text/css"),
            ("connect.js", "javascript"),
            ("result.js", "javascript"),
            ("confirm.js", "javascript"),
            ("valetkey.js", "javascript"),
        ] {
            let answer = app.anonymous().get(&format!("/assets/{file}")).await.expect(200);
            assert!(answer.header("content-type").contains(kind), "{file}: {}", answer.header("content-type"));
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
        }
        app.anonymous().get("/assets/nothing.js").await.expect_problem(404, "not-found").done();
        app.anonymous().get("/assets/..%2f..%2fCargo.toml").await.expect_problem(404, "not-found").done();
    }

    async fn the_cookie_goes_when_the_flow_comes_home(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let location = browser.open(&started.start_url).await;
        assert!(browser.cookie("vk_").is_some());
        let callback = browser.consent(&location).await;
        browser.come_home(&callback).await;
        assert!(browser.cookie("vk_").is_none());
    }
}
