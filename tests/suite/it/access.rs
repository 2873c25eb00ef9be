//! The token call: its five answers, and that a token that is valid is never withheld.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::json;
use valetkey_suite::{
    Answer, Client, ConnectorSpec, ORIGIN, RETURN_URL, Setup, TestApp, TestConnector, engine_tests,
    sandbox::{ExpiresIn, Fault, FaultRule, Rotation},
};

/// A call with a caller's own body.
async fn ask(client: &Client, connector: &TestConnector, body: serde_json::Value) -> Answer {
    client.post(&connector.path("/token"), &body).await
}

/// A flow to offer.
fn start() -> serde_json::Value {
    json!({ "mode": "popup", "return_url": RETURN_URL, "origin": ORIGIN })
}

/// The start link that a refusal carries.
#[track_caller]
fn offered(answer: &Answer) -> &str {
    answer.json["start"]["start_url"].as_str().unwrap_or_else(|| panic!("no flow is offered: {}", answer.text))
}

/// A key that fetches tokens and starts flows.
async fn agent(app: &TestApp, connector: &TestConnector) -> Client {
    app.key(&["connector", "app"], Some(&[&connector.id]), "default").await
}

engine_tests! {
    async fn a_fresh_token_is_handed_out_with_its_honest_life(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let connection = app.connect_user(&connector, "u-1").await;
        let answer = app.fetch(&connector, "u-1").await.expect(200);
        assert_eq!(answer.json["connection_id"], connection["id"]);
        assert_eq!(answer.json["token_type"], "Bearer");
        assert_eq!(answer.json["generation"], 1);
        assert_eq!(answer.json["scopes"], json!(["openid", "read"]));
        assert_eq!(answer.json["expires_at"], connection["expires_at"]);
        let life = answer.json["expires_in"].as_u64().unwrap();
        assert!((3590..=3600).contains(&life), "{life}");
        let token = answer.text_of("access_token");
        assert!(app.provider().is_access_token_live(&token));
        let digest = data_encoding::BASE64.encode(&valetkey_core::sha256(token.as_bytes()));
        assert_eq!(answer.json["fingerprint"], digest);
        assert_eq!(answer.header("cache-control"), "no-store");
        app.advance(Duration::from_secs(1000));
        let later = app.fetch(&connector, "u-1").await.expect(200).json["expires_in"].as_u64().unwrap();
        assert!((2590..=2600).contains(&later), "{later}");
        assert_eq!(app.provider().token_requests().len(), 1, "a fresh token costs no request");
    }

    async fn nobody_has_connected(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let answer = app.fetch(&connector, "u-1").await.expect_problem(404, "connection-not-found");
        assert!(answer.json.get("start").is_none());
        app.connect_user(&connector, "u-1").await;
        app.fetch(&connector, "U-1").await.expect_problem(404, "connection-not-found").done();
    }

    async fn a_revoked_connection_counts_as_none(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        let path = connector.path("/disconnect");
        app.application().post(&path, &json!({ "user_id": "u-1" })).await.expect(200).done();
        app.fetch(&connector, "u-1").await.expect_problem(404, "connection-not-found").done();
    }

    async fn a_dead_grant_asks_for_its_owner(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().rotation(Rotation::NonRotating)).await;
        app.connect_user(&connector, "u-1").await;
        app.provider().revoke_grants_by_user(&connector.client_id, "u-1");
        app.advance(Duration::from_secs(3601));
        let answer = app.fetch(&connector, "u-1").await.expect_problem(409, "reconnect-required");
        assert_eq!(answer.json["reason"], "grant_revoked");
        assert!(answer.json["since"].is_string());
        let before = app.provider().token_requests().len();
        app.fetch(&connector, "u-1").await.expect_problem(409, "reconnect-required").done();
        assert_eq!(app.provider().token_requests().len(), before, "a dead grant is not asked again");
        app.connect_user(&connector, "u-1").await;
        app.fetch(&connector, "u-1").await.expect(200).done();
    }

    async fn scopes_are_checked_and_never_narrowed(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        let answer = app.fetch_with(&connector, "u-1", json!({ "scopes": ["read", "write", "admin"] })).await;
        assert_eq!(answer.expect_problem(403, "scopes-missing").json["missing_scopes"], json!(["write", "admin"]));
        let answer = app.fetch_with(&connector, "u-1", json!({ "scopes": ["read"] })).await.expect(200);
        assert_eq!(answer.json["scopes"], json!(["openid", "read"]));
    }

    async fn a_provider_that_is_down_is_a_503_once_the_token_has_ended(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().rotation(Rotation::NonRotating)).await;
        app.connect_user(&connector, "u-1").await;
        app.advance(Duration::from_secs(3601));
        app.provider().set_down(true);
        let answer = app.fetch(&connector, "u-1").await.expect_problem(503, "provider-unavailable");
        assert!((1..=900).contains(&answer.retry_after()));
        app.provider().set_down(false);
        app.advance(Duration::from_secs(1000));
        let answer = app.fetch(&connector, "u-1").await.expect(200);
        assert_eq!(answer.json["generation"], 2);
    }

    async fn an_ended_token_is_refreshed_for_its_next_caller(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().rotation(Rotation::Strict)).await;
        app.connect_user(&connector, "u-1").await;
        let first = app.fetch(&connector, "u-1").await.expect(200);
        app.advance(Duration::from_secs(3601));
        let second = app.fetch(&connector, "u-1").await.expect(200);
        assert_ne!(second.json["access_token"], first.json["access_token"]);
        assert_eq!(second.json["generation"], 2);
        assert!(second.json["expires_in"].as_u64().unwrap() > 3500);
        assert!(app.provider().is_access_token_live(&second.text_of("access_token")));
    }

    async fn callers_ask_for_the_life_they_need(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().rotation(Rotation::Strict)).await;
        app.connect_user(&connector, "u-1").await;
        // 1500 s are left: enough for most.
        app.advance(Duration::from_secs(2100));
        let answer = app.fetch_with(&connector, "u-1", json!({ "min_ttl": 1400 })).await.expect(200);
        assert_eq!(answer.json["generation"], 1);
        // At most 30 % of the actual life counts: 1080 s.
        let answer = app.fetch_with(&connector, "u-1", json!({ "min_ttl": 3600 })).await.expect(200);
        assert_eq!(answer.json["generation"], 1);
        app.advance(Duration::from_secs(440));
        let answer = app.fetch_with(&connector, "u-1", json!({ "min_ttl": 1000 })).await.expect(200);
        assert_eq!(answer.json["generation"], 1);
        let answer = app.fetch_with(&connector, "u-1", json!({ "min_ttl": 3600 })).await.expect(200);
        assert_eq!(answer.json["generation"], 2);
    }

    async fn without_min_ttl_a_minute_is_the_least(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().rotation(Rotation::Strict)).await;
        app.connect_user(&connector, "u-1").await;
        app.provider().inject(FaultRule::refresh(Fault::HoldUntilReleased { gate: "refresh".to_owned() }));
        // The refresh is long overdue: callers may start it, and none of these waits for it.
        app.advance(Duration::from_secs(3530));
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 1);
        app.advance(Duration::from_secs(20));
        let whatever_is_left = json!({ "min_ttl": 0 });
        assert_eq!(app.fetch_with(&connector, "u-1", whatever_is_left).await.expect(200).json["generation"], 1);
        let (answer, ()) = tokio::join!(app.fetch(&connector, "u-1"), async {
            assert!(app.provider().wait_until_held("refresh").await);
            app.provider().release("refresh");
        });
        assert_eq!(answer.expect(200).json["generation"], 2);
    }

    async fn a_valid_token_is_never_withheld_because_a_refresh_fails(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().rotation(Rotation::NonRotating)).await;
        app.seed_import(&connector, &["u-1", "u-2", "u-3", "u-4", "u-5"]).await;
        app.advance(Duration::from_secs(3560));
        for (user, fault) in [
            ("u-1", Fault::Status { code: 500, body: String::new(), headers: BTreeMap::default() }),
            ("u-2", Fault::ResetBeforeAnswer),
            ("u-3", Fault::NotJson),
            ("u-4", Fault::OAuthError { status: 401, error: "invalid_client".to_owned() }),
            ("u-5", Fault::RateLimited { retry_after: valetkey_suite::sandbox::RetryAfter::Seconds(30) }),
        ] {
            app.provider().inject(FaultRule::refresh(fault));
            let answer = app.fetch(&connector, user).await.expect(200);
            assert_eq!(answer.json["generation"], 1, "{user}");
            let left = answer.json["expires_in"].as_u64().unwrap();
            assert!((20..=40).contains(&left), "{user}: {left}");
            assert!(app.provider().is_access_token_live(&answer.text_of("access_token")), "{user}");
            app.provider().clear_faults();
        }
    }

    async fn a_caller_waits_at_most_five_seconds(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().rotation(Rotation::NonRotating)).await;
        app.seed_import(&connector, &["u-1"]).await;
        app.advance(Duration::from_secs(3560));
        app.provider().inject(FaultRule::refresh(Fault::HoldUntilReleased { gate: "refresh".to_owned() }));
        let began = Instant::now();
        let answer = app.fetch(&connector, "u-1").await.expect(200);
        let took = began.elapsed();
        assert_eq!(answer.json["generation"], 1);
        assert!(took < Duration::from_secs(7), "{took:?}");
        assert!(took > Duration::from_secs(4), "the refresh was waited for: {took:?}");
        app.provider().release("refresh");
    }

    async fn of_many_callers_one_refreshes_and_all_get_its_token(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().rotation(Rotation::StrictWide)).await;
        app.seed_import(&connector, &["u-1"]).await;
        let client = app.connector_client(&connector.id).await;
        app.advance(Duration::from_secs(3601));
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..30 {
            let (client, connector) = (client.clone(), connector.clone());
            calls.spawn(async move { ask(&client, &connector, json!({ "user_id": "u-1" })).await });
        }
        let answers = calls.join_all().await;
        let token = answers[0].json["access_token"].clone();
        for answer in answers {
            assert_eq!(answer.expect(200).json["access_token"], token);
        }
        assert_eq!(app.provider().token_requests().len(), 1);
    }

    async fn a_rejected_token_is_replaced_once(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().rotation(Rotation::Strict)).await;
        app.connect_user(&connector, "u-1").await;
        let first = app.fetch(&connector, "u-1").await.expect(200);
        app.provider().end_access_token(&first.text_of("access_token"));
        let rejected = json!({ "rejected": first.json["fingerprint"] });
        let second = app.fetch_with(&connector, "u-1", rejected.clone()).await.expect(200);
        assert_eq!(second.json["generation"], 2);
        assert!(app.provider().is_access_token_live(&second.text_of("access_token")));
        // Whoever still holds the first one is given the newer one, without another refresh.
        let third = app.fetch_with(&connector, "u-1", rejected).await.expect(200);
        assert_eq!(third.json["access_token"], second.json["access_token"]);
        assert_eq!(app.provider().token_requests().len(), 2);
    }

    async fn a_token_can_be_rejected_once_a_minute(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().rotation(Rotation::Strict)).await;
        app.connect_user(&connector, "u-1").await;
        let mut answer = app.fetch(&connector, "u-1").await.expect(200);
        answer = app.fetch_with(&connector, "u-1", json!({ "rejected": answer.json["fingerprint"] })).await.expect(200);
        assert_eq!(answer.json["generation"], 2);
        let again = json!({ "rejected": answer.json["fingerprint"] });
        let refused =
            app.fetch_with(&connector, "u-1", again.clone()).await.expect_problem(503, "provider-unavailable");
        assert!((1..=60).contains(&refused.retry_after()));
        assert_eq!(app.fetch(&connector, "u-1").await.expect(200).json["generation"], 2, "other callers are served");
        app.advance(Duration::from_secs(61));
        assert_eq!(app.fetch_with(&connector, "u-1", again).await.expect(200).json["generation"], 3);
    }

    async fn a_rejection_of_another_token_changes_nothing(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.connect_user(&connector, "u-1").await;
        let other = data_encoding::BASE64.encode(&[7; 32]);
        let answer = app.fetch_with(&connector, "u-1", json!({ "rejected": other })).await.expect(200);
        assert_eq!(answer.json["generation"], 1);
        let token = answer.text_of("access_token");
        let refused = app.fetch_with(&connector, "u-1", json!({ "rejected": token })).await;
        assert!(!refused.expect_problem(422, "invalid-request").text.contains(&token));
    }

    async fn a_rejected_token_that_nothing_can_refresh_is_told_to_its_caller_alone(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().client(|client| client.issue_refresh_token = false)).await;
        let connection = app.connect_user(&connector, "u-1").await;
        let first = app.fetch(&connector, "u-1").await.expect(200);
        let answer = app.fetch_with(&connector, "u-1", json!({ "rejected": first.json["fingerprint"] })).await;
        answer.expect_problem(409, "rejected-not-refreshable").done();
        let id = connection["id"].as_str().unwrap();
        let shown = app.operator().get(&format!("/v1/connections/{id}")).await.expect(200);
        assert_eq!(shown.json["status"], "active");
        app.fetch(&connector, "u-1").await.expect(200).done();
        app.advance(Duration::from_secs(3601));
        let answer = app.fetch(&connector, "u-1").await.expect_problem(409, "reconnect-required");
        assert_eq!(answer.json["reason"], "no_refresh_token");
    }

    async fn a_token_without_a_known_end_is_served_until_it_is_rejected(app: TestApp) {
        let spec = ConnectorSpec::oidc().rotation(Rotation::NonRotating).client(|client| {
            client.expires_in = ExpiresIn::Absent;
            client.access_life_seconds = None;
        });
        let connector = app.connector(spec).await;
        app.connect_user(&connector, "u-1").await;
        app.advance(Duration::from_secs(300_000));
        let answer = app.fetch(&connector, "u-1").await.expect(200);
        assert_eq!((&answer.json["expires_at"], &answer.json["expires_in"]), (&json!(null), &json!(null)));
        let answer =
            app.fetch_with(&connector, "u-1", json!({ "rejected": answer.json["fingerprint"] })).await.expect(200);
        assert_eq!(answer.json["generation"], 2);
    }

    async fn a_refusal_carries_a_flow_for_who_may_start_one(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let agent = agent(&app, &connector).await;
        let answer = ask(&agent, &connector, json!({ "user_id": "u-1", "start": start() })).await;
        let answer = answer.expect_problem(404, "connection-not-found");
        let home = app.browser("u-1").walk(offered(&answer)).await;
        assert_eq!(home.flow_id, answer.json["start"]["flow_id"]);
        app.finish(&connector, &home, "u-1").await.expect(200).done();

        let more = json!({ "user_id": "u-1", "scopes": ["write"], "start": start() });
        let answer = ask(&agent, &connector, more.clone()).await.expect_problem(403, "scopes-missing");
        let home = app.browser("u-1").walk(offered(&answer)).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
        let answer = ask(&agent, &connector, more).await.expect(200);
        assert_eq!(answer.json["scopes"], json!(["openid", "read", "write"]));

        app.provider().revoke_grants_by_user(&connector.client_id, "u-1");
        app.advance(Duration::from_secs(3601));
        let answer = ask(&agent, &connector, json!({ "user_id": "u-1", "start": start() })).await;
        offered(&answer.expect_problem(409, "reconnect-required"));
    }

    async fn a_refusal_comes_without_a_flow_for_who_may_not_start_one_and_above_the_cap(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.limits.starts_per_minute_and_user = 1),
    ) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let wanted = json!({ "user_id": "u-1", "start": start() });
        let plain = app.connector_client(&connector.id).await;
        let answer = ask(&plain, &connector, wanted.clone()).await.expect_problem(404, "connection-not-found");
        assert!(answer.json.get("start").is_none());
        let agent = agent(&app, &connector).await;
        offered(&ask(&agent, &connector, wanted.clone()).await.expect_problem(404, "connection-not-found"));
        let answer = ask(&agent, &connector, wanted).await.expect_problem(404, "connection-not-found");
        assert!(answer.json.get("start").is_none());
        let elsewhere =
            json!({ "user_id": "u-2", "start": { "mode": "redirect", "return_url": "https://evil.example/" } });
        let answer = ask(&agent, &connector, elsewhere).await.expect_problem(404, "connection-not-found");
        assert!(answer.json.get("start").is_none());
    }

    async fn a_user_is_named_where_there_are_users_and_only_there(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        app.fetch(&connector, "").await.expect_fault("invalid-request", "user_id").done();
        let shared = app.connector(ConnectorSpec::oidc().shared()).await;
        app.connect_user(&shared, "admin-1").await;
        app.fetch(&shared, "u-1").await.expect_fault("invalid-request", "user_id").done();
        app.fetch(&shared, "").await.expect(200).done();
    }

    async fn client_credentials_connect_with_the_first_call(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().client_credentials().scopes(&["read"])).await;
        let client = app.connector_client(&connector.id).await;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (client, connector) = (client.clone(), connector.clone());
            calls.spawn(async move { ask(&client, &connector, json!({})).await });
        }
        let answers = calls.join_all().await;
        let token = answers[0].clone().expect(200).text_of("access_token");
        for answer in &answers {
            assert_eq!(answer.json["access_token"], token.as_str(), "{}", answer.text);
        }
        assert!(app.provider().is_access_token_live(&token));
        assert_eq!(app.provider().token_requests().len(), 1);
        assert_eq!(app.number("SELECT CAST(COUNT(*) AS BIGINT) FROM connections").await, 1);

        app.advance(Duration::from_secs(3601));
        let second = ask(&client, &connector, json!({})).await.expect(200);
        assert_eq!(second.json["generation"], answers[0].json["generation"].as_i64().unwrap() + 1);
        let requests = app.provider().token_requests();
        assert!(requests.iter().all(|event| event.grant_type.as_deref() == Some("client_credentials")));
    }

    async fn client_credentials_never_ask_for_an_owner(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc().client_credentials().scopes(&["read"])).await;
        app.provider().inject(FaultRule::token(Fault::OAuthError { status: 400, error: "invalid_grant".to_owned() }));
        app.fetch(&connector, "").await.expect(503).done();
        app.advance(Duration::from_secs(1000));
        let answer = app.fetch(&connector, "").await.expect(200);
        let rejected = json!({ "rejected": answer.json["fingerprint"] });
        let newer = app.fetch_with(&connector, "", rejected).await.expect(200);
        assert_ne!(newer.json["access_token"], answer.json["access_token"]);
    }

    async fn every_issue_is_audited_by_fingerprint_in_groups(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let connection = app.connect_user(&connector, "u-1").await;
        let mut tokens = Vec::new();
        for _ in 0..3 {
            tokens.push(app.fetch(&connector, "u-1").await.expect(200));
        }
        app.run(valetkey_suite::Work::Issues).await;
        let audit = app.operator().get("/v1/audit?action=token.issued").await.expect(200);
        let events = audit.json["items"].as_array().unwrap();
        assert!(events.iter().all(|event| event["connection_id"] == connection["id"]), "{}", audit.text);
        assert!(audit.text.contains(&tokens[0].text_of("fingerprint")), "{}", audit.text);
        assert!(!audit.text.contains(&tokens[0].text_of("access_token")));
        let id = connection["id"].as_str().unwrap();
        let shown = app.operator().get(&format!("/v1/connections/{id}")).await.expect(200);
        assert!(shown.json["last_used_at"].is_string());
    }
}
