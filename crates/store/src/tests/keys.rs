//! Keys and spaces.

use valetkey_core::{Action, ApiKey, ConnectorId, KeyId, PresentedKey, Role, SpaceId, SystemEntropy, Timestamp};

use super::support::{at, each_store, event, events, space};
use crate::{TokenStore, Use};

fn key(now: Timestamp) -> ApiKey {
    let id = KeyId::new(now, &SystemEntropy);
    ApiKey {
        id,
        space: space(),
        name: "sync job".to_owned(),
        roles: vec![Role::Connector, Role::App],
        connectors: Some(vec![ConnectorId::new(now, &SystemEntropy)]),
        secret_hash: PresentedKey::generate(id, &SystemEntropy).1,
        created_at: now,
        expires_at: Some(now.plus(std::time::Duration::from_secs(60))),
        revoked_at: None,
        last_used_at: None,
    }
}

async fn put(store: &TokenStore, key: &ApiKey) {
    store.insert_key(key, &event(Action::KeyCreated, key.created_at)).await.unwrap();
}

fn other_space() -> SpaceId {
    "other".parse().unwrap()
}

#[tokio::test]
async fn a_key_comes_back_as_it_was_stored() {
    each_store(async |store| {
        let narrow = key(at(0));
        let wide = ApiKey { connectors: None, expires_at: None, ..key(at(1)) };
        for key in [&narrow, &wide] {
            put(store, key).await;
            assert_eq!(store.find_key(key.id).await.unwrap().as_ref(), Some(key));
        }
        assert_eq!(store.find_key(KeyId::new(at(2), &SystemEntropy)).await.unwrap(), None);
        assert_eq!(events(store, Action::KeyCreated).await, 2);
    })
    .await;
}

#[tokio::test]
async fn keys_page_oldest_first_within_their_space() {
    each_store(async |store| {
        let keys = [key(at(0)), key(at(1)), key(at(2))];
        for key in &keys {
            put(store, key).await;
        }
        let first = store.list_keys(&space(), None, 2).await.unwrap();
        assert_eq!(first, keys[..2]);
        let second = store.list_keys(&space(), Some(first[1].id), 2).await.unwrap();
        assert_eq!(second, keys[2..]);
        assert!(store.list_keys(&other_space(), None, 2).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn revoking_twice_changes_nothing_and_other_spaces_see_no_key() {
    each_store(async |store| {
        let key = key(at(0));
        put(store, &key).await;
        let revoke = async |space: &SpaceId, now| {
            store.revoke_key(space, key.id, now, &event(Action::KeyRevoked, now)).await.unwrap()
        };
        assert_eq!(revoke(&other_space(), at(5)).await, None);
        assert_eq!(store.find_key(key.id).await.unwrap().unwrap().revoked_at, None);
        assert_eq!(revoke(&space(), at(6)).await.unwrap().revoked_at, Some(at(6)));
        assert_eq!(revoke(&space(), at(7)).await.unwrap().revoked_at, Some(at(6)));
        assert_eq!(events(store, Action::KeyRevoked).await, 1);
    })
    .await;
}

#[tokio::test]
async fn uses_of_keys_move_forward_by_the_minute() {
    each_store(async |store| {
        let key = key(at(0));
        put(store, &key).await;
        let used = async || store.find_key(key.id).await.unwrap().unwrap().last_used_at.unwrap();
        store.record_uses(&[], &[(key.id, at(200_000)), (key.id, at(70_000))]).await.unwrap();
        let newest = used().await;
        assert!(newest <= at(200_000) && newest > at(140_000), "{newest}");
        store.record_uses(&[], &[(key.id, at(70_000))]).await.unwrap();
        assert_eq!(used().await, newest);
        let nothing: [Use; 0] = [];
        store.record_uses(&nothing, &[]).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_space_is_made_once() {
    each_store(async |store| {
        let space = other_space();
        assert!(!store.space_exists(&space).await.unwrap());
        let made = async || store.create_space(&space, at(1), &event(Action::SpaceCreated, at(1))).await.unwrap();
        assert!(made().await);
        assert!(!made().await);
        assert_eq!(events(store, Action::SpaceCreated).await, 1);
        let all = store.list_spaces().await.unwrap();
        assert_eq!(all, [(SpaceId::default_space(), at(0)), (space.clone(), at(1))]);
    })
    .await;
}
