//! Opening: first start, later starts, wrong keys.

use valetkey_core::{Action, Secret};

use super::support::{at, connector, each_place, entropy, event, number, run, space, unlock, unlock_with};
use crate::{StoreError, TokenStore, Unlock};

#[tokio::test]
async fn a_later_start_opens_what_an_earlier_one_sealed() {
    each_place(async |place| {
        let first = place.store().await;
        let instance = first.instance_id().await.unwrap();
        assert_eq!(instance.len(), 32);
        assert!(first.space_exists(&space()).await.unwrap());
        first.ping().await.unwrap();
        let connector = connector(&space(), at(0));
        let secrets = [Secret::from("one"), Secret::from("two \"quoted\"")];
        first.insert_connector(&connector, &secrets, &event(Action::ConnectorCreated, at(0))).await.unwrap();
        first.close().await;

        let second = place.store().await;
        assert_eq!(second.instance_id().await.unwrap(), instance);
        assert_eq!(second.connector_secrets(&connector).await.unwrap(), secrets);
        second.close().await;
    })
    .await;
}

#[tokio::test]
async fn the_key_rings_instance_becomes_the_databases() {
    each_place(async |place| {
        let unlock = Unlock { instance: Some("ab".repeat(16)), ..unlock() };
        let store = TokenStore::open(place.database().await, unlock, 0, &entropy(), at(0)).await.unwrap();
        assert_eq!(store.instance_id().await.unwrap(), "ab".repeat(16));
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_foreign_key_ring_is_refused() {
    each_place(async |place| {
        let store = place.store().await;
        let instance = store.instance_id().await.unwrap();
        store.close().await;
        let database = place.database().await;
        let foreign = Unlock { instance: Some("cd".repeat(16)), ..unlock() };
        let refused = TokenStore::open(database.clone(), foreign, 0, &entropy(), at(0)).await.unwrap_err();
        let StoreError::ForeignKeyRing { ring, database: found } = refused else { panic!("{refused:?}") };
        assert_eq!((ring, found), ("cd".repeat(16), instance));
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn another_key_is_refused_and_changes_nothing() {
    each_place(async |place| {
        place.store().await.close().await;
        let database = place.database().await;
        let other = unlock_with("//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=");
        let refused = TokenStore::open(database.clone(), other, 0, &entropy(), at(0)).await;
        assert!(matches!(refused, Err(StoreError::Unlock(_))), "{refused:?}");
        database.close().await;
        let store = place.store().await;
        assert_eq!(number(&store, "SELECT CAST(COUNT(*) AS BIGINT) FROM data_keys").await, 1);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn without_a_key_an_empty_database_stays_empty() {
    each_place(async |place| {
        let none = Unlock { instance: None, wrappers: Vec::new() };
        let refused = TokenStore::open(place.database().await, none, 0, &entropy(), at(0)).await;
        assert!(matches!(refused, Err(StoreError::Wrap(_))), "{refused:?}");
        let unlock = Unlock { instance: Some("ef".repeat(16)), ..unlock() };
        let store = TokenStore::open(place.database().await, unlock, 0, &entropy(), at(0)).await.unwrap();
        assert_eq!(store.instance_id().await.unwrap(), "ef".repeat(16));
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_lost_key_table_or_name_is_never_replaced() {
    for (loss, table) in [("DELETE FROM data_keys", "data_keys"), ("DELETE FROM instance", "instance")] {
        each_place(async |place| {
            let store = place.store().await;
            run(&store, loss).await;
            let refused = TokenStore::open(place.database().await, unlock(), 0, &entropy(), at(0)).await;
            assert!(refused.is_err(), "{loss}");
            assert_eq!(number(&store, &format!("SELECT CAST(COUNT(*) AS BIGINT) FROM {table}")).await, 0);
            store.close().await;
        })
        .await;
    }
}

#[tokio::test]
async fn several_first_starts_at_once_agree() {
    each_place(async |place| {
        let database = place.database().await;
        let starts = (0..4).map(|_| async {
            let store = TokenStore::open(database.clone(), unlock(), 0, &entropy(), at(0)).await.unwrap();
            store.instance_id().await.unwrap()
        });
        let instances = futures::future::join_all(starts).await;
        assert!(instances.iter().all(|instance| *instance == instances[0]), "{instances:?}");
        database.close().await;
    })
    .await;
}
