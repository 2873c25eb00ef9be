//! A connector that is edited in mid-flow (draft: the context of a flow is what it was at its start): no edit sends a
//! code or a stored secret to another host, and none brings a flow into another context.

use serde_json::json;
use valetkey_suite::{
    ConnectorSpec, Home, engine_tests,
    sandbox::{Fault, FaultRule},
};

use super::{Sink, Walk, failed_for, nothing_came_of_it};

engine_tests! {
    // An administrator's session is abused to turn the token endpoint in mid-flow; n8n CVE-2026-42226 in kind; attacks 1, 13.
    async fn endpoints_client_and_issuer_cannot_be_turned_in_mid_flow(app: TestApp) {
        let sink = Sink::start().await;
        sink.pose(&sink.url(""), &sink.url("/authorize"), &sink.url("/token"));
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let home = walk.browser.come_home(&walk.callback).await;
        let turned = json!({
            "authorization": connector.json["endpoints"]["authorization"], "token": sink.url("/token"),
        });
        for patch in [
            json!({ "endpoints": turned }),
            json!({ "endpoints": turned, "client_secrets": ["given-again"] }),
            json!({ "endpoints": {} }),
            json!({ "client_id": "of-the-attacker", "client_secrets": ["given-again"] }),
            json!({ "issuer": sink.url(""), "client_secrets": ["given-again"] }),
            json!({ "provider": "oidc", "issuer": sink.url(""), "client_secrets": ["given-again"] }),
            json!({ "settings": { "client_authentication": "body" } }),
            json!({ "auth_mode": "shared" }),
            json!({ "grant": "client_credentials", "auth_mode": "shared" }),
        ] {
            let refused = app.admin().patch(&connector.path(""), &patch).await;
            refused.expect_problem(409, "connector-in-use").done();
        }
        app.finish(&connector, &home, "u-1").await.expect(200).done();
        super::holds_own_grant(&app, &connector, "u-1").await;
        assert!(sink.seen().is_empty(), "{:?}", sink.seen());
    }

    // The same before anybody has come back: the start alone fixes what the connector is; attacks 1 and 13.
    async fn a_start_alone_fixes_what_the_connector_is(app: TestApp) {
        let sink = Sink::start().await;
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let endpoints = json!({ "authorization": sink.url("/authorize"), "token": sink.url("/token") });
        let patch = json!({ "endpoints": endpoints, "client_secrets": ["given-again"] });
        app.admin().patch(&connector.path(""), &patch).await.expect_problem(409, "connector-in-use").done();
        Walk::from(started, app.browser("u-1")).await.ends_well(&app, &connector, "u-1").await;
        assert!(sink.seen().is_empty());
    }

    // agentic-community/mcp-gateway-registry#1396: an unused connector's stored secret goes to the host of an edit; attack 13.
    async fn a_stored_secret_does_not_follow_an_edit_to_another_host(app: TestApp) {
        let sink = Sink::start().await;
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let endpoints = json!({ "authorization": sink.url("/authorize"), "token": sink.url("/token") });
        let patch = json!({ "endpoints": endpoints });
        app.admin().patch(&connector.path(""), &patch).await.expect_fault("invalid-request", "client_secrets").done();
        let patch = json!({ "endpoints": endpoints, "client_secrets": ["the-attackers-own"] });
        app.admin().patch(&connector.path(""), &patch).await.expect(200).done();
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let location = browser.open(&started.start_url).await;
        let answer = format!("{}?code=own-code&state={}", super::callback_address(&app, &connector), super::param(&location, "state"));
        let home = browser.come_home(&answer).await;
        app.finish(&connector, &home, "u-1").await.expect_problem(409, "flow-failed").done();
        assert_eq!(sink.seen_at("/token").len(), 1);
        sink.holds_none_of(std::slice::from_ref(&connector.client_secret));
    }

    // Starts and edits at once: whichever is first, a flow never spans two hosts; attacks 1, 12 and 13.
    async fn edits_that_race_with_starts_send_no_honest_code_elsewhere(app: TestApp) {
        for round in 0..6 {
            let sink = Sink::start().await;
            let connector = app.connector(ConnectorSpec::oauth2()).await;
            let person = format!("u-{round}");
            let endpoints = json!({ "authorization": sink.url("/authorize"), "token": sink.url("/token") });
            let patch = json!({ "endpoints": endpoints, "client_secrets": ["the-attackers-own"] });
            let (admin, path, body) = (app.admin(), connector.path(""), connector.popup(&person));
            let (started, edited) =
                tokio::join!(app.start_flow(&connector, &body), admin.patch(&path, &patch));
            assert!([200, 409].contains(&edited.status), "{}", edited.text);
            let browser = app.browser(&person);
            let location = browser.open(&started.start_url).await;
            if edited.status == 409 {
                assert!(location.starts_with(app.provider_url()), "{location}");
                let callback = browser.consent(&location).await;
                let home = browser.come_home(&callback).await;
                app.finish(&connector, &home, &person).await.expect(200).done();
                assert!(sink.seen().is_empty());
            } else {
                assert!(location.starts_with(&sink.url("/")), "{location}");
                assert!(app.provider().authorizations().iter().all(|event| event.client_id.as_ref() != Some(&connector.client_id)));
            }
            sink.holds_none_of(std::slice::from_ref(&connector.client_secret));
        }
    }

    // Secrets may roll over in mid-flow; both go to the same host and nowhere else; attack 13.
    async fn a_secret_that_is_rolled_over_in_mid_flow_goes_to_the_same_host(app: TestApp) {
        let spec = ConnectorSpec::oidc().client(|client| client.secrets.push("rolled-over-secret".to_owned()));
        let connector = app.connector(spec).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let patch = json!({ "client_secrets": ["rolled-over-secret"] });
        app.admin().patch(&connector.path(""), &patch).await.expect(200).done();
        walk.ends_well(&app, &connector, "u-1").await;
        assert_eq!(app.provider().token_requests()[0].secret_index, Some(1));
    }

    // draft: redirect targets are checked at use again; those of the start may have been the attacker's; attack 9.
    async fn a_return_target_or_origin_that_was_withdrawn_is_not_used(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for (person, deny, patch) in [
            ("u-1", false, json!({ "return_urls": ["https://elsewhere.example/"] })),
            ("u-2", true, json!({ "return_urls": ["https://elsewhere.example/"] })),
            ("u-3", false, json!({ "origins": ["https://elsewhere.example"] })),
            ("u-4", false, json!({ "origins": [] })),
        ] {
            let started = app.start_flow(&connector, &connector.popup(person)).await;
            let browser = app.browser(person);
            let location = browser.open(&started.start_url).await;
            let callback = if deny { browser.deny(&location).await } else { browser.consent(&location).await };
            app.admin().patch(&connector.path(""), &patch).await.expect(200).done();
            let page = browser.get(&callback).await.expect_failure(409, "connector-changed");
            assert!(Home::find(&page).is_none() && !page.html.contains("app.example"), "{}", page.html);
            failed_for(&app, &started.flow_id, "connector_changed").await;
            let back = json!({ "return_urls": [valetkey_suite::RETURN_URL], "origins": [valetkey_suite::ORIGIN] });
            app.admin().patch(&connector.path(""), &back).await.expect(200).done();
        }
        nothing_came_of_it(&app).await;
    }

    // A connector is deleted and made anew with the attacker's endpoints: the old flow's answer finds no place; attack 1.
    async fn an_answer_to_a_deleted_connector_does_not_come_to_its_successor(app: TestApp) {
        let sink = Sink::start().await;
        let spec = ConnectorSpec::oauth2();
        let connector = app.connector(spec.clone()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        app.admin().delete(&connector.path("")).await.expect(200).done();
        let endpoints = json!({ "authorization": sink.url("/authorize"), "token": sink.url("/token") });
        let successor = app.connector(spec.with("endpoints", endpoints)).await;
        assert_ne!(successor.id, connector.id);
        let diverted = walk.callback.replace(&connector.id, &successor.id);
        walk.browser.get(&diverted).await.expect_failure(400, "callback-invalid");
        super::refused_for(&app, &walk.started.flow_id, "wrong_connector").await;
        let page = walk.browser.get(&walk.callback).await.expect_failure(409, "connector-changed");
        assert!(Home::find(&page).is_none());
        // The deletion has ended the flow.
        super::refused_for(&app, &walk.started.flow_id, "already_used").await;
        nothing_came_of_it(&app).await;
        assert!(sink.seen().is_empty());
    }

    // Deleted while the code is redeemed: what arrives is taken back at the provider; attack 25.
    async fn tokens_that_arrive_for_a_deleted_connector_are_taken_back(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let home = walk.browser.come_home(&walk.callback).await;
        app.provider().inject(FaultRule::token(Fault::HoldUntilReleased { gate: "redeem".to_owned() }));
        let meanwhile = async {
            assert!(app.provider().wait_until_held("redeem").await);
            app.admin().delete(&connector.path("")).await.expect(200).done();
            app.provider().release("redeem");
        };
        let (finished, ()) = tokio::join!(app.finish(&connector, &home, "u-1"), meanwhile);
        finished.expect_problem(409, "flow-failed").done();
        app.settle().await;
        assert!(app.provider().grants_of(&connector.client_id, "u-1").iter().all(|grant| !grant.alive));
        assert_eq!(app.number("SELECT CAST(COUNT(*) AS BIGINT) FROM connections WHERE status = 'active'").await, 0);
    }
}
