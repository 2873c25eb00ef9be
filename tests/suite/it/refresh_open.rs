//! Outcomes that nobody knows: a provider out of order kills no grant, except where presenting a token again would reach
//! sibling grants.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use valetkey_suite::{
    Canaries, ConnectorSpec, Seeded, Setup, TestApp, TestConnector, Work, engine_tests, plant,
    sandbox::{Commit, Fault, FaultRule, Rotation},
    witnessed,
};

/// Where a token of an hour is good for ten minutes more, and its last tenth has not begun.
const STRIKES_AT: Duration = Duration::from_secs(3_000);

const CLASSES: [Rotation; 6] = [
    Rotation::NonRotating,
    Rotation::Soft,
    Rotation::SoftUntilSuccessorUsed,
    Rotation::Grace { seconds: 30 },
    Rotation::Strict,
    Rotation::StrictWide,
];

fn status(code: u16) -> Fault {
    Fault::Status { code, body: "out of order".to_owned(), headers: BTreeMap::new() }
}

fn open() -> Vec<Fault> {
    vec![
        status(500),
        status(502),
        status(503),
        status(504),
        Fault::ResetBeforeAnswer,
        Fault::TruncatedBody,
        Fault::NotJson,
    ]
}

/// Asks for more life than is left: the current token is good, and a refresh is tried.
async fn ask(app: &TestApp, connector: &TestConnector, user: &str) -> serde_json::Value {
    app.fetch_with(connector, user, json!({ "min_ttl": 700 })).await.expect(200).json
}

fn strike(app: &TestApp, seeded: &Seeded, fault: &Fault) {
    app.provider().inject(FaultRule::refresh(fault.clone()).grant(&seeded.grant).commit(Commit::Never));
}

/// A second account of the same owner.
async fn sibling(app: &TestApp, connector: &TestConnector, user: &str) -> Seeded {
    app.seed_import_with(connector, &[user], |_, line| line["label"] = json!("second")).await.remove(0)
}

/// Each fault strikes a connection alone and one with a sibling; afterwards the provider is well again.
async fn survives(app: &TestApp, rotation: Rotation, faults: &[Fault]) {
    let connector = app.connector(ConnectorSpec::oauth2().rotation(rotation)).await;
    let users: Vec<String> = (0..2 * faults.len()).map(|number| format!("u-{number}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let seeded = app.seed_import(&connector, &users).await;
    let mut siblings = Vec::new();
    for user in &users[faults.len()..] {
        siblings.push(sibling(app, &connector, user).await);
    }
    app.advance(STRIKES_AT);
    for (number, seeded) in seeded.iter().enumerate() {
        let (fault, has_sibling) = (&faults[number % faults.len()], number >= faults.len());
        strike(app, seeded, fault);
        let told = format!("{rotation:?} {} {}", fault.name(), if has_sibling { "with a sibling" } else { "alone" });
        let served = ask(app, &connector, &seeded.user).await;
        assert_eq!(
            served["access_token"],
            seeded.access_token.as_str(),
            "{told}: the token that is good is handed out"
        );
        let connection = app.connection(&seeded.connection_id).await;
        let attempt = app.attempt(&seeded.connection_id).await;
        if rotation == Rotation::StrictWide && has_sibling {
            assert_eq!(connection["needs_reauth"]["reason"], "unknown_outcome", "{told}: {connection}");
            assert_eq!(attempt.state, "stopped", "{told}");
        } else {
            assert_eq!(
                (&connection["status"], &connection["refreshing"]),
                (&json!("active"), &json!("failing")),
                "{told}: {connection}"
            );
            assert_eq!(attempt.state, "repeat_allowed", "{told}");
            let wait = attempt.next_try_at.since(app.clock.now()).as_secs();
            let is_late = matches!(rotation, Rotation::Strict | Rotation::StrictWide);
            assert!(if is_late { (200..=240).contains(&wait) } else { wait <= 2 }, "{told}: repeated after {wait} s");
        }
    }
    // In the last tenth of the life every one of them is found out.
    for _ in 0..4 {
        app.advance(Duration::from_secs(70));
        app.run(Work::Refresh).await;
    }
    for (number, seeded) in seeded.iter().enumerate() {
        let connection = app.connection(&seeded.connection_id).await;
        let presented = app.provider().refreshes_for(&seeded.grant).len();
        if rotation == Rotation::StrictWide && number >= faults.len() {
            assert_eq!((presented, &connection["status"]), (1, &json!("needs_reauth")), "{rotation:?}: never again");
        } else {
            assert_eq!((presented, &connection["generation"]), (2, &json!(2)), "{rotation:?}: {connection}");
        }
    }
    for sibling in &siblings {
        let connection = app.connection(&sibling.connection_id).await;
        assert_eq!(connection["status"], "active", "{rotation:?}: {connection}");
        assert!(app.provider().grant(&sibling.grant).expect("known").alive, "{rotation:?}");
    }
    assert!(app.refreshes(&connector).iter().all(|event| !event.reuse), "{rotation:?}: nothing was presented in vain");
}

engine_tests! {
    async fn answers_out_of_order_kill_no_grant_but_one_whose_repetition_would_reach_siblings(app: TestApp) {
        for rotation in CLASSES {
            survives(&app, rotation, &open()).await;
        }
    }

    async fn silence_kills_no_grant_but_one_whose_repetition_would_reach_siblings(
        app: TestApp,
        setup = |setup: Setup| setup.deadline(Duration::from_millis(900)),
    ) {
        for rotation in [Rotation::NonRotating, Rotation::Strict, Rotation::StrictWide] {
            survives(&app, rotation, &[Fault::Hang]).await;
        }
    }

    async fn siblings_do_not_matter_where_it_is_known_that_nothing_was_processed(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::StrictWide)).await;
        let error = |status, error: &str| Fault::OAuthError { status, error: error.to_owned() };
        let faults = [error(400, "invalid_scope"), status(404), status(425), error(400, "a_word_of_their_own")];
        let users = ["u-0", "u-1", "u-2", "u-3"];
        let seeded = app.seed_import(&connector, &users).await;
        for user in users {
            sibling(&app, &connector, user).await;
        }
        app.advance(STRIKES_AT);
        for (fault, seeded) in faults.iter().zip(&seeded) {
            strike(&app, seeded, fault);
            ask(&app, &connector, &seeded.user).await;
            assert_eq!(app.connection(&seeded.connection_id).await["status"], "active", "{fault:?}");
            assert_eq!(app.attempt(&seeded.connection_id).await.state, "unsent", "{fault:?}");
        }
        app.advance(Duration::from_secs(5));
        app.run(Work::Refresh).await;
        for seeded in &seeded {
            assert_eq!(app.connection(&seeded.connection_id).await["generation"], 2);
        }
    }

    async fn siblings_do_not_matter_where_not_a_byte_was_sent(app: TestApp) {
        let base = app.provider_url().to_owned();
        let endpoints = json!({ "authorization": format!("{base}/authorize"), "token": "http://127.0.0.1:1/token" });
        let spec = ConnectorSpec::oauth2().rotation(Rotation::StrictWide).with("endpoints", endpoints);
        let connector = app.connector(spec).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        sibling(&app, &connector, "u-1").await;
        app.advance(STRIKES_AT);
        ask(&app, &connector, "u-1").await;
        let connection = app.connection(&seeded[0].connection_id).await;
        assert_eq!((&connection["status"], &connection["last_attempt"]["outcome"]), (&json!("active"), &json!("connect_failed")));
        assert_eq!(app.attempt(&seeded[0].connection_id).await.state, "unsent");
    }

    async fn a_sibling_that_is_gone_stops_nobody(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::StrictWide)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let gone = sibling(&app, &connector, "u-1").await;
        app.operator().delete(&format!("/v1/connections/{}", gone.connection_id)).await.expect(200).done();
        app.settle().await;
        // Another user's grant is no sibling either.
        app.seed_import(&connector, &["u-2"]).await;
        app.advance(STRIKES_AT);
        strike(&app, &seeded[0], &status(500));
        ask(&app, &connector, "u-1").await;
        assert_eq!(app.connection(&seeded[0].connection_id).await["status"], "active");
        assert_eq!(app.attempt(&seeded[0].connection_id).await.state, "repeat_allowed");
    }

    async fn what_the_answer_brings_in_place_of_a_refresh_token_never_hides_that_the_old_one_may_be_spent(app: TestApp) {
        // The provider rotated, and what it sent cannot be presented: to go on with the old one would end the sibling.
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::StrictWide)).await;
        let seeded = app.seed_import(&connector, &["u-1"]).await;
        let other = sibling(&app, &connector, "u-1").await;
        let members = json!({ "refresh_token": "r\u{0}" }).as_object().expect("an object").clone();
        app.provider().inject(FaultRule::refresh(Fault::WithMembers { members }).grant(&seeded[0].grant));
        app.advance(STRIKES_AT);
        ask(&app, &connector, "u-1").await;
        let connection = app.connection(&seeded[0].connection_id).await;
        assert_eq!(connection["needs_reauth"]["reason"], "unknown_outcome", "{connection}");
        assert_eq!(connection["last_attempt"]["outcome"], "unusable_refresh_token");
        for _ in 0..3 {
            app.advance(Duration::from_secs(1_300));
            app.run(Work::Refresh).await;
        }
        assert!(app.provider().grant(&other.grant).expect("known").alive);
        assert_eq!(app.provider().counters().reuses, 0);
    }

    async fn a_probe_that_finds_a_dead_grant_shows_that_the_client_is_accepted(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let seeded = app.seed_import(&connector, &["u-1", "u-2", "u-3"]).await;
        app.provider().inject(FaultRule::refresh(Fault::OAuthError { status: 401, error: "invalid_client".to_owned() }));
        app.advance(Duration::from_secs(3_601));
        app.fetch(&connector, "u-1").await.expect_problem(503, "client-refused").done();
        app.provider().revoke_grant_by_user(&seeded[1].grant);
        app.advance(Duration::from_secs(61));
        app.fetch(&connector, "u-2").await.expect_problem(409, "reconnect-required").done();
        assert_eq!(app.number("SELECT COUNT(*) FROM circuits").await, 0);
        for user in ["u-1", "u-3"] {
            app.fetch(&connector, user).await.expect(200).done();
        }
    }

    async fn what_a_provider_says_in_its_errors_is_repeated_nowhere(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let users = ["u-0", "u-1", "u-2", "u-3", "u-4"];
        let seeded = app.seed_import(&connector, &users).await;
        let secret = format!("planted-in-an-error-description-{}", std::process::id());
        plant(&secret, "a secret that a provider quotes in an error");
        let body = json!({ "error": "invalid_scope", "error_description": secret, "error_uri": format!("https://x.example/{secret}"), secret.clone(): secret });
        let says = |code, body: String| Fault::Status { code, body, headers: BTreeMap::from([("x-debug".to_owned(), secret.clone())]) };
        app.advance(STRIKES_AT);
        let dead = body.to_string().replace("invalid_scope", "invalid_grant");
        let told = || secret.clone();
        for (fault, seeded) in [says(400, body.to_string()), says(500, told()), says(200, told()), says(302, told())].iter().zip(&seeded) {
            strike(&app, seeded, fault);
            ask(&app, &connector, &seeded.user).await;
        }
        strike(&app, &seeded[4], &says(400, dead));
        let refused = app.fetch_with(&connector, "u-4", json!({ "min_ttl": 700 })).await;
        refused.expect_problem(409, "reconnect-required").done();
        app.run(Work::Measure).await;
        app.anonymous().get("/metrics").await.expect(200).done();
        app.audit("action=connection.needs_reauth").await;
        assert!(!witnessed().contains(&secret));
        let rows = format!("SELECT COUNT(*) FROM audit WHERE detail LIKE '%{secret}%'");
        assert_eq!(app.number(&rows).await, 0);
        let mut canaries = Canaries::default();
        canaries.plant(&secret, "what the provider said");
        assert_eq!(app.hits_stored(&canaries), Vec::new());
    }

    async fn a_token_of_another_type_is_handed_out_as_what_it_is(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::Strict)).await;
        let kinds = [("mac", "mac"), ("DPoP", "DPoP"), ("bearer", "Bearer"), ("x\r\ny", "Bearer")];
        let users = ["u-0", "u-1", "u-2", "u-3"];
        let seeded = app.seed_import(&connector, &users).await;
        app.advance(STRIKES_AT);
        for ((said, shown), seeded) in kinds.iter().zip(&seeded) {
            let members = json!({ "token_type": said }).as_object().expect("an object").clone();
            app.provider().inject(FaultRule::refresh(Fault::WithMembers { members }));
            let token = ask(&app, &connector, &seeded.user).await;
            assert_eq!((&token["token_type"], &token["generation"]), (&json!(shown), &json!(2)), "{said:?}");
        }
    }
}
