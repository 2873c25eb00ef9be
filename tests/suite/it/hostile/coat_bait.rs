//! Cross-app account takeover by registration (cross-app: COAT with a shared client; draft, "split endpoints"): the
//! attacker's connector borrows what is public of the honest one, its client id, its issuer, its consent page.

use serde_json::json;
use valetkey_suite::{ConnectorSpec, TestApp, TestConnector, engine_tests};

use super::{
    Reply, Sink, Tenant, Walk, holds_own_grant, nothing_came_of_it, param,
    tenant::{bait_body, bounced, honest},
};

/// The victim starts the borrowed connector's flow: it goes to the honest consent page, but with the attacker's own
/// redirect URI, which the honest provider does not know.
async fn is_sent_away_by_the_provider(app: &TestApp, attacker: &Tenant, sink: &Sink, bait: &TestConnector) {
    let started = attacker.start(bait, "victim").await;
    let victim = app.browser("victim");
    let location = victim.open(&started.start_url).await;
    assert_eq!(param(&location, "redirect_uri"), bait.json["redirect_uri"], "each connector has an address of its own");
    let page = victim.get(&location).await.expect(400);
    assert!(page.header("location").is_empty());
    assert!(sink.seen_at("/token").is_empty());
    nothing_came_of_it(app).await;
}

engine_tests! {
    // cross-app, COAT with the attacker's own redirect URI at the honest provider; attack 1.
    async fn the_attackers_redirect_uri_is_not_the_honest_clients(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::elsewhere(&app).await);
        let honest = honest(&app, ConnectorSpec::oidc()).await;
        let bait = attacker.bait(&sink).await;
        assert_ne!(bait.json["redirect_uri"], honest.json["redirect_uri"]);
        let started = attacker.start(&bait, "victim").await;
        let victim = app.browser("victim");
        let own = bait.json["redirect_uri"].as_str().unwrap();
        let consent = bounced(&app, &sink, &victim, &started, &honest.client_id, own).await;
        victim.get(&consent).await.expect(400);
        nothing_came_of_it(&app).await;
    }

    // connectors, a completed client registration shared between tenants; draft, split endpoints; attack 1.
    async fn a_borrowed_client_id_with_a_foreign_token_endpoint_gets_no_code(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::elsewhere(&app).await);
        let honest = honest(&app, ConnectorSpec::oauth2()).await;
        let mut body = bait_body(&sink);
        body["client_id"] = json!(honest.client_id);
        body["endpoints"]["authorization"] = json!(format!("{}/authorize", app.provider_url()));
        let bait = attacker.connector(body).await;
        is_sent_away_by_the_provider(&app, &attacker, &sink, &bait).await;
    }

    // draft: an issuer that only fills in a form is no defence, so the address of its own must be one; attacks 1 and 6.
    async fn a_borrowed_issuer_with_a_foreign_token_endpoint_gets_no_code(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::elsewhere(&app).await);
        let honest = honest(&app, ConnectorSpec::oidc()).await;
        let spec = ConnectorSpec::oidc()
            .with("client_id", json!(honest.client_id))
            .with("endpoints", json!({ "token": sink.url("/token") }));
        let bait = attacker.connector(spec.body(app.provider_url())).await;
        is_sent_away_by_the_provider(&app, &attacker, &sink, &bait).await;
    }

    // RFC 9700, section 4.4, by metadata: the attacker's issuer names the honest consent page and its own token endpoint,
    // and the honest provider is careless with redirect URIs; attack 6.
    async fn metadata_that_names_the_honest_consent_page_is_caught_by_the_issuer(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::elsewhere(&app).await);
        let honest = app.connector(ConnectorSpec::oidc()).await;
        sink.pose(&sink.url(""), &format!("{}/authorize", app.provider_url()), &sink.url("/token"));
        let bait = attacker
            .connector(ConnectorSpec::oidc().with("client_id", json!(honest.client_id)).body(&sink.url("")))
            .await;
        let started = attacker.start(&bait, "victim").await;
        let victim = app.browser("victim");
        let location = victim.open(&started.start_url).await;
        let callback = victim.consent(&location).await;
        victim.come_home(&callback).await.expect_code("issuer-mismatch");
        assert_eq!(attacker.status(&started.flow_id).await, "failed");
        assert!(sink.seen_at("/token").is_empty());
        sink.holds_none_of(&[param(&callback, "code"), honest.client_secret.clone()]);
        nothing_came_of_it(&app).await;
    }

    // RFC 8414, section 3.3: metadata that speaks in another issuer's name; attack 6.
    async fn metadata_in_the_name_of_another_issuer_is_refused_at_start(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::elsewhere(&app).await);
        sink.pose(app.provider_url(), &format!("{}/authorize", app.provider_url()), &sink.url("/token"));
        let bait = attacker.connector(ConnectorSpec::oidc().body(&sink.url(""))).await;
        let refused = attacker.caller.post(&bait.path("/flows"), &bait.popup("victim")).await;
        refused.expect_problem(503, "provider-unavailable").done();
        assert!(sink.seen_at("/token").is_empty());
    }

    // RFC 9700, section 4.12 (307): the token endpoint sends code, verifier and secret on to the attacker; attacks 1, 13.
    async fn a_token_endpoint_that_redirects_takes_nothing_along(app: TestApp) {
        let (sink, provider) = (Sink::start().await, Sink::start().await);
        provider.reply("/token", Reply::Elsewhere(307, sink.url("/token")));
        let endpoints = json!({
            "authorization": format!("{}/authorize", app.provider_url()), "token": provider.url("/token"),
        });
        let connector = app.connector(ConnectorSpec::oauth2().with("endpoints", endpoints)).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let home = walk.browser.come_home(&walk.callback).await;
        let refused = app.finish(&connector, &home, "u-1").await.expect_problem(409, "flow-failed");
        assert_eq!(refused.json["flow_code"], "provider-unavailable");
        assert_eq!(provider.seen_at("/token").len(), 1, "asked once");
        assert!(sink.seen().is_empty(), "the redirect is not followed");
        super::failed_for(&app, &walk.started.flow_id, "provider_unavailable").await;
    }

    // connectors, the attacker redeems in a flow of their own what came home from the honest one; attack 1.
    async fn an_honest_handle_is_worth_nothing_in_the_attackers_flow(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, Tenant::beside(&app).await);
        let honest = honest(&app, ConnectorSpec::oidc()).await;
        let bait = attacker.bait(&sink).await;
        // The attacker's flow has come back too, with a code of the attacker's making.
        let started = attacker.start(&bait, "mallory").await;
        let own = app.browser("mallory");
        let location = own.open(&started.start_url).await;
        let callback = app.url(&format!(
            "/oauth/callback/{}?code=worthless&state={}", bait.id, param(&location, "state")
        ));
        own.come_home(&callback).await.handle();
        let walk = Walk::of(&app, &honest, "victim").await;
        let home = walk.browser.come_home(&walk.callback).await;
        for person in ["mallory", "victim"] {
            let refused = attacker.finish(&started.flow_id, home.handle(), person).await;
            refused.expect_problem(403, "handle-refused").done();
        }
        assert_eq!(super::finish_refusals(&app, &started.flow_id).await, ["handle", "handle"]);
        assert!(super::metric(&app, "flow_calls_refused", "reason=\"handle\"") >= 2);
        app.finish(&honest, &home, "victim").await.expect(200).done();
        holds_own_grant(&app, &honest, "victim").await;
        assert!(sink.seen_at("/token").is_empty());
        sink.holds_none_of(&walk.secrets());
    }
}
