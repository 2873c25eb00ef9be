//! Cross-user session fixation (connectors: COSF, found at 40 vendors): the attacker starts a flow and gets the victim to
//! consent in it. State and PKCE do not help, because one browser does everything; the finish call does.

use serde_json::json;
use valetkey_suite::{ConnectorSpec, Home, engine_tests};

use super::{Walk, failed_for, nothing_came_of_it, param, refused_for, with_param};

const SECRETS_LEFT: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM flows \
     WHERE code IS NOT NULL OR verifier IS NOT NULL OR nonce IS NOT NULL";

engine_tests! {
    // connectors, COSF (a): the provider's address is forwarded, as with CVE-2023-36019; attack 3.
    async fn a_forwarded_provider_address_gives_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("mallory")).await;
        let (attacker, victim) = (app.browser("mallory"), app.browser("victim"));
        let location = attacker.open(&started.start_url).await;
        let callback = victim.consent(&location).await;
        victim.get(&callback).await.expect_failure(403, "wrong-browser");
        refused_for(&app, &started.flow_id, "wrong_browser").await;
        nothing_came_of_it(&app).await;
        // The attacker has only an account of their own to go on with.
        let own = attacker.consent(&location).await;
        let home = attacker.come_home(&own).await;
        app.finish(&connector, &home, "mallory").await.expect(200).done();
        super::holds_own_grant(&app, &connector, "mallory").await;
        assert!(app.provider().grants_of(&connector.client_id, "victim").is_empty());
    }

    // connectors, COSF with silent consent: the victim has connected before and sees no question; attacks 3 and 5.
    async fn a_silent_consent_over_a_forwarded_address_gives_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "victim").await;
        let before = app.provider().token_requests().len();
        let started = app.start_flow(&connector, &connector.popup("mallory")).await;
        let location = app.browser("mallory").open(&started.start_url).await;
        let victim = app.browser("victim");
        let callback = victim.consent(&with_param(&location, "prompt", Some("none"))).await;
        victim.get(&callback).await.expect_failure(403, "wrong-browser");
        assert_eq!(app.provider().token_requests().len(), before);
        super::holds_own_grant(&app, &connector, "victim").await;
        app.fetch(&connector, "mallory").await.expect_problem(404, "connection-not-found").done();
    }

    // connectors, COSF (b): the unopened start link is forwarded; a cookie alone (Nango's fix) does not close this; attack 3.
    async fn a_forwarded_start_link_cannot_be_finished_for_the_attacker(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("mallory")).await;
        let home = app.browser("victim").walk(&started.start_url).await;
        // No answer of the API gives the attacker's side the handle.
        let seen = app.application().get(&format!("/v1/flows/{}", started.flow_id)).await.expect(200);
        assert!(!seen.text.contains(home.handle()));
        for guess in [started.flow_id.as_str(), "", "null"] {
            let body = json!({ "handle": guess, "user_id": "mallory" });
            app.finish_with(&connector, &started.flow_id, &body).await.expect_problem(403, "handle-refused").done();
        }
        // The victim's window brings the handle into the victim's session.
        app.finish(&connector, &home, "victim").await.expect_problem(403, "finish-mismatch").done();
        failed_for(&app, &started.flow_id, "user_mismatch").await;
        assert_eq!(app.number(SECRETS_LEFT).await, 0, "the victim's code is erased");
        app.finish(&connector, &home, "mallory").await.expect_problem(409, "flow-failed").done();
        nothing_came_of_it(&app).await;
    }

    // connectors, COSF (b) the other way: the attacker opened the link first; attack 3.
    async fn a_start_link_that_was_opened_is_closed_to_everybody_else(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let stranger = app.browser("stranger");
        let page = stranger.post_start(&walk.started.start_url).await.expect_failure(403, "wrong-browser");
        assert!(page.header("set-cookie").is_empty() && page.header("refresh").is_empty());
        assert!(!page.html.contains("state="), "{}", page.html);
        refused_for(&app, &walk.started.flow_id, "another_browser").await;
        walk.ends_well(&app, &connector, "u-1").await;
        stranger.get(&walk.started.start_url).await.expect_failure(200, "already-finished");
        stranger.post_start(&walk.started.start_url).await.expect_failure(200, "already-finished");
        assert_eq!(super::metric(&app, "callbacks_refused", "reason=\"link_over\""), 2);
    }

    // connectors, COSF (c): the attacker consents with their own account and forwards the callback; attack 3.
    async fn a_forwarded_callback_does_not_put_the_attackers_account_into_the_victims_session(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "mallory").await;
        let victim = app.browser("victim");
        let page = victim.get(&walk.callback).await.expect_failure(403, "wrong-browser");
        assert!(Home::find(&page).is_none());
        refused_for(&app, &walk.started.flow_id, "wrong_browser").await;
        nothing_came_of_it(&app).await;
    }

    // connectors, COSF at the last step: the attacker forwards the way home, so that the victim's session would own
    // the attacker's account (as with CVE-2026-40948); attacks 3 and 4.
    async fn a_forwarded_way_home_is_refused_in_the_victims_session(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for body in [connector.popup("mallory"), connector.redirect("mallory")] {
            let started = app.start_flow(&connector, &body).await;
            let home = app.browser("mallory").walk(&started.start_url).await;
            assert!(home.target.as_str().starts_with(valetkey_suite::RETURN_URL));
            app.finish(&connector, &home, "victim").await.expect_problem(403, "finish-mismatch").done();
            failed_for(&app, &started.flow_id, "user_mismatch").await;
        }
        nothing_came_of_it(&app).await;
    }

    // WorkOS's way one level up: the application's own session keeps a verifier; attack 3.
    async fn a_session_without_the_binding_verifier_cannot_finish(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let mut body = connector.popup("u-1");
        body["binding_challenge"] = json!(super::tenant::CHALLENGE);
        for verifier in [None, Some("w".repeat(43)), Some(super::tenant::CHALLENGE.to_owned())] {
            let started = app.start_flow(&connector, &body).await;
            let home = app.browser("u-1").walk(&started.start_url).await;
            let mut finish = json!({ "handle": home.handle(), "user_id": "u-1" });
            if let Some(verifier) = verifier {
                finish["binding_verifier"] = json!(verifier);
            }
            let refused = app.finish_with(&connector, &started.flow_id, &finish).await;
            refused.expect_problem(403, "finish-mismatch").done();
            failed_for(&app, &started.flow_id, "binding_mismatch").await;
        }
        nothing_came_of_it(&app).await;
    }

    // connectors, COSF on a shared connection: an administrator is lured instead of a user; attack 3.
    async fn a_shared_connection_is_finished_by_the_administrator_who_began(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().shared()).await;
        let started = app.start_flow(&connector, &connector.popup("admin-mallory")).await;
        let home = app.browser("admin-victim").walk(&started.start_url).await;
        app.finish(&connector, &home, "admin-victim").await.expect_problem(403, "finish-mismatch").done();
        failed_for(&app, &started.flow_id, "user_mismatch").await;
        nothing_came_of_it(&app).await;
    }

    // connectors, COSF with a suggested account, and parameters smuggled in by it; attacks 3 and 7.
    async fn a_login_hint_adds_nothing_to_the_request_but_itself(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for (number, hint) in [
            "victim@honest.example",
            "x&client_id=evil&redirect_uri=https://evil.example",
            "x#&state=known",
            "x%26code_challenge_method=plain",
            "x\"><script>alert(1)</script>",
            "x\u{202e}moc.elpmaxe",
            "+&=%20;",
        ]
        .into_iter()
        .enumerate()
        {
            let person = format!("u-{number}");
            let mut body = connector.popup(&person);
            body["login_hint"] = json!(hint);
            let started = app.start_flow(&connector, &body).await;
            let browser = app.browser(&person);
            assert!(!browser.get(&started.start_url).await.html.contains("alert(1)"));
            let location = browser.open(&started.start_url).await;
            let url: url::Url = location.parse().unwrap();
            assert!(url.fragment().is_none());
            let names: Vec<String> = url.query_pairs().map(|(name, _)| name.into_owned()).collect();
            let unlike: std::collections::BTreeSet<&String> = names.iter().collect();
            assert_eq!(unlike.len(), names.len(), "{location}");
            assert_eq!(param(&location, "login_hint"), hint);
            assert_eq!(param(&location, "client_id"), connector.client_id);
            assert_eq!(param(&location, "redirect_uri"), connector.json["redirect_uri"]);
            assert_eq!(param(&location, "code_challenge_method"), "S256");
        }
        for hint in ["a\r\nLocation: https://evil.example", "a\u{0}", &"x".repeat(321)] {
            let mut body = connector.popup("u-1");
            body["login_hint"] = json!(hint);
            app.try_start(&connector, &body).await.expect_fault("invalid-request", "login_hint").done();
        }
    }

    // A hint names the victim and the provider signs the victim in; whose flow it is does not change; attack 3.
    async fn a_login_hint_of_the_victim_does_not_make_the_flow_the_victims(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let mut body = connector.popup("mallory");
        body["login_hint"] = json!("victim");
        let started = app.start_flow(&connector, &body).await;
        let victim = app.browser("victim");
        let home = victim.walk(&started.start_url).await;
        app.finish(&connector, &home, "victim").await.expect_problem(403, "finish-mismatch").done();
        failed_for(&app, &started.flow_id, "user_mismatch").await;
        nothing_came_of_it(&app).await;
    }
}
