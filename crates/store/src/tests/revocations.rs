//! Revocation: local first, then the queue; and what the token call reads.

use valetkey_core::{
    Action, ApiKey, AuditEvent, Connection, ConnectionId, KeyId, Label, PresentedKey, RevocationId, RevocationReason,
    RevocationState, Role, Secret, Status, Subject, SystemEntropy, TokenKind,
};

use super::{
    support::{at, each_store, event, events, put_connector, space},
    tokens::{connected, user},
};
use crate::{ToRevoke, TokenStore};

fn to_revoke(connection: ConnectionId) -> ToRevoke {
    ToRevoke {
        connection,
        refresh: RevocationId::new(at(1), &SystemEntropy),
        access: RevocationId::new(at(2), &SystemEntropy),
    }
}

async fn revoke(store: &TokenStore, space: &str, connections: &[ConnectionId]) -> Vec<ConnectionId> {
    let list: Vec<ToRevoke> = connections.iter().copied().map(to_revoke).collect();
    let audit: Vec<AuditEvent> = connections
        .iter()
        .map(|id| AuditEvent {
            subject: Subject { connection_id: Some(*id), ..Subject::default() },
            ..event(Action::ConnectionRevoked, at(10))
        })
        .collect();
    let space = space.parse().unwrap();
    store.revoke_connections(&space, &list, RevocationReason::Operator, at(10), &audit).await.unwrap()
}

async fn status(store: &TokenStore, connection: &Connection) -> Status {
    store.find_connection(&space(), connection.id).await.unwrap().unwrap().status
}

#[tokio::test]
async fn a_revoked_connection_serves_nothing_and_queues_refresh_before_access() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let connection = connected(store, &connector, &user("1"), "one").await;
        let living = connected(store, &connector, &user("2"), "two").await;
        assert!(revoke(store, "other", &[connection.id]).await.is_empty());
        assert_eq!(revoke(store, "default", &[connection.id]).await, [connection.id]);
        assert!(revoke(store, "default", &[connection.id]).await.is_empty());
        assert_eq!(events(store, Action::ConnectionRevoked).await, 1);
        assert_eq!(status(store, &connection).await, Status::Revoking);
        let stored = store.find_stored(connection.id).await.unwrap().unwrap();
        assert_eq!(store.open_access_token(&stored).unwrap(), None);
        assert_eq!(store.refresh_token(&connection).await.unwrap(), None);
        assert_eq!(status(store, &living).await, Status::Active);

        for (kind, token) in [(TokenKind::Refresh, "refresh one"), (TokenKind::Access, "access one")] {
            let claimed = store.claim_revocations(at(20), at(60), 10).await.unwrap();
            assert_eq!(claimed.len(), 1, "{kind}");
            assert_eq!((claimed[0].revocation.token_kind, &claimed[0].token), (kind, &Secret::from(token)));
            assert!(store.claim_revocations(at(59), at(60), 10).await.unwrap().is_empty(), "claimed");
            assert_eq!(status(store, &connection).await, Status::Revoking);
            let audit = event(Action::RevocationEnded, at(21));
            let end = async || {
                store
                    .end_revocation(&claimed[0].revocation, RevocationState::Confirmed, "ok", at(21), &audit)
                    .await
                    .unwrap()
            };
            assert!(end().await);
            assert!(!end().await, "it has ended");
        }
        assert_eq!(status(store, &connection).await, Status::Revoked);
        assert_eq!(events(store, Action::RevocationEnded).await, 2);
    })
    .await;
}

#[tokio::test]
async fn a_failed_try_comes_again_when_it_was_planned() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let connection = connected(store, &connector, &user("1"), "one").await;
        revoke(store, "default", &[connection.id]).await;
        let claim = async |now| store.claim_revocations(at(now), at(now + 40), 10).await.unwrap();
        let first = claim(20).await.remove(0);
        store.retry_revocation(first.revocation.id, "unavailable", at(500), at(21)).await.unwrap();
        assert!(claim(499).await.is_empty());
        let second = claim(500).await.remove(0);
        assert_eq!((second.revocation.id, second.revocation.tries), (first.revocation.id, first.revocation.tries + 1));
        assert_eq!(second.revocation.outcome.as_deref(), Some("unavailable"));
        assert_eq!(claim(540).await.len(), 1, "its holder died");
    })
    .await;
}

#[tokio::test]
async fn live_connections_of_a_connector_are_those_still_to_revoke() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let gone = connected(store, &connector, &user("1"), "one").await;
        let live = connected(store, &connector, &user("2"), "two").await;
        revoke(store, "default", &[gone.id]).await;
        assert_eq!(store.live_connections_of(connector.id, 10).await.unwrap(), [live.id]);
    })
    .await;
}

#[tokio::test]
async fn the_next_token_call_knows_of_every_revocation() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let owner = user("1");
        let connection = connected(store, &connector, &owner, "one").await;
        let id = KeyId::new(at(0), &SystemEntropy);
        let key = ApiKey {
            id,
            space: space(),
            name: "sync".to_owned(),
            roles: vec![Role::Connector],
            connectors: Some(vec![connector.id]),
            secret_hash: PresentedKey::generate(id, &SystemEntropy).1,
            created_at: at(0),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        };
        store.insert_key(&key, &event(Action::KeyCreated, at(0))).await.unwrap();
        let access = async || store.access(id, connector.id, &owner, &Label::none()).await.unwrap();
        for _ in 0..2 {
            let found = access().await;
            assert_eq!(found.key.as_deref(), Some(&key));
            assert_eq!(found.connector.as_deref(), Some(&connector));
            let stored = found.connection.unwrap();
            assert_eq!(store.open_access_token(&stored).unwrap(), Some(Secret::from("access one")));
        }
        revoke(store, "default", &[connection.id]).await;
        assert_eq!(access().await.connection.unwrap().connection.status, Status::Revoking);
        let deleted = event(Action::ConnectorDeleted, at(11));
        assert!(store.delete_connector(&space(), connector.id, at(11), &deleted).await.unwrap());
        let found = access().await;
        assert!(found.connector.is_none() && found.connection.is_none());
        store.revoke_key(&space(), id, at(12), &event(Action::KeyRevoked, at(12))).await.unwrap();
        assert_eq!(access().await.key.unwrap().revoked_at, Some(at(12)));
        assert!(
            store
                .access(KeyId::new(at(1), &SystemEntropy), connector.id, &owner, &Label::none())
                .await
                .unwrap()
                .key
                .is_none()
        );
    })
    .await;
}
