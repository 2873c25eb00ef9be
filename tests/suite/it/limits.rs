//! Limits: each refuses with its own name and says when to come again, and none refuses anybody else.

use std::time::Duration;

use serde_json::json;
use valetkey_suite::{ConnectorSpec, Engine, Setup, TestApp, engine_tests, extra, run_test};

/// So many token calls at once; how many were served, and the refusals.
async fn calls(client: &valetkey_suite::Client, path: &str, count: usize) -> (usize, Vec<valetkey_suite::Answer>) {
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..count {
        let (client, path) = (client.clone(), path.to_owned());
        callers.spawn(async move { client.post(&path, &json!({ "user_id": "u-1" })).await });
    }
    let (served, refused): (Vec<_>, Vec<_>) =
        callers.join_all().await.into_iter().partition(|answer| answer.status == 200);
    (served.len(), refused)
}

engine_tests! {
    async fn a_key_has_its_token_calls_a_second(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.calls.token_calls_per_second_and_key = 10),
    ) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        app.seed_import(&connector, &["u-1"]).await;
        let path = connector.path("/token");
        let busy = app.connector_client(&connector.id).await;
        let (served, refused) = calls(&busy, &path, 60).await;
        assert!((10..40).contains(&served), "{served} were served");
        for answer in refused {
            let answer = answer.expect_problem(429, "limit-reached");
            assert_eq!((&answer.json["limit"], answer.retry_after()), (&json!("token-calls"), 1));
        }
        app.fetch(&connector, "u-1").await.expect(200).done();
        app.advance(Duration::from_secs(1));
        busy.post(&path, &json!({ "user_id": "u-1" })).await.expect(200).done();
        let metrics = app.anonymous().get("/metrics").await.expect(200).text;
        assert!(metrics.contains("valetkey_limited_total{limit=\"token-calls\"}"), "{metrics}");
    }

    async fn a_key_that_is_wrong_uses_up_nobodys_quota(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.calls.token_calls_per_second_and_key = 3),
    ) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        app.seed_import(&connector, &["u-1"]).await;
        let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
        // Somebody who knows the key's id, which is no secret, and makes up the rest.
        let id = key.split('_').nth(1).expect("an id");
        let forged = format!("vk_{id}_{}", "0".repeat(59));
        for _ in 0..20 {
            let refused = app.caller(&forged).post(&connector.path("/token"), &json!({ "user_id": "u-1" })).await;
            refused.expect_problem(401, "unauthenticated").done();
        }
        app.caller(&key).post(&connector.path("/token"), &json!({ "user_id": "u-1" })).await.expect(200).done();
    }

    async fn a_user_starts_ten_flows_a_minute(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        for _ in 0..10 {
            app.start_flow(&connector, &connector.redirect("u-1")).await;
        }
        let refused = app.try_start(&connector, &connector.redirect("u-1")).await.expect_problem(429, "limit-reached");
        assert_eq!(refused.json["limit"], "starts");
        assert!(refused.retry_after() <= 60);
        app.start_flow(&connector, &connector.redirect("u-2")).await;
        app.advance(Duration::from_secs(61));
        app.start_flow(&connector, &connector.redirect("u-1")).await;
    }

    async fn a_user_starts_so_many_flows_an_hour(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.limits.starts_per_hour_and_user = 15),
    ) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let mut started = 0;
        for _ in 0..3 {
            for _ in 0..10 {
                let answer = app.try_start(&connector, &connector.redirect("u-1")).await;
                started += usize::from(answer.status == 201);
            }
            app.advance(Duration::from_secs(61));
        }
        assert!((15..=17).contains(&started), "{started}");
        app.start_flow(&connector, &connector.redirect("u-2")).await;
    }

    async fn open_flows_are_capped_and_old_ones_live(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| {
            config.limits.open_flows_per_user = 3;
            config.limits.open_flows_per_caller = 5;
            config.limits.open_flows_total = 7;
        }),
    ) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let first = app.start_flow(&connector, &connector.redirect("u-1")).await;
        for user in ["u-1", "u-1", "u-2", "u-2"] {
            app.start_flow(&connector, &connector.redirect(user)).await;
        }
        let path = connector.path("/flows");
        let other = app.key(&["app"], None, "default").await;
        let third = app.key(&["app"], None, "default").await;
        let capped = |answer: valetkey_suite::Answer| {
            let answer = answer.expect_problem(429, "limit-reached");
            assert_eq!(answer.json["limit"], "open-flows");
        };
        capped(other.post(&path, &connector.redirect("u-1")).await);
        capped(app.application().post(&path, &connector.redirect("u-3")).await);
        other.post(&path, &connector.redirect("u-2")).await.expect(201).done();
        other.post(&path, &connector.redirect("u-3")).await.expect(201).done();
        capped(third.post(&path, &connector.redirect("u-4")).await);
        // The flows that are there go on.
        let home = app.browser("u-1").walk(&first.start_url).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
        // One has ended: there is room for one.
        app.start_flow(&connector, &connector.redirect("u-1")).await;
        // So there is when lives are over.
        app.advance(Duration::from_secs(601));
        third.post(&path, &connector.redirect("u-4")).await.expect(201).done();
    }

    async fn callbacks_that_fail_their_checks_are_counted_by_address(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.calls.failing_callbacks_per_minute = 5),
    ) {
        let spec = ConnectorSpec::oauth2().client(|client| client.code_life_seconds = 600);
        let connector = app.connector(spec).await;
        let started = app.start_flow(&connector, &connector.redirect("u-1")).await;
        let browser = app.browser("u-1");
        let callback = browser.consent(&browser.open(&started.start_url).await).await;
        let stranger = app.browser("stranger");
        let made_up = app.url(&format!("/oauth/callback/{}?code=x&state=made-up", connector.id));
        for _ in 0..5 {
            stranger.get(&made_up).await.expect_failure(404, "link-not-found");
        }
        let refused = stranger.get(&made_up).await.expect_failure(429, "too-many-tries");
        assert!(!refused.header("retry-after").is_empty());
        // Everybody behind this address waits, and then all is well again.
        app.advance(Duration::from_secs(61));
        let home = browser.come_home(&callback).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }

    async fn what_a_stranger_says_of_their_own_address_is_not_believed(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.calls.failing_callbacks_per_minute = 5),
    ) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let made_up = app.url(&format!("/oauth/callback/{}?code=x&state=made-up", connector.id));
        let stranger = app.browser("stranger");
        for number in 0..8 {
            let request = stranger
                .request(reqwest::Method::GET, &made_up)
                .header("x-forwarded-for", format!("198.51.100.{number}"))
                .header("forwarded", format!("for=198.51.100.{number}"))
                .header("x-real-ip", format!("198.51.100.{number}"));
            let page = stranger.send(request).await;
            assert_eq!(page.status, if number < 5 { 404 } else { 429 }, "{number}");
        }
    }

    async fn callbacks_that_pass_are_not_counted(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.calls.failing_callbacks_per_minute = 2),
    ) {
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        for number in 0..5 {
            app.connect_user(&connector, &format!("u-{number}")).await;
        }
    }
}

/// The body of a test that needs replicas.
fn replicas<F: Future<Output = ()>>(setup: Setup, body: impl FnOnce(TestApp) -> F) {
    run_test(setup, body);
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn replicas_share_the_quota_of_starts() {
    replicas(Setup::on(Engine::Postgres), async |app| {
        let replica = app.replica().await;
        let connector = app.connector(ConnectorSpec::oauth2()).await;
        let key = app.api_key(&["app"], None).await;
        let (here, there) = (app.caller(&key), app.caller_at(&replica, &key));
        let mut started = 0;
        for _ in 0..8 {
            for client in [&here, &there] {
                let answer = client.post(&connector.path("/flows"), &connector.redirect("u-1")).await;
                started += usize::from(answer.status == 201);
            }
        }
        assert!((10..=11).contains(&started), "{started}");
        let none = extra::run_at(&replica, valetkey_suite::Work::Refresh).await;
        assert_eq!(none, "");
        assert!(replica.stop().await);
    });
}
