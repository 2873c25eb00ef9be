//! The pages (attacks 15, 21 and 22; RFC 9700, sections 4.2 and 4.16): every variant carries the headers that keep it
//! safe, and shows nothing that a provider or a query sent, as in anomalyco/opencode#17364 and FastMCP#2090.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use valetkey_suite::{
    Browser, ConnectorSpec, Page, Setup, Started, TestApp, TestConnector, engine_tests,
    sandbox::{ClientSettings, Fault, FaultRule, IdToken},
};

use super::{Walk, param, with_param};

/// What a provider or a stranger would like to see on our pages.
const PAYLOADS: [&str; 6] = [
    "planted<script>alert(1)</script>",
    "planted\"onmouseover=\"alert(1)",
    "planted'><img src=x onerror=alert(1)>",
    "javascript:planted",
    "planted{{7*7}}${7*7}<%= 7*7 %>",
    "planted\u{202e}\u{0}\r\nSet-Cookie: planted=1",
];

/// The same address with a payload under every name that somebody might show.
fn planted(address: &str, payload: &str) -> String {
    let mut url: url::Url = address.parse().unwrap();
    let names = ["error_description", "error_uri", "planted", "message", "title", "return_url", "user", "hd", "scope"];
    url.query_pairs_mut().extend_pairs(names.map(|name| (name, payload)));
    url.query_pairs_mut().append_pair(payload, payload);
    url.into()
}

/// Safe headers, and nothing of what was sent.
fn is_safe(name: &str, page: &Page, secrets: &[String]) {
    let policy = page.header("content-security-policy");
    for directive in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.split(';').any(|part| part.trim() == directive), "{name}: {directive} in {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{name}: {policy}");
    for (header, value) in [
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ] {
        assert_eq!(page.header(header), value, "{name}: {header}");
    }
    assert!(page.header("content-type").starts_with("text/html"), "{name}");
    assert!(page.headers.get("cross-origin-opener-policy").is_none(), "{name}: it would cut the opener");
    let html = page.html.to_lowercase();
    assert!(!html.contains("planted") && !html.contains("7*7"), "{name}: {html}");
    for (header, value) in &page.headers {
        assert!(!String::from_utf8_lossy(value.as_bytes()).contains("planted"), "{name}: {header}");
    }
    for bad in ["<script>", " onclick=", " onload=", " style=", "javascript:"] {
        assert!(!html.contains(bad), "{name}: {bad} in {html}");
    }
    for secret in secrets {
        assert!(!page.html.contains(secret.as_str()), "{name}: a code or state is shown");
    }
}

/// A started flow whose browser is at the provider.
async fn at_provider(app: &TestApp, connector: &TestConnector, person: &str) -> (Started, Browser, String) {
    let started = app.start_flow(connector, &connector.popup(person)).await;
    let browser = app.browser(person);
    let location = browser.open(&started.start_url).await;
    (started, browser, location)
}

engine_tests! {
    // RFC 6749, section 4.1.2.1: error texts of the attacker's making, at every error there is; attack 21.
    async fn no_error_of_a_provider_is_shown_whatever_it_says(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let errors = ["access_denied", "server_error", "invalid_scope", "login_required", "interaction_required"];
        for (number, error) in errors.into_iter().chain(PAYLOADS).enumerate() {
            let (started, browser, location) = at_provider(&app, &connector, &format!("u-{number}")).await;
            let denied = browser.deny(&location).await;
            let answer = planted(&with_param(&denied, "error", Some(error)), PAYLOADS[number % PAYLOADS.len()]);
            let page = browser.get(&answer).await;
            is_safe(error, &page, &[param(&denied, "state")]);
            let home = valetkey_suite::Home::of(&page);
            assert!(!home.target.as_str().contains("planted"));
            let shown = app.application().get(&format!("/v1/flows/{}", started.flow_id)).await.expect(200);
            assert!(!shown.text.contains("planted"), "{}", shown.text);
        }
        let audit = app.operator().get("/v1/audit?limit=200").await.expect(200);
        assert!(!audit.text.contains("planted"), "{}", audit.text);
    }

    // Attacks 15, 21 and 22 on the way there: start page, its button, result, redirect, confirm page, and after it.
    async fn no_page_on_the_way_shows_what_a_query_or_a_provider_sent(app: TestApp) {
        let finish = app.connector(ConnectorSpec::oidc()).await;
        let confirm = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        for (number, payload) in PAYLOADS.into_iter().enumerate() {
            let person = format!("u-{number}");
            let started = app.start_flow(&finish, &finish.popup(&person)).await;
            let browser = app.browser(&person);
            is_safe("connect", &browser.get(&planted(&started.start_url, payload)).await.expect(200), &[]);
            let leaving = browser.post_form(&planted(&started.start_url, payload), &[("planted", payload)]).await;
            is_safe("leaving", &leaving.expect(200), &[]);
            let walk = Walk::from(started, browser).await;
            let page = walk.browser.get(&planted(&walk.callback, payload)).await.expect(200);
            is_safe("result", &page, &[param(&walk.callback, "code"), param(&walk.callback, "state")]);

            let started = app.start_flow(&finish, &finish.redirect(&person)).await;
            let walk = Walk::from(started, app.browser(&person)).await;
            let page = walk.browser.get(&planted(&walk.callback, payload)).await;
            is_safe("redirect", &page, &[param(&walk.callback, "code"), param(&walk.callback, "state")]);

            for body in [confirm.popup(&person), confirm.redirect(&person)] {
                let started = app.start_flow(&confirm, &body).await;
                let walk = Walk::from(started, app.browser(&person)).await;
                let page = walk.browser.get(&planted(&walk.callback, payload)).await.expect(200);
                let secrets = [param(&walk.callback, "code"), param(&walk.callback, "state")];
                is_safe("confirm", &page, &secrets);
                let (action, token) = (page.attribute("action").unwrap(), page.input("token").unwrap());
                let form = [("token", token.as_str()), ("decision", "connect"), ("planted", payload)];
                let page = walk.browser.post_form(&planted(&app.url(&action), payload), &form).await.expect(200);
                is_safe("connected", &page, &secrets);
            }
        }
    }

    // Attacks 15, 21 and 22 where the way ends: each failure that a browser can be shown.
    async fn no_failure_page_shows_what_a_query_or_a_provider_sent(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.calls.failing_callbacks_per_minute = 200),
    ) {
        let mut seen = BTreeSet::new();
        let mut check = |code: &'static str, page: &Page, walk: Option<&Walk>| {
            assert!(page.html.contains(&format!("<code>{code}</code>")), "{code}: {} {}", page.status, page.html);
            let secrets = walk.map(|walk| vec![param(&walk.callback, "code"), param(&walk.callback, "state")]);
            let secrets: Vec<String> = secrets.unwrap_or_default().into_iter().filter(|secret| !secret.is_empty()).collect();
            is_safe(code, page, &secrets);
            seen.insert(code);
        };
        let payload = PAYLOADS[0];
        let finish = app.connector(ConnectorSpec::oidc()).await;
        let stranger = app.browser("stranger");

        // Errors of the provider.
        for (person, error, code) in [
            ("u-1", "access_denied", "access-denied"),
            ("u-2", "server_error", "provider-unavailable"),
            ("u-3", "invalid_client", "client-refused"),
            ("u-4", payload, "provider-error"),
        ] {
            let (_, browser, location) = at_provider(&app, &finish, person).await;
            let denied = browser.deny(&location).await;
            let answer = planted(&with_param(&denied, "error", Some(error)), payload);
            check(code, &browser.get(&answer).await, None);
        }
        let walk = Walk::of(&app, &finish, "u-5").await;
        let answer = with_param(&walk.callback, "iss", Some(payload));
        check("issuer-mismatch", &walk.browser.get(&planted(&answer, payload)).await, Some(&walk));

        // Browsers that are turned away, and addresses that say nothing.
        let walk = Walk::of(&app, &finish, "u-6").await;
        let answer = planted(&walk.callback, payload);
        check("wrong-browser", &stranger.get(&answer).await, Some(&walk));
        check("callback-invalid", &walk.browser.get(&format!("{answer}&code=planted")).await, Some(&walk));
        check("link-not-found", &stranger.get(&with_param(&answer, "state", Some(payload))).await, Some(&walk));
        check("link-not-found", &stranger.get(&planted(&app.url("/connect/planted"), payload)).await, None);
        check("link-not-found", &stranger.get(&planted(&app.url("/oauth/callback/planted"), payload)).await, None);
        check("wrong-browser", &stranger.post_form(&planted(&walk.started.start_url, payload), &[]).await, None);

        // Answers that come again.
        let (name, value) = walk.cookie().unwrap();
        let again = async || {
            let request = walk.browser.request(reqwest::Method::GET, &answer).header("cookie", format!("{name}={value}"));
            walk.browser.send(request).await
        };
        let home = walk.browser.come_home(&answer).await;
        check("link-used", &again().await, Some(&walk));
        app.finish(&finish, &home, "u-6").await.expect(200).done();
        check("already-finished", &again().await, Some(&walk));

        // Flows that failed at their finish, when their answer comes again.
        for (person, code) in [("u-7", "user-mismatch"), ("u-8", "handle-expired"), ("u-9", "code-refused")] {
            let walk = Walk::of(&app, &finish, person).await;
            let home = walk.browser.come_home(&walk.callback).await;
            match code {
                "user-mismatch" => app.finish(&finish, &home, "mallory").await.expect(403).done(),
                "handle-expired" => {
                    app.advance(Duration::from_secs(61));
                    app.finish(&finish, &home, person).await.expect(410).done();
                }
                _ => {
                    let fault = Fault::Status { code: 400, body: format!("{{\"error\":\"invalid_grant\",\"error_description\":\"{}\"}}", "planted"), headers: [("content-type".to_owned(), "application/json".to_owned())].into() };
                    app.provider().inject(FaultRule::token(fault));
                    let refused = app.finish(&finish, &home, person).await.expect(409);
                    assert!(!refused.text.contains("planted"), "{}", refused.text);
                }
            }
            check(code, &stranger.get(&planted(&walk.callback, payload)).await, Some(&walk));
        }
        let mut body = finish.popup("u-10");
        body["binding_challenge"] = json!(super::tenant::CHALLENGE);
        let walk = Walk::from(app.start_flow(&finish, &body).await, app.browser("u-10")).await;
        let home = walk.browser.come_home(&walk.callback).await;
        app.finish(&finish, &home, "u-10").await.expect(403).done();
        check("binding-mismatch", &stranger.get(&planted(&walk.callback, payload)).await, Some(&walk));

        // Flows that were called off, lapsed, or lost their target.
        let walk = Walk::of(&app, &finish, "u-11").await;
        let path = format!("/v1/flows/{}/cancel", walk.started.flow_id);
        app.application().post(&path, &json!({})).await.expect(204).done();
        check("flow-cancelled", &stranger.get(&planted(&walk.callback, payload)).await, Some(&walk));
        check("flow-cancelled", &walk.browser.get(&planted(&walk.callback, payload)).await, Some(&walk));
        let walk = Walk::of(&app, &finish, "u-12").await;
        let patch = json!({ "return_urls": ["https://elsewhere.example/"] });
        app.admin().patch(&finish.path(""), &patch).await.expect(200).done();
        check("connector-changed", &walk.browser.get(&planted(&walk.callback, payload)).await, Some(&walk));
        let patch = json!({ "return_urls": [valetkey_suite::RETURN_URL] });
        app.admin().patch(&finish.path(""), &patch).await.expect(200).done();
        let walk = Walk::of(&app, &finish, "u-13").await;
        app.advance(Duration::from_secs(601));
        check("flow-expired", &stranger.get(&planted(&walk.callback, payload)).await, Some(&walk));
        check("flow-expired", &walk.browser.get(&planted(&walk.callback, payload)).await, Some(&walk));

        // The confirm page's failures.
        let confirm = async |person: &str, change: &dyn Fn(&mut ClientSettings), account: &str| {
            let connector = app.connector(ConnectorSpec::oidc().confirm_page().client(change)).await;
            if account != person {
                let started = app.start_flow(&connector, &connector.popup(person)).await;
                let browser = app.browser(person);
                let confirming = browser.walk_to_confirm(&started.start_url).await;
                browser.press(&confirming, "connect").await.expect(200);
            }
            let started = app.start_flow(&connector, &connector.popup(person)).await;
            let browser = app.browser(account);
            let confirming = browser.walk_to_confirm(&started.start_url).await;
            (browser, confirming)
        };
        let press = async |browser: &Browser, action: &str, token: &str| {
            let form = [("token", token), ("decision", "connect"), ("planted", payload)];
            browser.post_form(&planted(action, payload), &form).await
        };
        let (browser, confirming) = confirm("u-14", &|_| {}, "u-14").await;
        check("confirm-invalid", &press(&browser, &confirming.action, payload).await, None);
        check("link-used", &browser.get(&planted(&confirming.action, payload)).await, None);
        check("wrong-browser", &press(&stranger, &confirming.action, payload).await, None);
        let (browser, confirming) =
            confirm("u-15", &|client| client.id_token = IdToken::WrongNonce, "u-15").await;
        check("id-token-invalid", &press(&browser, &confirming.action, &confirming.token).await, None);
        let (browser, confirming) = confirm("u-16", &|_| {}, "planted-account").await;
        check("account-changed", &press(&browser, &confirming.action, &confirming.token).await, None);

        // Last, since it is the end of all tries.
        let page = loop {
            let page = stranger.get(&planted(&app.url("/connect/planted"), payload)).await;
            if page.status == 429 {
                break page;
            }
        };
        check("too-many-tries", &page, None);
        assert_eq!(seen.len(), 21, "{seen:?}");
    }

    // Problems are JSON, whatever is asked for and however: no text of a query becomes a page; attack 21.
    async fn what_is_no_page_is_never_html(app: TestApp) {
        let browser = app.browser("u-1");
        for path in [
            "/planted%3Cscript%3Ealert(1)%3C/script%3E",
            "/v1/flows/planted%3Cscript%3E",
            "/oauth/callback/a/planted%3Cscript%3E",
            "/assets/planted%3Cscript%3E.js",
            "/connect/%ff%3Cscript%3Eplanted",
            "/oauth/callback/%ff?planted=%3Cscript%3E",
        ] {
            let page = browser.get(&app.url(path)).await;
            assert!(page.status >= 400, "{path}: {}", page.status);
            assert_eq!(page.header("x-content-type-options"), "nosniff", "{path}");
            assert!(!page.html.contains("<script>planted") && !page.html.contains("planted<script>"), "{path}: {}", page.html);
            assert_eq!(page.header("content-type"), "application/problem+json", "{path}: {}", page.html);
        }
    }
}
