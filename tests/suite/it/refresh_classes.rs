//! Each rotation class through the whole life of a connection.

use serde_json::json;
use valetkey_suite::{
    ConnectorSpec, TestApp, Work, engine_tests,
    extra::{text_of, time_of},
    sandbox::{GrantEnd, Rotation},
};

engine_tests! {
    async fn a_refresh_token_that_never_changes_is_kept_through_the_whole_life(app: TestApp) {
        whole_life(&app, Rotation::NonRotating).await;
    }

    async fn softly_rotated_tokens_are_followed_through_the_whole_life(app: TestApp) {
        whole_life(&app, Rotation::Soft).await;
    }

    async fn tokens_that_die_with_their_successors_first_use_are_followed_through_the_whole_life(app: TestApp) {
        whole_life(&app, Rotation::SoftUntilSuccessorUsed).await;
    }

    async fn tokens_with_a_grace_are_followed_through_the_whole_life(app: TestApp) {
        whole_life(&app, Rotation::Grace { seconds: 60 }).await;
    }

    async fn strictly_rotated_tokens_are_followed_through_the_whole_life(app: TestApp) {
        whole_life(&app, Rotation::Strict).await;
    }

    async fn tokens_whose_reuse_ends_siblings_are_followed_through_the_whole_life(app: TestApp) {
        whole_life(&app, Rotation::StrictWide).await;
    }
}

/// Connect, refresh when due and never before, lose the grant, reconnect, disconnect.
async fn whole_life(app: &TestApp, rotation: Rotation) {
    let connector = app.connector(ConnectorSpec::oauth2().rotation(rotation)).await;
    let connection = app.connect_user(&connector, "u-1").await;
    let id = text_of(&connection["id"]);
    let key = app.connector_client(&connector.id).await;
    let (path, ask) = (connector.path("/token"), json!({ "user_id": "u-1" }));

    let mut token = key.post(&path, &ask).await.expect(200);
    assert_eq!(token.json["generation"], 1);
    let share =
        time_of(&connection["refresh_due_at"]).since(time_of(&connection["created_at"])).as_secs_f64() / 3_600.0;
    assert!((0.69..=0.91).contains(&share), "due after {share} of the life");
    app.run(Work::Refresh).await;
    assert_eq!(app.refreshes(&connector).len(), 0, "nothing was due");

    for generation in 2..=4 {
        app.advance_to_due(&id).await;
        app.run(Work::Refresh).await;
        app.run(Work::Refresh).await;
        assert_eq!(app.refreshes(&connector).len(), generation - 1, "each due point brings one refresh");
        let next = key.post(&path, &ask).await.expect(200);
        assert_eq!(next.json["generation"], generation);
        assert_ne!(next.json["access_token"], token.json["access_token"]);
        assert!(next.json["expires_in"].as_u64() > Some(3_500), "{}", next.text);
        assert!(app.provider().is_access_token_live(&next.text_of("access_token")));
        token = next;
    }
    presents_what_came_last(app, &connector, rotation);

    // The user takes it back at the provider: known at the next refresh, and then nothing is asked any more.
    app.provider().revoke_grants_by_user(&connector.client_id, "u-1");
    app.advance_to_due(&id).await;
    app.run(Work::Refresh).await;
    let asked = app.refreshes(&connector).len();
    let refused = key.post(&path, &ask).await.expect_problem(409, "reconnect-required");
    assert_eq!(refused.json["reason"], "grant_revoked");
    app.advance_to(time_of(&token.json["expires_at"]));
    app.run(Work::Refresh).await;
    key.post(&path, &ask).await.expect_problem(409, "reconnect-required").done();
    assert_eq!(app.refreshes(&connector).len(), asked, "a dead grant is left alone");

    let again = app.connect_user(&connector, "u-1").await;
    assert_eq!((&again["id"], &again["status"], &again["generation"]), (&json!(id), &json!("active"), &json!(5)));
    assert_eq!(key.post(&path, &ask).await.expect(200).json["generation"], 5);

    app.application().post(&connector.path("/disconnect"), &ask).await.expect(200).done();
    key.post(&path, &ask).await.expect_problem(404, "connection-not-found").done();
    app.run(Work::Deliver).await;
    assert_eq!(app.connection(&id).await["status"], "revoked");
    let grants = app.provider().grants_of(&connector.client_id, "u-1");
    assert_eq!(grants.last().and_then(|grant| grant.ended), Some(GrantEnd::RevokedByClient));
    app.advance(std::time::Duration::from_secs(86_400));
    app.run(Work::Refresh).await;
    assert_eq!(app.refreshes(&connector).len(), asked, "nothing is refreshed after the end");
}

/// Every refresh presented the token that the provider had given last, and none twice where that matters.
fn presents_what_came_last(app: &TestApp, connector: &valetkey_suite::TestConnector, rotation: Rotation) {
    let events = app.refreshes(connector);
    assert!(events.iter().all(|event| event.was_current && !event.reuse && event.status == Some(200)), "{events:?}");
    for pair in events.windows(2) {
        let given = pair[0].committed.as_ref().and_then(|committed| committed.refresh.clone());
        if rotation == Rotation::NonRotating {
            assert_eq!((given, &pair[1].presented), (None, &pair[0].presented));
        } else {
            assert_eq!(given, pair[1].presented);
        }
    }
}
