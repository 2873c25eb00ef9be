//! Parallel and replayed state (RFC 9700, section 4.7.1; librefang/librefang#5358): of many answers one is taken, a wrong
//! one takes nothing away, and what was used is used.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;
use valetkey_suite::{Browser, ConnectorSpec, Engine, Home, Page, Setup, engine_tests};

use super::{Walk, metric, nothing_came_of_it, param, refused_for, with_param};

/// Far more than a test's tries, where what is tested is not the limit.
fn patient(setup: Setup) -> Setup {
    setup.config(|config| config.calls.failing_callbacks_per_minute = 10_000)
}

/// A browser that kept the cookie which it was told to forget.
async fn again(browser: &Browser, cookie: &(String, String), address: &str) -> Page {
    let request = browser.request(Method::GET, address).header("cookie", format!("{}={}", cookie.0, cookie.1));
    browser.send(request).await
}

engine_tests! {
    // RFC 9700, section 4.7.1: the same answer a hundred times at once; attack 12.
    async fn of_a_hundred_callbacks_at_once_one_wins(app: TestApp, setup = patient) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let (browser, callback) = (Arc::new(walk.browser), walk.callback);
        let cookie = browser.cookie("vk_").unwrap();
        let mut calls = JoinSet::new();
        for _ in 0..100 {
            let (browser, callback, cookie) = (browser.clone(), callback.clone(), cookie.clone());
            calls.spawn(async move { again(&browser, &cookie, &callback).await });
        }
        let pages = calls.join_all().await;
        let handles: Vec<String> = pages.iter().filter_map(Home::find).filter_map(|home| home.handle).collect();
        assert_eq!(handles.len(), 1, "one of them wins");
        assert_eq!(pages.iter().filter(|page| page.status == 410).count(), 99, "the others are told that it was used");
        assert_eq!(metric(&app, "callbacks_refused", "reason=\"already_used\""), 99);
        refused_for(&app, &walk.started.flow_id, "already_used").await;
        let body = json!({ "handle": handles[0], "user_id": "u-1" });
        app.finish_with(&connector, &walk.started.flow_id, &body).await.expect(200).done();
        assert_eq!(app.provider().token_requests().len(), 1);
    }

    // The same, raced by fifty wrong browsers: eager consumption would let them lock the right one out; attack 12.
    async fn of_fifty_right_and_fifty_wrong_browsers_a_right_one_wins(app: TestApp, setup = patient) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let (right, wrong) = (Arc::new(walk.browser), Arc::new(app.browser("stranger")));
        let mut calls = JoinSet::new();
        for number in 0..100 {
            let browser = if number % 2 == 0 { wrong.clone() } else { right.clone() };
            let callback = walk.callback.clone();
            calls.spawn(async move { (number % 2 == 0, browser.get(&callback).await) });
        }
        let pages = calls.join_all().await;
        let won: Vec<bool> = pages
            .iter()
            .filter(|(_, page)| Home::find(page).is_some_and(|home| home.handle.is_some()))
            .map(|(is_wrong, _)| *is_wrong)
            .collect();
        assert_eq!(won, [false], "one winner, and a right one");
    }

    // Many codes under one state at once: one is kept, and it is redeemed with this flow's verifier alone; attacks 7, 12.
    async fn of_many_codes_under_one_state_one_is_kept(app: TestApp, setup = patient) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let browser = Arc::new(walk.browser);
        let cookie = browser.cookie("vk_").unwrap();
        let mut calls = JoinSet::new();
        for number in 0..30 {
            let (browser, cookie) = (browser.clone(), cookie.clone());
            let answer = with_param(&walk.callback, "code", Some(&format!("made-up-{number}")));
            calls.spawn(async move { again(&browser, &cookie, &answer).await });
        }
        let pages = calls.join_all().await;
        let handles: Vec<String> = pages.iter().filter_map(Home::find).filter_map(|home| home.handle).collect();
        assert_eq!(handles.len(), 1);
        let body = json!({ "handle": handles[0], "user_id": "u-1" });
        app.finish_with(&connector, &walk.started.flow_id, &body).await.expect_problem(409, "flow-failed").done();
        assert_eq!(app.provider().token_requests().len(), 1);
        assert!(app.provider().grants().is_empty());
    }

    // RFC 9700, section 4.7.1: replay at every later step, by the right browser and by a wrong one; attack 12.
    async fn a_state_that_was_used_is_refused_at_every_later_step(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let cookie = walk.cookie().unwrap();
        let home = walk.browser.come_home(&walk.callback).await;
        let stranger = app.browser("stranger");
        for (status, code) in [(410, "link-used"), (200, "already-finished")] {
            for page in [again(&walk.browser, &cookie, &walk.callback).await, stranger.get(&walk.callback).await] {
                assert!(Home::find(&page.expect_failure(status, code)).is_none());
            }
            app.finish(&connector, &home, "u-1").await.expect(200).done();
        }
        refused_for(&app, &walk.started.flow_id, "already_used").await;
        assert_eq!(app.provider().token_requests().len(), 1);
    }

    // A flow that is over: nothing of it comes back to life; attack 12.
    async fn an_answer_to_a_flow_that_is_over_brings_no_handle(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let cancelled = Walk::of(&app, &connector, "u-1").await;
        let expired = Walk::of(&app, &connector, "u-2").await;
        let path = format!("/v1/flows/{}/cancel", cancelled.started.flow_id);
        app.application().post(&path, &json!({})).await.expect(204).done();
        let stranger = app.browser("stranger");
        stranger.get(&cancelled.callback).await.expect_failure(200, "flow-cancelled");
        refused_for(&app, &cancelled.started.flow_id, "cancelled").await;
        cancelled.browser.come_home(&cancelled.callback).await.expect_code("flow-cancelled");
        app.advance(Duration::from_secs(601));
        let page = stranger.get(&expired.callback).await.expect_failure(410, "flow-expired");
        assert!(Home::find(&page).is_none(), "a stranger is not sent to the application");
        refused_for(&app, &expired.started.flow_id, "expired").await;
        expired.browser.come_home(&expired.callback).await.expect_code("flow-expired");
        nothing_came_of_it(&app).await;
    }

    // Two tabs of one start link: the newer opening counts, the older state finds nothing and burns nothing; attack 12.
    async fn of_two_tabs_the_newer_one_counts(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let older = browser.open(&started.start_url).await;
        let newer = browser.open(&started.start_url).await;
        assert_ne!(param(&older, "state"), param(&newer, "state"));
        let late = browser.consent(&older).await;
        browser.get(&late).await.expect_failure(404, "link-not-found");
        assert!(metric(&app, "callbacks_refused", "reason=\"unknown_state\"") > 0);
        nothing_came_of_it(&app).await;
        let callback = browser.consent(&newer).await;
        let home = browser.come_home(&callback).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
        browser.get(&late).await.expect_failure(404, "link-not-found");
    }

    // Two tabs with two flows of one connector: each keeps what is its own, whichever comes first; attacks 7 and 12.
    async fn two_flows_in_two_tabs_do_not_mix(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let first = app.start_flow(&connector, &connector.popup("u-1")).await;
        let mut labelled = connector.popup("u-1");
        labelled["label"] = json!("second");
        let second = app.start_flow(&connector, &labelled).await;
        let browser = app.browser("u-1");
        let (one, two) = (browser.open(&first.start_url).await, browser.open(&second.start_url).await);
        let two_home = { let callback = browser.consent_as(&two, "other-account").await; browser.come_home(&callback).await };
        let one_home = { let callback = browser.consent(&one).await; browser.come_home(&callback).await };
        // Handles that changed places are refused and burn nothing.
        for (flow, handle) in [(&first, two_home.handle()), (&second, one_home.handle())] {
            let body = json!({ "handle": handle, "user_id": "u-1" });
            app.finish_with(&connector, &flow.flow_id, &body).await.expect_problem(403, "handle-refused").done();
        }
        let one = app.finish(&connector, &one_home, "u-1").await.expect(200).json;
        let two = app.finish(&connector, &two_home, "u-1").await.expect(200).json;
        assert_eq!((&one["account"]["subject"], &one["label"]), (&json!("u-1"), &json!("")));
        assert_eq!((&two["account"]["subject"], &two["label"]), (&json!("other-account"), &json!("second")));
    }

    // One secret posing as another: ticket, state, cookie and handle are not exchangeable; attacks 7 and 12.
    async fn no_secret_of_a_flow_works_in_anothers_place(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let ticket = walk.started.start_url.rsplit('/').next().unwrap().to_owned();
        let (_, cookie) = walk.cookie().unwrap();
        let state = param(&walk.callback, "state");
        for wrong in [&ticket, &cookie, &walk.started.flow_id] {
            walk.browser.get(&with_param(&walk.callback, "state", Some(wrong))).await.expect_failure(404, "link-not-found");
        }
        for wrong in [&state, &cookie, &walk.started.flow_id] {
            walk.browser.get(&app.url(&format!("/connect/{wrong}"))).await.expect_failure(404, "link-not-found");
            walk.browser.post_start(&app.url(&format!("/connect/{wrong}"))).await.expect(404);
        }
        let home = walk.browser.come_home(&walk.callback).await;
        for wrong in [&ticket, &cookie, &state, &walk.started.flow_id] {
            let body = json!({ "handle": wrong, "user_id": "u-1" });
            app.finish_with(&connector, &home.flow_id, &body).await.expect_problem(403, "handle-refused").done();
        }
        assert_eq!(metric(&app, "callbacks_refused", "reason=\"unknown_link\""), 6);
        let with_handle = app.url(&format!("/connect/{}", home.handle()));
        walk.browser.get(&with_handle).await.expect_failure(404, "link-not-found");
        app.finish(&connector, &home, "u-1").await.expect(200).done();
    }

    // The same race across replicas, which share nothing but the database; attack 12.
    async fn of_a_hundred_callbacks_at_two_replicas_one_wins(app: TestApp, setup = patient) {
        if app.engine() != Engine::Postgres {
            // One process holds an SQLite database.
            return;
        }
        let replica = app.replica().await;
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let walk = Walk::of(&app, &connector, "u-1").await;
        let browser = Arc::new(walk.browser);
        let there = walk.callback.replace(&app.base_url(), &format!("http://{}", replica.local_addr()));
        let cookies = browser.cookie("vk_").unwrap();
        let mut calls = JoinSet::new();
        for number in 0..100 {
            let address = if number % 2 == 0 { walk.callback.clone() } else { there.clone() };
            let (browser, cookies) = (browser.clone(), cookies.clone());
            calls.spawn(async move { again(&browser, &cookies, &address).await });
        }
        let pages = calls.join_all().await;
        let handles: Vec<String> = pages.iter().filter_map(Home::find).filter_map(|home| home.handle).collect();
        assert_eq!(handles.len(), 1);
        let body = json!({ "handle": handles[0], "user_id": "u-1" });
        app.finish_with(&connector, &walk.started.flow_id, &body).await.expect(200).done();
        assert_eq!(app.provider().token_requests().len(), 1);
        assert!(replica.stop().await);
    }
}
