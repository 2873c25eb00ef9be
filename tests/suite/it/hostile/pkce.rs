//! PKCE downgrade (RFC 9700, sections 2.1.1 and 4.8; RFC 7636): S256 is sent whatever the provider or the browser would
//! rather have, and each opening of a flow has a verifier of its own.

use std::collections::BTreeSet;

use serde_json::json;
use valetkey_suite::{ConnectorSpec, Setup, TestApp, TestConnector, engine_tests};

use super::{Sink, Walk, failed_for, members, nothing_came_of_it, param, tenant::CHALLENGE, with_param};

/// The person changes the provider's address on its way, consents, and the application finishes.
async fn with_location_changed(
    app: &TestApp,
    connector: &TestConnector,
    person: &str,
    change: impl FnOnce(&str) -> String,
) -> (Walk, String) {
    let started = app.start_flow(connector, &connector.popup(person)).await;
    let browser = app.browser(person);
    let location = browser.open(&started.start_url).await;
    let callback = browser.consent(&change(&location)).await;
    (Walk { started, browser, location, callback: callback.clone() }, callback)
}

engine_tests! {
    // RFC 7636, section 7.2: metadata that lists `plain` alone, or nothing; attack 8.
    async fn metadata_that_wants_plain_gets_s256(
        app: TestApp,
        setup = |setup: Setup| {
            setup.sandbox(|settings| {
                settings.discovery.extra.insert("code_challenge_methods_supported".to_owned(), json!(["plain"]));
            })
        },
    ) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        assert_eq!(param(&walk.location, "code_challenge_method"), "S256");
        assert_eq!(param(&walk.location, "code_challenge").len(), 43);
        walk.ends_well(&app, &connector, "u-1").await;
    }

    // RFC 9700, section 4.8.2: the challenge is stripped on the way to the provider, and the verifier shows it; attack 8.
    async fn a_challenge_that_was_stripped_on_the_way_is_noticed(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let strip = |location: &str| {
            with_param(&with_param(location, "code_challenge", None), "code_challenge_method", None)
        };
        let (walk, callback) = with_location_changed(&app, &connector, "u-1", strip).await;
        let home = walk.browser.come_home(&callback).await;
        let refused = app.finish(&connector, &home, "u-1").await.expect_problem(409, "flow-failed");
        assert_eq!(refused.json["flow_code"], "code-refused");
        failed_for(&app, &walk.started.flow_id, "code_refused").await;
        assert!(app.provider().grants().is_empty());
    }

    // RFC 7636, section 7.2: `plain` is asked for in our name; attack 8.
    async fn a_method_that_was_changed_to_plain_connects_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let plain = |location: &str| with_param(location, "code_challenge_method", Some("plain"));
        let (walk, callback) = with_location_changed(&app, &connector, "u-1", plain).await;
        walk.browser.come_home(&callback).await.expect_code("client-refused");
        failed_for(&app, &walk.started.flow_id, "client_refused").await;
        nothing_came_of_it(&app).await;
    }

    // draft: the attacker puts a challenge of their own into the victim's request, to redeem the code later; attack 7.
    async fn a_challenge_of_the_attackers_own_does_not_fit_our_verifier(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let own = |location: &str| with_param(location, "code_challenge", Some(CHALLENGE));
        let (walk, callback) = with_location_changed(&app, &connector, "u-1", own).await;
        let home = walk.browser.come_home(&callback).await;
        app.finish(&connector, &home, "u-1").await.expect_problem(409, "flow-failed").done();
        failed_for(&app, &walk.started.flow_id, "code_refused").await;
        assert!(app.provider().grants().is_empty());
    }

    // cloudflare/agents#1666: a verifier slot shared by overlapping windows; RFC 7636, section 4.1; attack 7.
    async fn every_opening_has_a_state_verifier_and_nonce_of_its_own(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let mut seen = BTreeSet::new();
        for number in 0..4 {
            let person = format!("u-{number}");
            let started = app.start_flow(&connector, &connector.popup(&person)).await;
            let browser = app.browser(&person);
            for _ in 0..3 {
                let location = browser.open(&started.start_url).await;
                assert_eq!(param(&location, "code_challenge_method"), "S256");
                for name in ["state", "code_challenge", "nonce"] {
                    let value = param(&location, name);
                    assert_eq!(value.len(), 43, "{name} is 256 bits");
                    assert!(seen.insert(value), "{name} came twice");
                }
                assert!(!location.contains(started.start_url.rsplit('/').next().unwrap()), "the ticket stays with us");
            }
        }
    }

    // The attacker's own provider sees the verifier of its own flow and of no other; attacks 1 and 7.
    async fn the_attackers_token_endpoint_sees_only_its_own_flows_verifier(app: TestApp) {
        let (sink, attacker) = (Sink::start().await, super::Tenant::elsewhere(&app).await);
        let honest = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &honest, "victim").await;
        let bait = attacker.bait(&sink).await;
        let started = attacker.start(&bait, "victim").await;
        let location = walk.browser.open(&started.start_url).await;
        let answer = format!("{}?code=own&state={}", app.url(&format!("/oauth/callback/{}", bait.id)), param(&location, "state"));
        let home = walk.browser.come_home(&answer).await;
        attacker.finish(&started.flow_id, home.handle(), "victim").await.expect_problem(409, "flow-failed").done();
        let asked = sink.seen_at("/token");
        assert_eq!(asked.len(), 1);
        let form = members(&asked[0].body);
        assert_eq!((form["code"].as_str(), form["code_verifier"].len()), ("own", 43));
        let digest = valetkey_core::Secret::from(form["code_verifier"].as_str()).digest();
        let challenge = data_encoding::BASE64URL_NOPAD.encode(&digest);
        assert_eq!(challenge, param(&location, "code_challenge"));
        assert_ne!(challenge, param(&walk.location, "code_challenge"));
        assert_eq!(form["redirect_uri"], bait.json["redirect_uri"].as_str().unwrap());
        sink.holds_none_of(&walk.secrets());
        sink.holds_none_of(std::slice::from_ref(&honest.client_secret));
        walk.ends_well(&app, &honest, "victim").await;
    }
}
