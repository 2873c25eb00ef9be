//! Mix-up (RFC 9700, section 4.4; RFC 9207): an answer that names another authorization server, or none where one is
//! promised, brings nothing, whether it carries a code or an error.

use valetkey_suite::{
    ConnectorSpec, Setup, TestApp, TestConnector, engine_tests,
    sandbox::{IssParameter, Sandbox, SandboxSettings},
};

use super::{Walk, failed_for, nothing_came_of_it, param, refused_for, with_param};

/// The answer with this issuer ends the flow at home, and nothing was asked for.
async fn is_refused(app: &TestApp, connector: &TestConnector, walk: &Walk, answer: &str) {
    walk.browser.come_home(answer).await.expect_code("issuer-mismatch");
    let status = app.flow_status(connector, &walk.started.flow_id).await;
    assert_eq!(status, ("failed".to_owned(), Some("issuer-mismatch".to_owned())));
    failed_for(app, &walk.started.flow_id, "issuer_mismatch").await;
    nothing_came_of_it(app).await;
}

engine_tests! {
    // RFC 9207, section 2.4, byte for byte (RFC 3986, section 6.2.1): look-alikes of the right issuer; attack 6.
    async fn an_issuer_that_only_looks_right_is_refused(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let issuer = app.provider_url().to_owned();
        for (number, wrong) in [
            "https://evil.example".to_owned(),
            format!("{issuer}/"),
            format!("{issuer}/."),
            format!("{issuer}#"),
            format!("{issuer}?"),
            format!(" {issuer}"),
            format!("{issuer}\u{0}"),
            format!("{issuer}.evil.example"),
            format!("{issuer}@evil.example"),
            issuer.replace("http:", "HTTP:"),
            issuer.replace("http:", "https:"),
            issuer.replace("127.0.0.1", "127.1"),
            issuer.replace("127.0.0.1", "localhost"),
            issuer.replace("127.0.0.1", "127%2E0.0.1"),
            String::new(),
        ]
        .into_iter()
        .enumerate()
        {
            let walk = Walk::of(&app, &connector, &format!("u-{number}")).await;
            is_refused(&app, &connector, &walk, &with_param(&walk.callback, "iss", Some(&wrong))).await;
        }
    }

    // RFC 9207, section 2.4: the attacker leaves out what the metadata promises; attack 6.
    async fn an_issuer_that_was_promised_cannot_be_left_out(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        is_refused(&app, &connector, &walk, &with_param(&walk.callback, "iss", None)).await;
    }

    // RFC 9207, section 2.4: names are compared exactly, so a look-alike of the parameter is its absence; attack 6.
    async fn an_issuer_under_another_name_is_none(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for (number, name) in ["ISS", "iss[]", "iss ", "issuer", "\u{131}ss"].into_iter().enumerate() {
            let walk = Walk::of(&app, &connector, &format!("u-{number}")).await;
            let answer = with_param(&with_param(&walk.callback, "iss", None), name, Some(app.provider_url()));
            is_refused(&app, &connector, &walk, &answer).await;
        }
    }

    // RFC 6749, section 3.1: the right issuer and the wrong one together, in either order; attack 6.
    async fn two_issuers_are_refused_and_burn_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let bare = with_param(&walk.callback, "iss", None);
        let right = format!("iss={}", app.provider_url());
        for pair in [
            format!("{right}&iss=https://evil.example"),
            format!("iss=https://evil.example&{right}"),
            format!("{right}&{right}"),
            format!("{right}&iss="),
            format!("{right}&%69%73%73=https://evil.example"),
            format!("iss&{right}"),
        ] {
            walk.browser.get(&format!("{bare}&{pair}")).await.expect_failure(400, "callback-invalid");
        }
        refused_for(&app, &walk.started.flow_id, "doubled").await;
        nothing_came_of_it(&app).await;
        walk.ends_well(&app, &connector, "u-1").await;
    }

    // RFC 9207, section 2.2: error answers carry the issuer too, and are no way around it; attack 6.
    async fn an_error_of_another_issuer_is_a_mismatch_and_not_a_refusal(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for (person, iss) in [("u-1", Some("https://evil.example")), ("u-2", None)] {
            let started = app.start_flow(&connector, &connector.popup(person)).await;
            let browser = app.browser(person);
            let location = browser.open(&started.start_url).await;
            let callback = browser.deny(&location).await;
            let answer = with_param(&callback, "iss", iss);
            let answer = with_param(&answer, "error_description", Some("planted by the attacker"));
            let walk = Walk { started, browser, location, callback };
            is_refused(&app, &connector, &walk, &answer).await;
        }
    }

    // RFC 9700, section 4.4.2: two providers of one vault; each answers in its own name; attack 6.
    async fn the_answer_of_another_configured_provider_is_refused(app: TestApp) {
        let settings = SandboxSettings { clients: Vec::new(), any_account: true, ..SandboxSettings::automatic() };
        let other = Sandbox::start(settings).await.unwrap();
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        // The other one knows the same client id, as after a dynamic registration that the attacker chose.
        other.control().put_client(app.provider().client(&connector.client_id).unwrap());
        let location = walk.location.replace(app.provider_url(), other.base_url());
        let foreign = walk.browser.consent(&location).await;
        assert_eq!(param(&foreign, "iss"), other.issuer());
        is_refused(&app, &connector, &walk, &foreign).await;
        assert!(other.control().token_requests().is_empty());
    }

    // RFC 9207, section 2.4: a provider that does not promise the parameter, and sends a wrong one; attack 6.
    async fn a_wrong_issuer_is_refused_even_where_none_was_promised(
        app: TestApp,
        setup = |setup: Setup| {
            setup.sandbox(|settings| {
                settings.discovery.advertise_iss = false;
                settings.authorize.iss = IssParameter::Other("https://evil.example".to_owned());
            })
        },
    ) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let answer = walk.callback.clone();
        is_refused(&app, &connector, &walk, &answer).await;
    }
}
