//! The confirm page: asks the person at the browser where an application cannot call finish.

use serde_json::json;
use valetkey_suite::{
    ConnectorSpec, Home, engine_tests,
    sandbox::{Fault, FaultRule},
};

engine_tests! {
    async fn pressing_connect_makes_a_weakly_bound_connection(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        for (person, body) in [("u-1", connector.popup("u-1")), ("u-2", connector.redirect("u-2"))] {
            let started = app.start_flow(&connector, &body).await;
            let browser = app.browser(person);
            let before = app.provider().token_requests().len();
            let confirming = browser.walk_to_confirm(&started.start_url).await;
            assert_eq!(app.provider().token_requests().len(), before, "nothing is redeemed before the button");
            assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "pending");
            let page = browser.press(&confirming, "connect").await.expect(200);
            // A form post that redirected to another origin would be blocked: the page goes on by itself.
            assert!(page.header("location").is_empty());
            let home = Home::of(&page);
            assert_eq!((home.flow_id.as_str(), home.handle, home.code), (started.flow_id.as_str(), None, None));
            let flow = app.application().get(&format!("/v1/flows/{}", started.flow_id)).await.expect(200);
            assert_eq!(flow.json["status"], "connected");
            let id = flow.text_of("connection_id");
            let connection = app.operator().get(&format!("/v1/connections/{id}")).await.expect(200);
            assert_eq!(connection.json["weakly_bound"], true);
            app.fetch(&connector, person).await.expect(200).done();
        }
        let audit = app.operator().get("/v1/audit?action=connection.connected").await.expect(200);
        assert_eq!(audit.json["items"][0]["detail"]["weakly_bound"], true);
    }

    async fn the_page_names_connector_space_and_person_and_its_button_sleeps(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page().with("name", json!("Tickets <b>"))).await;
        let mut body = connector.popup("u-1");
        body["user_display"] = json!("Ada <script>alert(1)</script>");
        let started = app.start_flow(&connector, &body).await;
        let confirming = app.browser("u-1").walk_to_confirm(&started.start_url).await;
        let html = &confirming.page.html;
        assert!(html.contains("Tickets &#60;b&#62;") || html.contains("Tickets &lt;b&gt;"), "{html}");
        assert!(html.contains("default") && html.contains("Ada "), "{html}");
        assert!(!html.contains("<script>alert"), "{html}");
        assert!(html.contains("id=\"confirm\"") && html.contains(" disabled>"), "{html}");
        assert!(!html.contains(&app.provider().grants().len().to_string().repeat(40)));
    }

    async fn pressing_cancel_calls_the_flow_off(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let confirming = browser.walk_to_confirm(&started.start_url).await;
        Home::of(&browser.press(&confirming, "cancel").await.expect(200)).expect_code("flow-cancelled");
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "cancelled");
        browser.press(&confirming, "connect").await.expect_failure(403, "wrong-browser");
        assert!(app.provider().token_requests().is_empty());
    }

    async fn a_token_that_does_not_fit_confirms_nothing_and_burns_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let confirming = browser.walk_to_confirm(&started.start_url).await;
        for token in ["", &"a".repeat(43)] {
            let mut wrong = confirming.clone();
            wrong.token = token.to_owned();
            browser.press(&wrong, "connect").await.expect_failure(403, "confirm-invalid");
        }
        browser.press(&confirming, "perhaps").await.expect_failure(403, "confirm-invalid");
        browser.get(&confirming.action).await.expect(410);
        assert!(app.provider().token_requests().is_empty());
        Home::of(&browser.press(&confirming, "connect").await);
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "connected");
    }

    async fn a_form_from_another_origin_confirms_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let confirming = browser.walk_to_confirm(&started.start_url).await;
        let form = [("token", confirming.token.as_str()), ("decision", "connect")];
        for origin in [Some("https://evil.example"), Some("null"), None] {
            let request = browser.request(reqwest::Method::POST, &confirming.action).form(&form);
            let request = match origin {
                Some(origin) => request.header("origin", origin).header("sec-fetch-site", "cross-site"),
                None => request,
            };
            browser.send(request).await.expect_failure(403, "confirm-invalid");
        }
        assert!(app.provider().token_requests().is_empty());
        Home::of(&browser.press(&confirming, "connect").await);
    }

    async fn another_browser_confirms_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let confirming = browser.walk_to_confirm(&started.start_url).await;
        let stranger = app.browser("stranger");
        stranger.press(&confirming, "connect").await.expect_failure(403, "wrong-browser");
        stranger.press(&confirming, "cancel").await.expect_failure(403, "wrong-browser");
        Home::of(&browser.press(&confirming, "connect").await);
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "connected");
    }

    async fn a_button_that_is_pressed_twice_redeems_once(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let confirming = browser.walk_to_confirm(&started.start_url).await;
        let (one, two) = tokio::join!(browser.press(&confirming, "connect"), browser.press(&confirming, "connect"));
        assert!(Home::find(&one).is_some() || Home::find(&two).is_some());
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "connected");
        assert_eq!(app.provider().token_requests().len(), 1);
    }

    async fn a_failed_redemption_comes_home_with_its_code(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let confirming = browser.walk_to_confirm(&started.start_url).await;
        app.provider().inject(FaultRule::token(Fault::OAuthError { status: 400, error: "invalid_grant".to_owned() }));
        Home::of(&browser.press(&confirming, "connect").await).expect_code("code-refused");
    }

    async fn a_flow_bound_by_our_page_cannot_be_finished_by_the_application(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().confirm_page()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let confirming = browser.walk_to_confirm(&started.start_url).await;
        let body = json!({ "handle": confirming.token, "user_id": "u-1" });
        app.finish_with(&connector, &started.flow_id, &body).await.expect_problem(409, "flow-not-ready").done();
        assert!(app.provider().token_requests().is_empty());
    }
}
