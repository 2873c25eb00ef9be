//! A provider of which nothing is known: what its answers show of its rotation, and what follows from that.

use std::time::Duration;

use serde_json::json;
use valetkey_suite::{
    Answer, ConnectorSpec, Seeded, TestApp, TestConnector, Work, engine_tests,
    sandbox::{Commit, Fault, FaultRule, Rotation},
};

/// A connector that says nothing of rotation, at a client that behaves so; two accounts of one owner.
async fn unknown(app: &TestApp, rotation: Rotation) -> (TestConnector, Vec<Seeded>) {
    let connector = app.connector(ConnectorSpec::oauth2().client(|client| client.rotation = rotation)).await;
    let mut seeded = app.seed_import(&connector, &["u-1"]).await;
    seeded.extend(app.seed_import_with(&connector, &["u-1"], |_, line| line["label"] = json!("second")).await);
    (connector, seeded)
}

/// Asks for another token than the current one of the account under this label.
async fn replace(app: &TestApp, connector: &TestConnector, label: &str) -> Answer {
    app.advance(Duration::from_secs(61));
    let current = app.fetch_with(connector, "u-1", json!({ "label": label })).await.expect(200);
    app.fetch_with(connector, "u-1", json!({ "label": label, "rejected": current.json["fingerprint"] })).await
}

/// The second account is refreshed once.
async fn refresh(app: &TestApp, connector: &TestConnector) {
    replace(app, connector, "second").await.expect(200).done();
}

/// Whether a refresh of the first account whose outcome is unknown may be repeated, as it is decided now.
async fn repeats(app: &TestApp, connector: &TestConnector, seeded: &[Seeded]) -> bool {
    let id = &seeded[0].connection_id;
    app.provider().inject(FaultRule::refresh(Fault::ResetBeforeAnswer).grant(&seeded[0].grant).commit(Commit::Never));
    let refused = replace(app, connector, "").await;
    let connection = app.connection(id).await;
    if connection["status"] == "active" {
        refused.expect_problem(503, "provider-unavailable").done();
        app.advance(Duration::from_secs(10));
        app.run(Work::Refresh).await;
        assert_eq!(app.connection(id).await["last_attempt"]["outcome"], "settled", "{connection}");
        return true;
    }
    refused.expect_problem(409, "reconnect-required").done();
    assert_eq!(connection["needs_reauth"]["reason"], "unknown_outcome");
    false
}

engine_tests! {
    async fn an_unknown_provider_is_given_the_greatest_care(app: TestApp) {
        let (connector, seeded) = unknown(&app, Rotation::NonRotating).await;
        assert!(!repeats(&app, &connector, &seeded).await);
    }

    async fn one_unrotated_answer_is_not_enough(app: TestApp) {
        let (connector, seeded) = unknown(&app, Rotation::NonRotating).await;
        refresh(&app, &connector).await;
        assert!(!repeats(&app, &connector, &seeded).await);
    }

    async fn two_unrotated_answers_in_a_row_show_that_nothing_rotates(app: TestApp) {
        let (connector, seeded) = unknown(&app, Rotation::NonRotating).await;
        refresh(&app, &connector).await;
        refresh(&app, &connector).await;
        assert!(repeats(&app, &connector, &seeded).await);
    }

    async fn a_repeated_refresh_token_counts_as_unrotated(app: TestApp) {
        let (connector, seeded) = unknown(&app, Rotation::NonRotating).await;
        app.provider().update_client(&connector.client_id, |client| client.echo_refresh_token = true).expect("a client");
        refresh(&app, &connector).await;
        refresh(&app, &connector).await;
        assert!(repeats(&app, &connector, &seeded).await);
    }

    async fn one_rotation_is_remembered_for_good(app: TestApp) {
        let (connector, seeded) = unknown(&app, Rotation::NonRotating).await;
        app.provider().inject(FaultRule::refresh(Fault::WithRotation).grant(&seeded[1].grant));
        refresh(&app, &connector).await;
        for _ in 0..4 {
            refresh(&app, &connector).await;
        }
        assert!(!repeats(&app, &connector, &seeded).await, "four unrotated answers do not outweigh it");
    }

    async fn a_rotation_that_comes_later_counts_too(app: TestApp) {
        let (connector, seeded) = unknown(&app, Rotation::NonRotating).await;
        refresh(&app, &connector).await;
        refresh(&app, &connector).await;
        app.provider().inject(FaultRule::refresh(Fault::WithRotation).grant(&seeded[1].grant));
        refresh(&app, &connector).await;
        assert!(!repeats(&app, &connector, &seeded).await);
    }

    async fn what_the_operator_says_of_rotation_counts_more_than_what_was_seen(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oauth2().rotation(Rotation::NonRotating)).await;
        let mut seeded = app.seed_import(&connector, &["u-1"]).await;
        seeded.extend(app.seed_import_with(&connector, &["u-1"], |_, line| line["label"] = json!("second")).await);
        assert!(repeats(&app, &connector, &seeded).await);
    }
}
