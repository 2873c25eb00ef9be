//! Connections and their tokens: connect, open, settle, mark.

use std::sync::Arc;

use valetkey_core::{
    Account, Action, AttemptId, AuditEvent, Connection, ConnectionId, Connector, Label, Owner, ReauthReason,
    Refreshing, RevocationId, RevocationReason, Secret, Status, SystemEntropy, Timestamp, TokenSet,
};

use super::support::{at, each_store, event, events, number, put_connector, run, space};
use crate::{Connect, Connected, RevocationFilter, Settle, Settled, StoreError, StoredConnection, TokenStore};

pub(crate) fn user(id: &str) -> Owner {
    Owner::User(id.parse().unwrap())
}

pub(crate) fn tokens(name: &str, now: Timestamp) -> TokenSet {
    TokenSet {
        access_token: Secret::from(format!("access {name}")),
        token_type: "Bearer".to_owned(),
        refresh_token: Some(Secret::from(format!("refresh {name}"))),
        scopes: None,
        issued_at: now,
        expires_at: Some(at(3_600_000)),
        refresh_expires_at: None,
        reconnect_by: Some(at(9_000_000)),
        account: Some(Account { issuer: "https://idp.example".to_owned(), subject: "7".to_owned(), name: None }),
    }
}

/// What most tests connect with; change what a test is about.
fn connect<'a>(connector: &'a Connector, owner: &'a Owner, label: &'a Label, tokens: &'a TokenSet) -> Connect<'a> {
    Connect {
        flow: None,
        new_id: ConnectionId::new(tokens.issued_at, &SystemEntropy),
        connector,
        owner,
        label,
        tokens,
        requested_scopes: &connector.scopes,
        granted_scopes: &connector.scopes,
        due_at: Some(at(3_000_000)),
        weakly_bound: false,
        allow_account_change: false,
        replace_active: true,
        revoke_replaced: None,
        now: tokens.issued_at,
    }
}

fn audit(now: Timestamp) -> AuditEvent {
    AuditEvent { detail: serde_json::json!({}), ..event(Action::ConnectionConnected, now) }
}

/// Connects `owner` with the tokens called `name`.
pub(crate) async fn connected(store: &TokenStore, connector: &Connector, owner: &Owner, name: &str) -> Connection {
    let (label, tokens) = (Label::none(), tokens(name, at(0)));
    match store.connect(&connect(connector, owner, &label, &tokens), audit(at(0))).await.unwrap() {
        Connected::Stored(connection) => *connection,
        other => panic!("{other:?}"),
    }
}

async fn stored(store: &TokenStore, connection: &Connection) -> Arc<StoredConnection> {
    store.read_stored(connection.id).await.unwrap().unwrap()
}

fn settle<'a>(connection: &'a Connection, tokens: &'a TokenSet) -> Settle<'a> {
    Settle {
        connection,
        attempt: AttemptId::new(at(1), &SystemEntropy),
        tokens,
        kept_refresh_token: false,
        granted_scopes: &connection.granted_scopes,
        due_at: Some(at(4_000_000)),
        late_ids: (RevocationId::new(at(1), &SystemEntropy), RevocationId::new(at(2), &SystemEntropy)),
        now: at(10),
    }
}

#[tokio::test]
async fn a_connection_comes_back_with_its_tokens() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let connection = connected(store, &connector, &user("1"), "one").await;
        let found =
            store.user(&space(), connector.id, &"1".parse().unwrap()).find(&Label::none()).await.unwrap().unwrap();
        // When the next try is planned stands in another table, which this read leaves alone.
        assert_eq!(found.connection, Connection { next_try_at: None, ..connection.clone() });
        assert_eq!((connection.generation, connection.status), (1, Status::Active));
        assert_eq!(store.open_access_token(&found).unwrap(), Some(Secret::from("access one")));
        assert_eq!(found.fingerprint, Some(Secret::from("access one").fingerprint()));
        assert_eq!(store.refresh_token(&connection).await.unwrap(), Some(Secret::from("refresh one")));
        assert_eq!(store.find_connection(&space(), connection.id).await.unwrap().as_ref(), Some(&connection));
        assert!(
            store.user(&space(), connector.id, &"2".parse().unwrap()).find(&Label::none()).await.unwrap().is_none()
        );
        assert!(store.shared(&space(), connector.id).find(&Label::none()).await.unwrap().is_none());
        let elsewhere = "other".parse().unwrap();
        assert!(
            store.user(&elsewhere, connector.id, &"1".parse().unwrap()).find(&Label::none()).await.unwrap().is_none()
        );
        assert_eq!(events(store, Action::ConnectionConnected).await, 1);
    })
    .await;
}

#[tokio::test]
async fn no_token_is_stored_in_the_clear() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let connection = connected(store, &connector, &user("1"), "one").await;
        let sealed: (Vec<u8>, Vec<u8>) = crate::db::on_db!(&store.db, |pool| {
            sqlx::query_as("SELECT access_token, refresh_token FROM connections WHERE id = $1")
                .bind(connection.id.to_string())
                .fetch_one(pool)
                .await
                .unwrap()
        });
        for (record, plain) in [(&sealed.0, "access one"), (&sealed.1, "refresh one")] {
            assert!(record.len() > plain.len());
            assert!(!record.windows(plain.len()).any(|window| window == plain.as_bytes()));
        }
    })
    .await;
}

#[tokio::test]
async fn a_sealed_token_that_is_moved_does_not_open() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let other = put_connector(store, at(1)).await;
        store.create_space(&"other".parse().unwrap(), at(0), &event(Action::SpaceCreated, at(0))).await.unwrap();
        let victim = connected(store, &connector, &user("1"), "one").await;
        let thief = connected(store, &connector, &user("2"), "two").await;
        let (from, to) = (victim.id, thief.id);
        for (what, change, back) in [
            ("another row", format!("access_token = (SELECT access_token FROM connections WHERE id = '{from}')"), None),
            ("another column", "access_token = refresh_token".to_owned(), None),
            ("another owner", "owner = 'u:3'".to_owned(), Some("owner = 'u:2'".to_owned())),
            ("another label", "label = 'work'".to_owned(), Some("label = ''".to_owned())),
            (
                "another connector",
                format!("connector_id = '{}'", other.id),
                Some(format!("connector_id = '{}'", connector.id)),
            ),
            ("another space", "space_id = 'other'".to_owned(), Some("space_id = 'default'".to_owned())),
            ("another generation", "generation = 2".to_owned(), Some("generation = 1".to_owned())),
        ] {
            let set =
                async |change: &str| run(store, &format!("UPDATE connections SET {change} WHERE id = '{to}'")).await;
            let before = stored(store, &thief).await;
            set(&change).await;
            let moved = stored(store, &thief).await;
            let refused = store.open_access_token(&moved);
            assert!(matches!(refused, Err(StoreError::Open { column: "access_token", .. })), "{what}: {refused:?}");
            if let Some(back) = back {
                assert!(store.refresh_token(&moved.connection).await.is_err(), "{what}");
                set(&back).await;
                let again = stored(store, &thief).await;
                assert!(store.open_access_token(&again).is_ok(), "{what}");
            } else {
                let record = before.access_token.clone();
                crate::db::on_db_write!(&store.db, |pool| {
                    sqlx::query("UPDATE connections SET access_token = $1 WHERE id = $2")
                        .bind(record)
                        .bind(to.to_string())
                        .execute(pool)
                        .await
                        .unwrap();
                });
            }
        }
    })
    .await;
}

#[tokio::test]
async fn reconnecting_continues_the_generation_and_revokes_what_it_replaced() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let (owner, label) = (user("1"), Label::none());
        let first = connected(store, &connector, &owner, "one").await;
        let second = tokens("two", at(5));
        let revocation = RevocationId::new(at(5), &SystemEntropy);
        let again = Connect { revoke_replaced: Some(revocation), ..connect(&connector, &owner, &label, &second) };
        let Connected::Stored(connection) = store.connect(&again, audit(at(5))).await.unwrap() else { panic!() };
        assert_eq!((connection.id, connection.generation, connection.created_at), (first.id, 2, at(0)));
        assert_eq!(store.refresh_token(&connection).await.unwrap(), Some(Secret::from("refresh two")));
        assert_eq!(store.refresh_token(&first).await.unwrap(), None);
        let claimed = store.claim_revocations(at(6), at(60), 10).await.unwrap();
        assert_eq!(claimed.len(), 1);
        assert_eq!((claimed[0].revocation.id, claimed[0].revocation.reason), (revocation, RevocationReason::Replaced));
        assert_eq!(claimed[0].token, Secret::from("refresh one"));
    })
    .await;
}

#[tokio::test]
async fn an_active_connection_and_a_live_account_are_not_replaced_unasked() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let (owner, label) = (user("1"), Label::none());
        let first = connected(store, &connector, &owner, "one").await;
        let account = Account { issuer: "https://idp.example".to_owned(), subject: "8".to_owned(), name: None };
        let other = TokenSet { account: Some(account), ..tokens("two", at(5)) };
        let ask = connect(&connector, &owner, &label, &other);
        let occupied = store.connect(&Connect { replace_active: false, ..ask }, audit(at(5))).await.unwrap();
        assert!(matches!(occupied, Connected::Occupied));
        let ask = connect(&connector, &owner, &label, &other);
        assert!(matches!(store.connect(&ask, audit(at(5))).await.unwrap(), Connected::AccountChanged));
        assert_eq!(stored(store, &first).await.connection, Connection { next_try_at: None, ..first.clone() });
        let allowed = Connect { allow_account_change: true, ..connect(&connector, &owner, &label, &other) };
        assert!(matches!(store.connect(&allowed, audit(at(5))).await.unwrap(), Connected::Stored(_)));
        assert_eq!(events(store, Action::ConnectionConnected).await, 2);
    })
    .await;
}

#[tokio::test]
async fn first_connects_at_once_make_one_connection() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let owner = user("1");
        let all = (0..4).map(|_| connected(store, &connector, &owner, "same"));
        let mut generations: Vec<i64> =
            futures::future::join_all(all).await.iter().map(|connection| connection.generation).collect();
        generations.sort_unstable();
        assert_eq!(generations, [1, 2, 3, 4]);
        assert_eq!(number(store, "SELECT CAST(COUNT(*) AS BIGINT) FROM connections").await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_generation_is_settled_once_and_a_second_answer_is_late() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let connection = connected(store, &connector, &user("1"), "one").await;
        let (two, three) = (tokens("two", at(10)), tokens("three", at(11)));
        assert!(matches!(store.settle(&settle(&connection, &two), &audit(at(10))).await.unwrap(), Settled::Stored));
        assert!(matches!(store.settle(&settle(&connection, &three), &audit(at(11))).await.unwrap(), Settled::Late));
        let now = stored(store, &connection).await;
        assert_eq!(now.connection.generation, 2);
        assert_eq!(store.open_access_token(&now).unwrap(), Some(Secret::from("access two")));
        let queued = store.claim_revocations(at(12), at(60), 10).await.unwrap();
        assert_eq!(queued.len(), 1, "the access token waits for the refresh token");
        assert_eq!(queued[0].token, Secret::from("refresh three"));
        assert_eq!(queued[0].revocation.reason, RevocationReason::LateTokens);
        let filter = RevocationFilter::default();
        assert_eq!(store.list_revocations(&space(), &filter, None, 9).await.unwrap().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_late_success_brings_a_dead_connection_back() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let connection = connected(store, &connector, &user("1"), "one").await;
        let dead = async |now| {
            let audit = event(Action::ConnectionNeedsReauth, now);
            store.mark_dead(&connection, ReauthReason::GrantRevoked, "dead", now, &audit).await.unwrap()
        };
        assert!(dead(at(5)).await);
        assert!(!dead(at(6)).await);
        assert_eq!(events(store, Action::ConnectionNeedsReauth).await, 1);
        let marked = stored(store, &connection).await.connection.clone();
        assert_eq!(marked.status, Status::NeedsReauth);
        assert_eq!(marked.needs_reauth.unwrap().since, at(5));
        assert!(store.claim_due(at(9_999_999), at(9_999_999), 10).await.unwrap().is_empty());
        let two = tokens("two", at(10));
        assert!(matches!(store.settle(&settle(&connection, &two), &audit(at(10))).await.unwrap(), Settled::Stored));
        let back = stored(store, &connection).await.connection.clone();
        assert_eq!((back.status, back.needs_reauth, back.refreshing), (Status::Active, None, Refreshing::Ok));
        assert!(!dead(at(11)).await, "the generation is over");
    })
    .await;
}

#[tokio::test]
async fn a_failing_refresh_is_due_again_when_it_was_planned() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let connection = connected(store, &connector, &user("1"), "one").await;
        assert!(store.mark_failing(&connection, "unknown", Some(at(100)), at(50)).await.unwrap());
        let failing = stored(store, &connection).await.connection.clone();
        assert_eq!((failing.refreshing, failing.status), (Refreshing::Failing, Status::Active));
        assert!(store.claim_due(at(99), at(200), 10).await.unwrap().is_empty());
        assert_eq!(store.claim_due(at(100), at(200), 10).await.unwrap(), [connection.id]);
        assert!(store.claim_due(at(199), at(300), 10).await.unwrap().is_empty(), "claimed");
        assert_eq!(store.claim_due(at(200), at(300), 10).await.unwrap(), [connection.id], "its holder died");
        store.move_due(connection.id, None).await.unwrap();
        assert!(store.claim_due(at(9_999_999), at(9_999_999), 10).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn rejected_starts_one_refresh_in_its_time() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let connection = connected(store, &connector, &user("1"), "one").await;
        assert!(store.claim_rejected(&connection, at(100), at(40)).await.unwrap());
        assert!(!store.claim_rejected(&connection, at(150), at(90)).await.unwrap());
        assert!(store.claim_rejected(&connection, at(160), at(100)).await.unwrap());
        let older = Connection { generation: 0, ..connection };
        assert!(!store.claim_rejected(&older, at(900), at(800)).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn siblings_share_client_and_account() {
    each_store(async |store| {
        let (first, second) = (put_connector(store, at(0)).await, put_connector(store, at(1)).await);
        let connection = connected(store, &first, &user("1"), "one").await;
        assert_eq!(store.count_siblings(&first, &connection).await.unwrap(), 0);
        let sibling = connected(store, &second, &user("2"), "two").await;
        assert_eq!(store.count_siblings(&first, &connection).await.unwrap(), 1);
        let unknown = Connection { account: None, ..connection.clone() };
        assert_eq!(store.count_siblings(&first, &unknown).await.unwrap(), 0, "another owner");
        run(store, &format!("UPDATE connections SET status = 'revoked' WHERE id = '{}'", sibling.id)).await;
        assert_eq!(store.count_siblings(&first, &connection).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_refresh_token_that_was_kept_is_not_revoked_with_a_late_answer() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let connection = connected(store, &connector, &user("1"), "one").await;
        let (first, late) = (tokens("two", at(5)), tokens("three", at(6)));
        let stored =
            store.settle(&settle(&connection, &first), &event(Action::ConnectionRefreshed, at(5))).await.unwrap();
        assert!(matches!(stored, Settled::Stored), "{stored:?}");
        let kept = Settle { kept_refresh_token: true, ..settle(&connection, &late) };
        let end = store.settle(&kept, &event(Action::ConnectionRefreshed, at(6))).await.unwrap();
        assert!(matches!(end, Settled::Late), "{end:?}");
        let queued = "SELECT CAST(COUNT(*) AS BIGINT) FROM revocations WHERE token_kind = ";
        assert_eq!(number(store, &format!("{queued} 'access'")).await, 1);
        assert_eq!(number(store, &format!("{queued} 'refresh'")).await, 0, "the connection presents it next time");
    })
    .await;
}
