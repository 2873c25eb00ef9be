//! Redirects of our own calls (RFC 9700, section 4.12; google/adk-js#465 and windmill-labs/windmill#9385 in kind): a provider
//! that sends a call elsewhere, or whose server was made to, ends that call. Nothing goes on to where it points, neither the
//! body again (307, 308) nor an empty request (301, 302, 303), and nothing that is answered there is believed; attack 13.

use std::time::Duration;

use serde_json::json;
use valetkey_suite::{ConnectorSpec, TestApp, Work, engine_tests};

use super::{Reply, Sink, Walk};

const STATUSES: [u16; 6] = [301, 302, 303, 305, 307, 308];

/// What would do for any call, if somebody went there.
fn bait(sink: &Sink) {
    let tokens = json!({ "access_token": "sbx_at_of_the_attacker", "token_type": "Bearer", "expires_in": 3600 });
    sink.reply("/taken", Reply::Json(tokens.to_string()));
}

/// A connector whose token and revocation endpoints are at `provider`; its consent page is the honest one.
fn spec(app: &TestApp, provider: &Sink) -> ConnectorSpec {
    ConnectorSpec::oauth2().with(
        "endpoints",
        json!({
            "authorization": format!("{}/authorize", app.provider_url()),
            "token": provider.url("/token"),
            "revocation": provider.url("/revoke"),
        }),
    )
}

engine_tests! {
    // RFC 9700, section 4.12: code, verifier and client secret, sent again by 307 and 308; attacks 1 and 13.
    async fn the_redemption_of_a_code_is_not_redirected(app: TestApp) {
        let (sink, provider) = (Sink::start().await, Sink::start().await);
        bait(&sink);
        let connector = app.connector(spec(&app, &provider)).await;
        for (asked, status) in (1..).zip(STATUSES) {
            provider.reply("/token", Reply::Elsewhere(status, sink.url("/taken")));
            let person = format!("u-{status}");
            let walk = Walk::of(&app, &connector, &person).await;
            let home = walk.browser.come_home(&walk.callback).await;
            app.finish(&connector, &home, &person).await.expect_problem(409, "flow-failed").done();
            assert_eq!(provider.seen_at("/token").len(), asked, "{status}: asked once");
            app.fetch(&connector, &person).await.expect_problem(404, "connection-not-found").done();
        }
        assert!(sink.seen().is_empty(), "{:?}", sink.seen());
    }

    // RFC 9700, section 4.12: a refresh token and a client secret; attack 13.
    async fn refreshes_and_client_credentials_are_not_redirected(app: TestApp) {
        let (sink, provider) = (Sink::start().await, Sink::start().await);
        bait(&sink);
        for status in STATUSES {
            provider.reply("/token", Reply::Elsewhere(status, sink.url("/taken")));
            let connector = app.connector(spec(&app, &provider)).await;
            let seeded = app.seed_import(&connector, &["u-1"]).await;
            let before = provider.seen_at("/token").len();
            app.advance(Duration::from_secs(3_500));
            app.run(Work::Refresh).await;
            assert!(provider.seen_at("/token").len() > before, "{status}: the refresh was sent");
            let generation = app.connection(&seeded[0].connection_id).await["generation"].clone();
            assert_eq!(generation, 1, "{status}: nothing new was stored");

            let machine = app.connector(spec(&app, &provider).client_credentials()).await;
            let before = provider.seen_at("/token").len();
            let answer = app.fetch(&machine, "").await;
            assert!(answer.status >= 400, "{status}: {}", answer.text);
            assert!(provider.seen_at("/token").len() > before, "{status}: a token was asked for");
        }
        assert!(sink.seen().is_empty(), "{:?}", sink.seen());
    }

    // RFC 9700, section 4.12: the tokens themselves; attacks 13 and 25.
    async fn revocations_are_not_redirected(app: TestApp) {
        let (sink, provider) = (Sink::start().await, Sink::start().await);
        bait(&sink);
        for status in STATUSES {
            provider.reply("/revoke", Reply::Elsewhere(status, sink.url("/taken")));
            let connector = app.connector(spec(&app, &provider)).await;
            let seeded = app.seed_import(&connector, &["u-1"]).await;
            let before = provider.seen_at("/revoke").len();
            let path = format!("/v1/connections/{}", seeded[0].connection_id);
            app.operator().delete(&path).await.expect(200).done();
            app.run(Work::Deliver).await;
            assert!(provider.seen_at("/revoke").len() > before, "{status}: the revocation was sent");
            let told = app.revocations(&seeded[0].connection_id).await;
            assert!(told.iter().all(|one| one["state"] != "confirmed"), "{status}: {told:?}");
        }
        assert!(sink.seen().is_empty(), "{:?}", sink.seen());
    }

    // RFC 8414, section 3.3, by a detour: a document of another host in the right name; attacks 6 and 13.
    async fn discovery_is_not_redirected(app: TestApp) {
        for status in STATUSES {
            let (sink, provider) = (Sink::start().await, Sink::start().await);
            // The document there speaks in the right name.
            sink.pose(&provider.url(""), &sink.url("/authorize"), &sink.url("/token"));
            for path in ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"] {
                provider.reply(path, Reply::Elsewhere(status, sink.url(path)));
            }
            let connector = app.connector(ConnectorSpec::oidc().with("issuer", json!(provider.url("")))).await;
            let refused = app.try_start(&connector, &connector.popup("u-1")).await;
            refused.expect_problem(503, "provider-unavailable").done();
            assert!(!provider.seen().is_empty(), "{status}: it was asked");
            assert!(sink.seen().is_empty(), "{status}: {:?}", sink.seen());
        }
    }
}
