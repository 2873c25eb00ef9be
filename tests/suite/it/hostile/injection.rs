//! Code injection (RFC 9700, section 4.5; draft): a code that was stolen somewhere is brought into a flow of the attacker's.
//! The verifier belongs to one flow (unlike cloudflare/agents#1666), so the code is refused by its provider.

use valetkey_suite::{ConnectorSpec, TestApp, TestConnector, engine_tests, sandbox::IdToken};

use super::{Walk, failed_for, param, with_param};

/// The flow's answer, with another code in it, is finished by the flow's own person: the provider refuses the code.
async fn is_refused_by_the_provider(app: &TestApp, connector: &TestConnector, walk: &Walk, person: &str, code: &str) {
    let home = walk.browser.come_home(&with_param(&walk.callback, "code", Some(code))).await;
    let refused = app.finish(connector, &home, person).await.expect_problem(409, "flow-failed");
    assert_eq!(refused.json["flow_code"], "code-refused");
    failed_for(app, &walk.started.flow_id, "code_refused").await;
    app.fetch(connector, person).await.expect_problem(404, "connection-not-found").done();
}

engine_tests! {
    // RFC 9700, section 4.5: the victim's code in a flow that the attacker opened at the same client; attack 7.
    async fn a_stolen_code_does_not_fit_the_attackers_flow(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let victims = Walk::of(&app, &connector, "victim").await;
        let attackers = Walk::of(&app, &connector, "mallory").await;
        let stolen = param(&victims.callback, "code");
        is_refused_by_the_provider(&app, &connector, &attackers, "mallory", &stolen).await;
        // The right flow goes on: the provider was asked with the wrong verifier only.
        victims.ends_well(&app, &connector, "victim").await;
    }

    // Codes of two open flows of one user change places (overlapping popups); attack 7.
    async fn codes_that_changed_places_connect_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let (one, two) = (Walk::of(&app, &connector, "u-1").await, Walk::of(&app, &connector, "u-2").await);
        let (first, second) = (param(&one.callback, "code"), param(&two.callback, "code"));
        is_refused_by_the_provider(&app, &connector, &one, "u-1", &second).await;
        is_refused_by_the_provider(&app, &connector, &two, "u-2", &first).await;
        assert!(app.provider().grants().is_empty(), "{:?}", app.provider().grants());
    }

    // RFC 6749, section 4.1.3: a code of another client of the same provider; attacks 1 and 7.
    async fn a_code_of_another_connector_is_refused(app: TestApp) {
        let (one, two) = (app.connector(ConnectorSpec::oidc()).await, app.connector(ConnectorSpec::oidc()).await);
        let victims = Walk::of(&app, &one, "victim").await;
        let attackers = Walk::of(&app, &two, "mallory").await;
        is_refused_by_the_provider(&app, &two, &attackers, "mallory", &param(&victims.callback, "code")).await;
        victims.ends_well(&app, &one, "victim").await;
    }

    // connectors, cross-tenant injection: the same client is registered by two tenants; attacks 7 and 17.
    async fn a_code_of_another_space_is_refused_even_at_the_same_client(app: TestApp) {
        let attacker = super::Tenant::elsewhere(&app).await;
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let mut body = ConnectorSpec::oidc().body(app.provider_url());
        body["client_id"] = connector.client_id.as_str().into();
        body["client_secrets"] = serde_json::json!([connector.client_secret]);
        let theirs = attacker.connector(body).await;
        let victims = Walk::of(&app, &connector, "victim").await;
        let started = attacker.start(&theirs, "mallory").await;
        let attackers = Walk::from(started, app.browser("mallory")).await;
        let stolen = with_param(&attackers.callback, "code", Some(&param(&victims.callback, "code")));
        let home = attackers.browser.come_home(&stolen).await;
        let refused = attacker.finish(&home.flow_id, home.handle(), "mallory").await;
        assert_eq!(refused.expect_problem(409, "flow-failed").json["flow_code"], "code-refused");
        victims.ends_well(&app, &connector, "victim").await;
    }

    // RFC 6749, section 4.1.2: a code that was redeemed already; attacks 7 and 12.
    async fn a_code_that_was_redeemed_is_refused_in_the_next_flow(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let victims = Walk::of(&app, &connector, "victim").await;
        let used = param(&victims.callback, "code");
        victims.ends_well(&app, &connector, "victim").await;
        let attackers = Walk::of(&app, &connector, "mallory").await;
        is_refused_by_the_provider(&app, &connector, &attackers, "mallory", &used).await;
        assert!(app.provider().grants_of(&connector.client_id, "mallory").is_empty());
    }

    // OpenID Connect Core, section 3.1.3.7; RFC 9700, section 4.5.3.2: an id_token of another flow, client or issuer; attack 7.
    async fn an_id_token_of_another_flow_client_or_issuer_connects_nothing(app: TestApp) {
        for (number, wrong) in [
            IdToken::WrongNonce,
            IdToken::NoNonce,
            IdToken::WrongAudience,
            IdToken::WrongIssuer,
            IdToken::Expired,
            IdToken::Unsigned,
            IdToken::Malformed,
            IdToken::NoSubject,
        ]
        .into_iter()
        .enumerate()
        {
            let connector = app.connector(ConnectorSpec::oidc().client(|client| client.id_token = wrong)).await;
            let person = format!("u-{number}");
            let walk = Walk::of(&app, &connector, &person).await;
            let home = walk.browser.come_home(&walk.callback).await;
            let answer = app.finish(&connector, &home, &person).await;
            if wrong == IdToken::Unsigned {
                // It came from the token endpoint itself over the checked connection, which stands for the signature
                // (OpenID Connect Core, section 3.1.3.7, rule 6).
                assert!([200, 409].contains(&answer.status), "{}", answer.text);
                continue;
            }
            assert_eq!(answer.expect_problem(409, "flow-failed").json["flow_code"], "id-token-invalid", "{wrong:?}");
            failed_for(&app, &walk.started.flow_id, "id_token_invalid").await;
            app.settle().await;
            let grants = app.provider().grants_of(&connector.client_id, &person);
            assert!(grants.iter().all(|grant| !grant.alive), "{wrong:?}: tokens live on: {grants:?}");
        }
    }
}
