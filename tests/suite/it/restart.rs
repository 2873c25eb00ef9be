//! A server that is stopped and started on the same data: everything goes on where it stood.

use std::time::Duration;

use serde_json::json;
use valetkey_suite::{
    Browser, ConnectorSpec, Home, Setup, TestApp, Work, engine_tests,
    extra::{Doomed, text_of},
    sandbox::{Fault, FaultRule, Rotation},
};

/// An address that stays the same although the port of a test's server does not.
const PUBLIC: &str = "http://127.0.0.1:1";

fn at_public(setup: Setup) -> Setup {
    setup.config(|config| config.server.public_url = Some(PUBLIC.parse().expect("an address")))
}

/// Opens a start link as the page's script does; the provider's address.
async fn open(app: &TestApp, browser: &Browser, start_url: &str) -> String {
    let here = start_url.replace(PUBLIC, &app.base_url());
    browser.get(&here).await.expect(200);
    let request =
        browser.request(reqwest::Method::POST, &here).header("accept", "application/json").header("origin", PUBLIC);
    let page = browser.send(request).await.expect(200);
    let answer: serde_json::Value = serde_json::from_str(&page.html).expect("JSON");
    text_of(&answer["location"])
}

async fn come_home(app: &TestApp, browser: &Browser, callback: &str) -> Home {
    browser.come_home(&callback.replace(PUBLIC, &app.base_url())).await
}

engine_tests! {
    async fn connections_and_keys_go_on(app: TestApp) {
        let mut app = app;
        let connector = app.connector(ConnectorSpec::oidc().rotation(Rotation::Strict)).await;
        let connection = app.connect_user(&connector, "u-1").await;
        let id = text_of(&connection["id"]);
        let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
        let body = json!({ "user_id": "u-1" });
        let before = app.caller(&key).post(&connector.path("/token"), &body).await.expect(200);
        let shown = app.connection(&id).await;
        app.restart().await;
        let after = app.caller(&key).post(&connector.path("/token"), &body).await.expect(200);
        assert_eq!((&after.json["access_token"], &after.json["generation"]), (&before.json["access_token"], &json!(1)));
        let mut again = app.connection(&id).await;
        again["last_used_at"] = shown["last_used_at"].clone();
        assert_eq!(again, shown);
        assert_eq!(app.admin().get(&connector.path("")).await.expect(200).json["version"], connector.json["version"]);
        app.advance_to_due(&id).await;
        app.run(Work::Refresh).await;
        assert_eq!(app.caller(&key).post(&connector.path("/token"), &body).await.expect(200).json["generation"], 2);
    }

    async fn flows_in_mid_air_go_on(app: TestApp, setup = at_public) {
        let mut app = app;
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let spec = |person: &str| connector.redirect(person);
        let unopened = app.start_flow(&connector, &spec("u-1")).await;
        let at_provider = app.start_flow(&connector, &spec("u-2")).await;
        let at_home = app.start_flow(&connector, &spec("u-3")).await;
        let browsers = [app.browser("u-1"), app.browser("u-2"), app.browser("u-3")];
        let location = open(&app, &browsers[1], &at_provider.start_url).await;
        let callback = browsers[2].consent(&open(&app, &browsers[2], &at_home.start_url).await).await;
        let brought = come_home(&app, &browsers[2], &callback).await;

        app.restart().await;
        // Cookies go by host, so the browsers have them still.
        let location_of_first = open(&app, &browsers[0], &unopened.start_url).await;
        let callback = browsers[0].consent(&location_of_first).await;
        let home = come_home(&app, &browsers[0], &callback).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
        let callback = browsers[1].consent(&location).await;
        let home = come_home(&app, &browsers[1], &callback).await;
        app.finish(&connector, &home, "u-2").await.expect(200).done();
        app.finish(&connector, &brought, "u-3").await.expect(200).done();
        // And what was used up before the restart stays used up.
        browsers[2].get(&callback.replace(PUBLIC, &app.base_url())).await.expect_failure(200, "already-finished");
        for user in ["u-1", "u-2", "u-3"] {
            app.fetch(&connector, user).await.expect(200).done();
        }
    }

    async fn what_was_taken_back_stays_taken_back(app: TestApp) {
        let mut app = app;
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let seeded = app.seed_import(&connector, &["u-1", "u-2"]).await;
        let made = app.admin().post("/v1/keys", &json!({ "name": "K", "roles": ["operator"] })).await.expect(201);
        app.admin().delete(&format!("/v1/keys/{}", made.text_of("id"))).await.expect(200).done();
        app.operator().delete(&format!("/v1/connections/{}", seeded[0].connection_id)).await.expect(200).done();
        let cancelled = app.start_flow(&connector, &connector.redirect("u-3")).await;
        let path = format!("/v1/flows/{}/cancel", cancelled.flow_id);
        app.application().post(&path, &json!({})).await.expect(204).done();
        app.restart().await;
        app.fetch(&connector, "u-1").await.expect_problem(404, "connection-not-found").done();
        app.caller(&made.text_of("key")).get("/v1/audit").await.expect_problem(401, "unauthenticated").done();
        assert_eq!(app.flow_status(&connector, &cancelled.flow_id).await.0, "cancelled");
        app.settle().await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["status"], "revoked");
        app.fetch(&connector, "u-2").await.expect(200).done();
    }

    async fn open_circuits_and_pauses_go_on(app: TestApp) {
        let mut app = app;
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        app.seed_import(&connector, &["u-1"]).await;
        app.provider().update_client(&connector.client_id, |client| client.secrets = vec!["another".to_owned()]).expect("a client");
        app.advance(Duration::from_secs(3_601));
        app.fetch(&connector, "u-1").await.expect_problem(503, "client-refused").done();
        app.restart().await;
        app.fetch(&connector, "u-1").await.expect_problem(503, "client-refused").done();
        assert_eq!(app.refreshes(&connector).len(), 1, "a restart is no reason to try again");
    }

    async fn a_stop_waits_for_what_is_at_a_provider(app: TestApp) {
        let mut app = app;
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let client = app.connector_client(&connector.id).await;
        app.advance(Duration::from_secs(3_601));
        app.provider().inject(FaultRule::refresh(Fault::HoldUntilReleased { gate: "answer".to_owned() }));
        let path = connector.path("/token");
        let caller = tokio::spawn(async move { client.try_post(&path, &json!({ "user_id": "u-1" })).await });
        assert!(app.provider().wait_until_held("answer").await);
        let provider = app.provider();
        let (stopped, ()) = tokio::join!(app.stop(), async move {
            // The stop has begun once it waits; only then does the provider answer.
            tokio::task::yield_now().await;
            provider.release("answer");
        });
        assert!(stopped, "nothing was left unfinished");
        assert_eq!(caller.await.expect("it ends"), Some(200), "the caller was answered");
        app.restart().await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["generation"], 2);
        assert_eq!(app.number("SELECT COUNT(*) FROM attempts WHERE state = 'settled'").await, 1);
    }

    async fn a_stop_waits_for_a_refresh_that_nobody_waits_for(app: TestApp) {
        let mut app = app;
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let client = app.connector_client(&connector.id).await;
        app.advance(Duration::from_secs(3_601));
        app.provider().inject(FaultRule::refresh(Fault::HoldUntilReleased { gate: "answer".to_owned() }));
        let path = connector.path("/token");
        let caller = tokio::spawn(async move { client.try_post(&path, &json!({ "user_id": "u-1" })).await });
        assert!(app.provider().wait_until_held("answer").await);
        caller.abort();
        assert!(caller.await.is_err(), "the caller hung up");
        let provider = app.provider();
        let mut stopping = Box::pin(app.stop());
        let early = tokio::time::timeout(Duration::from_millis(300), &mut stopping).await;
        assert!(early.is_err(), "it stopped while a refresh was at the provider");
        provider.release("answer");
        assert!(stopping.await, "nothing was left unfinished");
        app.restart().await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["generation"], 2);
    }

    async fn a_server_that_died_leaves_nothing_that_keeps_the_next_from_starting(app: TestApp) {
        let mut app = app;
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        app.seed_import(&connector, &["u-1"]).await;
        let key = app.api_key(&["admin"], None).await;
        app.stop().await;
        for number in 0..3 {
            let doomed = Doomed::start(&app).await;
            let new = json!({ "name": format!("K {number}"), "roles": ["app"] });
            doomed.caller(&key).post("/v1/keys", &new).await.expect(201).done();
            doomed.kill().await;
        }
        app.restart().await;
        let keys = app.admin().get("/v1/keys?limit=200").await.expect(200).text;
        assert!((0..3).all(|number| keys.contains(&format!("\"K {number}\""))), "what was answered was stored: {keys}");
        app.fetch(&connector, "u-1").await.expect(200).done();
    }
}
