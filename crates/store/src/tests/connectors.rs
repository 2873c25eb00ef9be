//! Connectors and their secrets.

use valetkey_core::{Action, Connector, ConnectorId, Secret, SpaceId, SystemEntropy, Timestamp};

use super::{
    rows::{Row, put_flow, put_revocation},
    support::{at, connector, each_store, event, events, number, put_connector, run, space},
};
use crate::{StoreError, TokenStore};

async fn update(store: &TokenStore, edit: &Connector, expected: i64, secrets: Option<&[Secret]>) -> bool {
    store.update_connector(edit, expected, secrets, &event(Action::ConnectorUpdated, at(5))).await.unwrap()
}

async fn delete(store: &TokenStore, space: &SpaceId, id: ConnectorId, now: Timestamp) -> bool {
    store.delete_connector(space, id, now, &event(Action::ConnectorDeleted, now)).await.unwrap()
}

#[tokio::test]
async fn a_connector_comes_back_as_it_was_stored_to_its_own_space_only() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        assert_eq!(store.find_connector(&space(), connector.id).await.unwrap().as_ref(), Some(&connector));
        assert_eq!(store.find_connector_any(connector.id).await.unwrap().as_ref(), Some(&connector));
        assert_eq!(store.find_connector(&"other".parse().unwrap(), connector.id).await.unwrap(), None);
        assert_eq!(store.connector_secrets(&connector).await.unwrap(), [Secret::from("hunter2")]);
    })
    .await;
}

#[tokio::test]
async fn a_list_holds_only_the_connectors_that_exist_for_the_caller() {
    each_store(async |store| {
        let mut all = Vec::new();
        for millis in 0..4 {
            all.push(put_connector(store, at(millis)).await);
        }
        let ids: Vec<ConnectorId> = all.iter().map(|connector| connector.id).collect();
        let list = async |only: Option<&[ConnectorId]>, after, limit| {
            store.list_connectors(&space(), only, after, limit).await.unwrap()
        };
        assert_eq!(list(None, None, 3).await, all[..3]);
        assert_eq!(list(None, Some(ids[2]), 3).await, all[3..]);
        let named = list(Some(&[ids[3], ids[1]]), None, 10).await;
        assert_eq!(named, [all[1].clone(), all[3].clone()]);
        assert!(list(Some(&[]), None, 10).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_edit_needs_the_version_that_was_seen() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let edit = Connector { name: "Renamed".to_owned(), updated_at: at(5), ..connector.clone() };
        assert!(update(store, &edit, 1, None).await);
        assert!(!update(store, &edit, 1, None).await);
        let stored = store.find_connector(&space(), connector.id).await.unwrap().unwrap();
        assert_eq!(stored, Connector { version: 2, ..edit });
        assert_eq!(events(store, Action::ConnectorUpdated).await, 1);
        assert_eq!(store.connector_secrets(&stored).await.unwrap(), [Secret::from("hunter2")]);
    })
    .await;
}

#[tokio::test]
async fn new_secrets_take_the_place_of_the_old_in_their_order() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let secrets = [Secret::from("new"), Secret::from("hunter2")];
        assert!(update(store, &connector, 1, Some(&secrets)).await);
        let stored = store.find_connector(&space(), connector.id).await.unwrap().unwrap();
        assert_eq!(stored.secret_count, 2);
        assert_eq!(store.connector_secrets(&stored).await.unwrap(), secrets);
        assert!(update(store, &connector, 2, Some(&[])).await);
        assert!(store.connector_secrets(&stored).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn another_client_needs_a_new_connector_once_this_one_is_used() {
    each_store(async |store| {
        let unused = put_connector(store, at(0)).await;
        let moved =
            |connector: &Connector| Connector { issuer: Some("https://evil.example".to_owned()), ..connector.clone() };
        assert!(!store.connector_in_use(unused.id).await.unwrap());
        assert!(update(store, &moved(&unused), 1, None).await);

        let connected = put_connector(store, at(1)).await;
        Row::new("u:1", at(1)).status("revoked").put(store, &connected).await;
        let started = put_connector(store, at(2)).await;
        put_flow(store, &started, "failed", at(600), Some(at(3))).await;
        for connector in [connected, started] {
            assert!(store.connector_in_use(connector.id).await.unwrap());
            assert!(!update(store, &moved(&connector), 1, None).await);
            let renamed = Connector { name: "Renamed".to_owned(), ..connector };
            assert!(update(store, &renamed, 1, None).await);
        }
    })
    .await;
}

#[tokio::test]
async fn sealed_secrets_open_nowhere_else() {
    each_store(async |store| {
        let here = put_connector(store, at(0)).await;
        let there = put_connector(store, at(1)).await;
        run(
            store,
            &format!(
                "UPDATE connectors SET secrets = (SELECT secrets FROM connectors WHERE id = '{}') WHERE id = '{}'",
                here.id, there.id
            ),
        )
        .await;
        let refused = store.connector_secrets(&there).await;
        assert!(matches!(refused, Err(StoreError::Open { column: "secrets", .. })), "{refused:?}");
        run(store, &format!("UPDATE connectors SET secrets_no = 2 WHERE id = '{}'", here.id)).await;
        assert!(store.connector_secrets(&here).await.is_err());
        run(store, &format!("UPDATE connectors SET secrets_no = 1 WHERE id = '{}'", here.id)).await;
        assert!(store.connector_secrets(&here).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_deleted_connector_is_absent_and_its_open_flows_end() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let open = put_flow(store, &connector, "awaiting_finish", at(600), None).await;
        let over = put_flow(store, &connector, "connected", at(600), Some(at(2))).await;
        assert!(!delete(store, &"other".parse().unwrap(), connector.id, at(9)).await);
        assert!(delete(store, &space(), connector.id, at(9)).await);
        assert!(!delete(store, &space(), connector.id, at(10)).await);
        assert_eq!(events(store, Action::ConnectorDeleted).await, 1);
        assert_eq!(store.find_connector(&space(), connector.id).await.unwrap(), None);
        assert!(store.list_connectors(&space(), None, None, 10).await.unwrap().is_empty());
        let kept = store.find_connector_any(connector.id).await.unwrap().unwrap();
        assert_eq!(kept.deleted_at, Some(at(9)));
        assert_eq!(store.connector_secrets(&kept).await.unwrap().len(), 1);
        assert!(!update(store, &connector, kept.version, None).await);
        let ended = at(9).as_millis();
        let failed = format!(
            "SELECT CAST(COUNT(*) AS BIGINT) FROM flows WHERE id = '{open}' AND status = 'failed'
             AND failure = 'connector_changed' AND ended_at = {ended} AND code IS NULL AND verifier IS NULL
             AND nonce IS NULL"
        );
        assert_eq!(number(store, &failed).await, 1);
        let untouched =
            format!("SELECT CAST(COUNT(*) AS BIGINT) FROM flows WHERE id = '{over}' AND status = 'connected'");
        assert_eq!(number(store, &untouched).await, 1);
    })
    .await;
}

#[tokio::test]
async fn rotation_seen_once_is_never_forgotten() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let observe = async |rotated| {
            store.observe_rotation(connector.id, rotated).await.unwrap();
            let observed = store.find_connector_any(connector.id).await.unwrap().unwrap().observed_rotation;
            (observed.rotated, observed.unrotated_in_a_row)
        };
        assert_eq!(observe(false).await, (false, 1));
        assert_eq!(observe(false).await, (false, 2));
        assert_eq!(observe(true).await, (true, 0));
        assert_eq!(observe(true).await, (true, 0));
        assert_eq!(observe(false).await, (true, 1));
        for _ in 0..20 {
            observe(false).await;
        }
        assert!(observe(false).await.1 >= 2);
    })
    .await;
}

#[tokio::test]
async fn secrets_of_a_deleted_connector_wait_for_its_revocations() {
    each_store(async |store| {
        let later = at(600_000);
        let waiting = put_connector(store, at(0)).await;
        let gone = Row::new("u:1", at(0)).status("revoked").put(store, &waiting).await;
        let revocation = put_revocation(store, &waiting, gone, "queued", at(1)).await;
        let connected = put_connector(store, at(1)).await;
        Row::new("u:1", at(0)).put(store, &connected).await;
        let living = put_connector(store, at(2)).await;
        for connector in [&waiting, &connected] {
            assert!(delete(store, &space(), connector.id, at(9)).await);
        }
        assert_eq!(store.erase_deleted_connectors(later).await.unwrap(), 0);
        run(store, &format!("UPDATE revocations SET state = 'confirmed' WHERE id = '{revocation}'")).await;
        assert_eq!(store.erase_deleted_connectors(at(10)).await.unwrap(), 0, "an exchange may be under way");
        assert_eq!(store.erase_deleted_connectors(later).await.unwrap(), 1);
        assert_eq!(store.erase_deleted_connectors(later).await.unwrap(), 0);
        let erased = store.find_connector_any(waiting.id).await.unwrap().unwrap();
        assert_eq!(erased.secret_count, 0);
        assert!(store.connector_secrets(&erased).await.unwrap().is_empty());
        for connector in [connected, living] {
            assert_eq!(store.connector_secrets(&connector).await.unwrap().len(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn an_unknown_connector_is_absent() {
    each_store(async |store| {
        let unknown = connector(&space(), at(0));
        assert_eq!(store.find_connector_any(ConnectorId::new(at(0), &SystemEntropy)).await.unwrap(), None);
        assert!(store.connector_secrets(&unknown).await.unwrap().is_empty());
        assert!(!update(store, &unknown, 1, None).await);
    })
    .await;
}
