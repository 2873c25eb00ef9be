//! Lists and counts.

use valetkey_core::{Action, ConnectionId, Owner, ReauthReason, RevocationState, Status};

use super::{
    rows::{Row, put_revocation},
    support::{at, connector, each_store, event, put_connector, run, space},
};
use crate::{ConnectionFilter, RevocationFilter, TokenStore, Use};

async fn ids(store: &TokenStore, filter: &ConnectionFilter) -> Vec<ConnectionId> {
    let listed = store.list_connections(&space(), filter, None, None, 100).await.unwrap();
    let count = store.count_connections(&space(), filter, None).await.unwrap();
    assert_eq!(i64::try_from(listed.len()).unwrap(), count, "{filter:?}");
    listed.iter().map(|connection| connection.id).collect()
}

#[tokio::test]
async fn each_filter_narrows() {
    each_store(async |store| {
        let (first, second) = (put_connector(store, at(0)).await, put_connector(store, at(1)).await);
        let user = Row::new("u:1", at(0)).put(store, &first).await;
        let dead = Row { reason: Some("grant_revoked"), ..Row::new("u:2", at(1)).status("needs_reauth") };
        let dead = dead.put(store, &first).await;
        let shared = Row { provider: "github", label: "work", ..Row::new("s", at(2)) }.put(store, &second).await;
        let all = ConnectionFilter::default;
        assert_eq!(ids(store, &all()).await, [user, dead, shared]);
        let owner = Owner::User("1".parse().unwrap());
        for (filter, expected) in [
            (ConnectionFilter { connector_id: Some(first.id), ..all() }, vec![user, dead]),
            (ConnectionFilter { owner: Some(owner.clone()), ..all() }, vec![user]),
            (ConnectionFilter { owner: Some(Owner::Shared), ..all() }, vec![shared]),
            (ConnectionFilter { status: Some(Status::NeedsReauth), ..all() }, vec![dead]),
            (ConnectionFilter { provider: Some("github".to_owned()), ..all() }, vec![shared]),
            (ConnectionFilter { label: Some("work".parse().unwrap()), ..all() }, vec![shared]),
            (ConnectionFilter { label: Some("".parse().unwrap()), ..all() }, vec![user, dead]),
            (ConnectionFilter { reason: Some(ReauthReason::GrantRevoked), ..all() }, vec![dead]),
            (ConnectionFilter { owner: Some(owner), status: Some(Status::Revoked), ..all() }, vec![]),
        ] {
            assert_eq!(ids(store, &filter).await, expected, "{filter:?}");
            let text = serde_json::to_string(&filter).unwrap();
            assert_eq!(serde_json::from_str::<ConnectionFilter>(&text).unwrap(), filter);
        }
    })
    .await;
}

#[tokio::test]
async fn a_list_pages_and_holds_only_what_exists_for_the_caller() {
    each_store(async |store| {
        let (first, second) = (put_connector(store, at(0)).await, put_connector(store, at(1)).await);
        let user = Row::new("u:1", at(0)).put(store, &first).await;
        let dead = Row { reason: Some("grant_revoked"), ..Row::new("u:2", at(1)).status("needs_reauth") };
        let dead = dead.put(store, &first).await;
        let shared = Row::new("s", at(2)).put(store, &second).await;
        let all = ConnectionFilter::default;
        let only = store.list_connections(&space(), &all(), Some(&[second.id]), None, 100).await.unwrap();
        assert_eq!(only.iter().map(|connection| connection.id).collect::<Vec<_>>(), [shared]);
        assert_eq!(store.count_connections(&space(), &all(), Some(&[])).await.unwrap(), 0);
        let page = store.list_connections(&space(), &all(), None, Some(user), 1).await.unwrap();
        assert_eq!(page[0].id, dead);
        assert_eq!(page[0].needs_reauth.unwrap().reason, ReauthReason::GrantRevoked);
    })
    .await;
}

#[tokio::test]
async fn another_space_sees_nothing() {
    each_store(async |store| {
        let other = "other".parse().unwrap();
        store.create_space(&other, at(0), &event(Action::SpaceCreated, at(0))).await.unwrap();
        let theirs = connector(&other, at(0));
        store.insert_connector(&theirs, &[], &event(Action::ConnectorCreated, at(0))).await.unwrap();
        let connection = Row::new("u:1", at(0)).put(store, &theirs).await;
        put_revocation(store, &theirs, connection, "queued", at(0)).await;
        assert!(ids(store, &ConnectionFilter::default()).await.is_empty());
        assert_eq!(store.find_connection(&space(), connection).await.unwrap(), None);
        let all = RevocationFilter::default();
        assert!(store.list_revocations(&space(), &all, None, 10).await.unwrap().is_empty());
        assert_eq!(store.find_connection(&other, connection).await.unwrap().unwrap().id, connection);
        assert_eq!(store.list_revocations(&other, &all, None, 10).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn uses_show_by_the_minute_and_never_go_back() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let connection = Row { refresh_token: false, ..Row::new("u:1", at(0)) }.put(store, &connector).await;
        let found = async || store.find_connection(&space(), connection).await.unwrap().unwrap();
        assert_eq!((found().await.last_used_at, found().await.has_refresh_token), (None, false));
        let used = |millis| Use { connection, at: at(millis) };
        store.record_uses(&[used(300_000), used(500_000), used(100_000)], &[]).await.unwrap();
        let newest = found().await.last_used_at.unwrap();
        assert!(newest <= at(500_000) && newest > at(440_000), "{newest}");
        store.record_uses(&[used(100_000)], &[]).await.unwrap();
        assert_eq!(found().await.last_used_at, Some(newest));
        run(store, "DELETE FROM connection_usage").await;
        run(store, "DELETE FROM connections").await;
        store.record_uses(&[used(600_000)], &[]).await.unwrap();
        assert_eq!(run(store, "DELETE FROM connection_usage").await, 0, "a purged connection leaves nothing behind");
    })
    .await;
}

#[tokio::test]
async fn revocations_are_listed_and_counted() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let (one, two) =
            (Row::new("u:1", at(0)).put(store, &connector).await, Row::new("u:2", at(0)).put(store, &connector).await);
        let queued = put_revocation(store, &connector, one, "queued", at(0)).await;
        let confirmed = put_revocation(store, &connector, two, "confirmed", at(1)).await;
        let list = async |filter: RevocationFilter, after| {
            let listed = store.list_revocations(&space(), &filter, after, 10).await.unwrap();
            listed.iter().map(|revocation| revocation.id).collect::<Vec<_>>()
        };
        let all = RevocationFilter::default();
        assert_eq!(list(all.clone(), None).await, [queued, confirmed]);
        assert_eq!(list(all.clone(), Some(queued)).await, [confirmed]);
        assert_eq!(
            list(RevocationFilter { state: Some(RevocationState::Queued), ..all.clone() }, None).await,
            [queued]
        );
        assert_eq!(list(RevocationFilter { connection_id: Some(two), ..all.clone() }, None).await, [confirmed]);
        let filter = RevocationFilter { connector_id: Some(connector.id), ..all.clone() };
        assert_eq!(list(filter, None).await, [queued, confirmed]);
        let counts = store.revocation_counts().await.unwrap();
        assert_eq!(counts, [(RevocationState::Confirmed, 1), (RevocationState::Queued, 1)]);
    })
    .await;
}

#[tokio::test]
async fn connections_and_due_work_are_counted() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        Row::new("u:1", at(0)).put(store, &connector).await;
        Row::new("u:2", at(0)).put(store, &connector).await;
        Row { provider: "github", ..Row::new("u:3", at(0)).status("revoked") }.put(store, &connector).await;
        let counts = store.connection_counts().await.unwrap();
        let counts: Vec<_> = counts.iter().map(|count| (count.provider.as_str(), count.status, count.count)).collect();
        assert_eq!(counts, [("github", Status::Revoked, 1), ("oauth2", Status::Active, 2)]);

        let empty = store.due_counts(at(0)).await.unwrap();
        assert_eq!((empty.due, empty.overdue, empty.oldest), (0, 0, None));
        for (name, due) in [("a", 0), ("b", 50_000), ("c", 500_000)] {
            let due = at(due).as_millis();
            run(store, &format!("INSERT INTO due (connection_id, due_at) VALUES ('{name}', {due})")).await;
        }
        let counts = store.due_counts(at(60_000)).await.unwrap();
        assert_eq!((counts.due, counts.overdue, counts.oldest), (2, 1, Some(at(0))));
    })
    .await;
}
