//! Everything that is sealed: it opens where it was sealed and nowhere else, and rotation leaves nothing behind.

use std::collections::{BTreeMap, BTreeSet};

use valetkey_core::{
    Action, Flow, FlowId, FlowMode, FlowStatus, KeyId, Label, Owner, RevocationId, RevocationReason, Secret,
    SystemEntropy, TokenKind,
};
use valetkey_sealing::DataKeyState;

use super::{
    support::{at, connector, each_place, each_store, entropy, event, events, number, run, space, unlock_with},
    tokens::{connected, user},
};
use crate::{
    AcceptedCallback, Begun, Bind, Engine, FlowCaps, SealedTable, StoreError, ToRevoke, TokenStore,
    db::{Tx, on_tx},
    settle::UnstoredToken,
};

/// After every id.
const LAST: &str = "~";

async fn put_flow(store: &TokenStore, connector: &valetkey_core::Connector, name: &str) {
    let flow = Flow {
        id: FlowId::new(at(0), &SystemEntropy),
        space: connector.space.clone(),
        connector_id: connector.id,
        started_by: KeyId::new(at(0), &SystemEntropy),
        owner: user(name),
        actor: None,
        user_display: None,
        label: Label::none(),
        mode: FlowMode::Redirect,
        return_url: "https://app.example/connected".to_owned(),
        origin: None,
        scopes: Vec::new(),
        login_hint: None,
        binding_challenge: None,
        allow_account_change: false,
        status: FlowStatus::Pending,
        failure: None,
        connection_id: None,
        created_at: at(0),
        expires_at: at(600_000),
        handle_expires_at: None,
    };
    let audit = event(Action::FlowStarted, at(0));
    let caps = FlowCaps { per_caller: 10, per_user: 10, total: 10 };
    let begun = store.insert_flow(&flow, connector.version, format!("ticket {name}").as_bytes(), caps, &audit).await;
    assert_eq!(begun.unwrap(), Begun::Stored);
    let (verifier, nonce, code) = ("verifier", "nonce", "code").into_secrets(name);
    let state = format!("state {name}");
    let bind = Bind {
        browser_hash: b"browser",
        presented_hash: None,
        state_hash: state.as_bytes(),
        verifier: &verifier,
        nonce: &nonce,
        now: at(1),
    };
    assert!(store.bind_flow(&flow, &bind, &event(Action::FlowOpened, at(1))).await.unwrap());
    let accepted = AcceptedCallback {
        state_hash: state.as_bytes(),
        status: FlowStatus::AwaitingFinish,
        code: &code,
        kept: &BTreeMap::new(),
        handle_hash: b"handle",
        handle_expires_at: at(60_000),
        confirm_hash: None,
        now: at(2),
    };
    assert!(store.accept_callback(&flow, &accepted, &event(Action::FlowCallback, at(2))).await.unwrap());
}

trait IntoSecrets {
    fn into_secrets(self, name: &str) -> (Secret, Secret, Secret);
}

impl IntoSecrets for (&str, &str, &str) {
    fn into_secrets(self, name: &str) -> (Secret, Secret, Secret) {
        let secret = |what| Secret::from(format!("{what} {name}"));
        (secret(self.0), secret(self.1), secret(self.2))
    }
}

/// Rows in two spaces with everything that is sealed.
async fn fill(store: &TokenStore) {
    let other = "other".parse().unwrap();
    store.create_space(&other, at(0), &event(Action::SpaceCreated, at(0))).await.unwrap();
    let mut connectors = Vec::new();
    for space in [space(), space(), other] {
        let connector = connector(&space, at(0));
        let secrets = [Secret::from("hunter2")];
        store.insert_connector(&connector, &secrets, &event(Action::ConnectorCreated, at(0))).await.unwrap();
        connectors.push(connector);
    }
    // The same user and the same plaintexts wherever it can be: only the place differs.
    for connector in &connectors {
        connected(store, connector, &user("1"), "same").await;
    }
    connected(store, &connectors[0], &user("2"), "same").await;
    connected(store, &connectors[0], &Owner::Shared, "same").await;
    let revoked = connected(store, &connectors[0], &user("3"), "same").await;
    put_flow(store, &connectors[0], "1").await;
    put_flow(store, &connectors[0], "2").await;
    let to_revoke = ToRevoke {
        connection: revoked.id,
        refresh: RevocationId::new(at(1), &SystemEntropy),
        access: RevocationId::new(at(2), &SystemEntropy),
    };
    let begun =
        store.revoke_connections(&space(), &[to_revoke], RevocationReason::Operator, at(10), &[]).await.unwrap();
    assert_eq!(begun.len(), 1);
    for kind in [TokenKind::Refresh, TokenKind::Access] {
        let unstored = UnstoredToken {
            id: RevocationId::new(at(3), &SystemEntropy),
            space: &space(),
            connection: &revoked.id.to_string(),
            connector: &connectors[0].id.to_string(),
            owner: &user("3").key(),
            label: &Label::none(),
            kind,
            token: &Secret::from("access same"),
            reason: RevocationReason::LateTokens,
            now: at(3),
        };
        let mut tx = store.db.begin_write().await.unwrap();
        store.queue_unstored(&mut tx, &unstored).await.unwrap();
        tx.commit().await.unwrap();
    }
}

/// A sealed field of the database.
struct Stored {
    table: SealedTable,
    column: &'static str,
    row: String,
    record: Vec<u8>,
}

async fn stored(store: &TokenStore) -> Vec<Stored> {
    let mut all = Vec::new();
    for table in SealedTable::ALL {
        for row in store.sealed_rows(table, "", LAST, &[]).await.unwrap() {
            for (identity, record) in row.fields(table).unwrap() {
                let Some(record) = record else { continue };
                let column = if table == SealedTable::Revocations { "token" } else { identity.column };
                all.push(Stored { table, column, row: row.id().to_owned(), record: record.to_vec() });
            }
        }
    }
    all
}

async fn put(store: &TokenStore, field: &Stored, record: &[u8]) {
    let hex = data_encoding::HEXLOWER.encode(record);
    let bytes = match store.engine() {
        Engine::Sqlite => format!("x'{hex}'"),
        Engine::Postgres => format!("'\\x{hex}'"),
    };
    let (table, column, row) = (field.table.as_str(), field.column, &field.row);
    assert_eq!(run(store, &format!("UPDATE {table} SET {column} = {bytes} WHERE id = '{row}'")).await, 1);
}

async fn unreadable(store: &TokenStore, table: SealedTable) -> u64 {
    store.check_sealed(table, "", 1_000).await.unwrap().unreadable
}

#[tokio::test]
async fn every_sealed_column_of_the_schema_is_known_to_rotation() {
    each_store(async |store| {
        fill(store).await;
        let all = stored(store).await;
        let columns: BTreeSet<_> = all.iter().map(|field| (field.table.as_str(), field.column)).collect();
        let expected = BTreeSet::from([
            ("connectors", "secrets"),
            ("connections", "access_token"),
            ("connections", "refresh_token"),
            ("flows", "verifier"),
            ("flows", "nonce"),
            ("flows", "code"),
            ("revocations", "token"),
        ]);
        assert_eq!(columns, expected);
        let counted = store.count_sealed_fields().await.unwrap();
        let sum: u64 = counted.iter().map(|fields| fields.fields).sum();
        assert_eq!(sum, all.len() as u64);
        assert!(counted.iter().all(|fields| fields.key_id == 1), "{counted:?}");
        // Bytes of the schema that are no hash and no wrapped key are sealed: a new column is to be added above.
        for schema in [
            include_str!("../../../../migrations/sqlite/0001_initial.sql"),
            include_str!("../../../../migrations/postgres/0001_initial.sql"),
        ] {
            let bytes = schema.lines().filter_map(|line| {
                let (name, rest) = line.trim().split_once(' ')?;
                (rest.starts_with("BLOB") || rest.starts_with("BYTEA")).then_some(name)
            });
            let sealed = bytes.filter(|name| !name.ends_with("_hash") && !matches!(*name, "wrapped" | "canary"));
            assert_eq!(sealed.collect::<BTreeSet<_>>(), expected.iter().map(|(_, column)| *column).collect());
        }
    })
    .await;
}

#[tokio::test]
async fn every_ordered_pair_of_sealed_fields_that_is_swapped_is_refused() {
    each_store(async |store| {
        fill(store).await;
        let all = stored(store).await;
        let (mut swaps, mut refused) = (0, 0);
        for place in &all {
            for other in &all {
                if (place.table, place.column, &place.row) == (other.table, other.column, &other.row) {
                    continue;
                }
                put(store, place, &other.record).await;
                swaps += 1;
                refused += unreadable(store, place.table).await;
            }
            put(store, place, &place.record).await;
        }
        assert!(swaps > 300, "{swaps}");
        assert_eq!(refused, swaps, "each swap makes one field unreadable");
        for table in SealedTable::ALL {
            assert_eq!(unreadable(store, table).await, 0, "all is in its place again");
        }
    })
    .await;
}

#[tokio::test]
async fn every_flipped_byte_of_every_sealed_field_is_refused() {
    each_store(async |store| {
        fill(store).await;
        let (mut flips, mut refused) = (0, 0);
        for table in SealedTable::ALL {
            for row in store.sealed_rows(table, "", LAST, &[]).await.unwrap() {
                for (identity, record) in row.fields(table).unwrap() {
                    let Some(record) = record else { continue };
                    assert!(store.sealer.open(&identity, record).is_ok());
                    for position in 0..record.len() {
                        for flip in [0x01, 0x80, 0xff] {
                            let mut flipped = record.to_vec();
                            flipped[position] ^= flip;
                            flips += 1;
                            refused += u64::from(store.sealer.open(&identity, &flipped).is_err());
                        }
                    }
                }
            }
        }
        assert!(flips > 5_000, "{flips}");
        assert_eq!(refused, flips);
    })
    .await;
}

/// Makes a new data key and puts it to use.
async fn new_key(store: &TokenStore) -> u32 {
    let id = store.add_data_key(&SystemEntropy, at(20), &event(Action::DataKeyCreated, at(20))).await.unwrap();
    assert!(store.learn_data_keys().await.unwrap());
    assert!(store.activate_data_key(id, &event(Action::DataKeyActivated, at(20))).await.unwrap());
    assert!(store.learn_data_keys().await.unwrap());
    assert_eq!(store.active_data_key(), id);
    id
}

/// Seals everything anew in windows of `limit` rows, as often as it is put off.
async fn reseal(store: &TokenStore, limit: i64) -> u64 {
    let mut fields = 0;
    for table in SealedTable::ALL {
        let mut after = String::new();
        loop {
            let window = store.reseal(table, &after, limit).await.unwrap();
            assert_eq!((window.put_off, window.unreadable), (0, 0));
            fields += window.fields;
            let Some(end) = window.end else { break };
            after = end;
        }
    }
    fields
}

#[tokio::test]
async fn a_rotation_in_windows_of_any_size_leaves_nothing_on_the_old_key() {
    for limit in [1, 3, 1_000] {
        each_store(async |store| {
            fill(store).await;
            let before = stored(store).await;
            let id = new_key(store).await;
            assert_eq!(id, 2);
            assert_eq!(reseal(store, limit).await, before.len() as u64);
            assert_eq!(reseal(store, limit).await, 0, "there is nothing left to do");
            let counted = store.count_sealed_fields().await.unwrap();
            assert!(counted.iter().all(|fields| fields.key_id == 2), "{counted:?}");
            for table in SealedTable::ALL {
                assert_eq!(unreadable(store, table).await, 0);
            }
            assert!(store.retire_data_key(1, &event(Action::DataKeyRetired, at(30))).await.unwrap());
            assert_eq!(events(store, Action::DataKeyActivated).await, 1);
            let states: Vec<_> = store.data_keys().await.unwrap().iter().map(|row| (row.id, row.state)).collect();
            assert_eq!(states, [(1, DataKeyState::Retired), (2, DataKeyState::Active)]);
        })
        .await;
    }
}

#[tokio::test]
async fn a_row_that_changes_meanwhile_keeps_the_change() {
    each_store(async |store| {
        fill(store).await;
        new_key(store).await;
        let rows = store.sealed_rows(SealedTable::Connections, "", LAST, &2_u32.to_be_bytes()).await.unwrap();
        let row = &rows[0];
        let (fields, sealed) = store.seal_row_anew(SealedTable::Connections, row, &mut 0).await.unwrap();
        assert_eq!(sealed, 2);
        // The row loses a token between the reading and the writing, as in a revocation.
        run(store, &format!("UPDATE connections SET access_token = NULL WHERE id = '{}'", row.id())).await;
        let mut tx = store.db.begin_write().await.unwrap();
        assert!(!store.put_row(&mut tx, SealedTable::Connections, row, fields).await.unwrap());
        tx.commit().await.unwrap();
        let without = format!(
            "SELECT CAST(COUNT(*) AS BIGINT) FROM connections WHERE access_token IS NULL AND id = '{}'",
            row.id()
        );
        assert_eq!(number(store, &without).await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_row_that_somebody_holds_is_put_off_and_nobody_is_waited_for() {
    each_store(async |store| {
        if store.engine() == Engine::Sqlite {
            return;
        }
        fill(store).await;
        new_key(store).await;
        let mut held = store.db.begin_write().await.unwrap();
        hold(&mut held).await;
        let window = store.reseal(SealedTable::Connections, "", 1_000).await.unwrap();
        assert_eq!((window.fields, window.put_off), (0, 5), "all rows are held");
        drop(held);
        let window = store.reseal(SealedTable::Connections, "", 1_000).await.unwrap();
        assert_eq!((window.fields, window.put_off), (10, 0));
    })
    .await;
}

async fn hold(tx: &mut Tx) {
    on_tx!(tx, |executor| {
        sqlx::query("UPDATE connections SET updated_at = updated_at").execute(executor).await.unwrap();
    });
}

#[tokio::test]
async fn a_replica_that_meets_a_new_key_learns_it() {
    each_place(async |place| {
        let (first, second) = (place.store().await, place.store().await);
        new_key(&first).await;
        let made = connector(&space(), at(30));
        let secrets = [Secret::from("sealed with the new key")];
        first.insert_connector(&made, &secrets, &event(Action::ConnectorCreated, at(30))).await.unwrap();
        let connection = connected(&first, &made, &user("1"), "new").await;

        assert!(!second.has_data_key(2));
        let found = second.find_stored(connection.id).await.unwrap().unwrap();
        assert_eq!(second.open_access_token(&found).unwrap(), Some(Secret::from("access new")));
        assert_eq!(second.active_data_key(), 2);
        assert_eq!(second.connector_secrets(&made).await.unwrap(), secrets);
        first.close().await;
        second.close().await;
    })
    .await;
}

#[tokio::test]
async fn two_rotations_at_once_make_one_key() {
    each_place(async |place| {
        let (first, second) = (place.store().await, place.store().await);
        let audit = event(Action::DataKeyCreated, at(20));
        let ids = futures::future::join(first.add_data_key(&SystemEntropy, at(20), &audit), async {
            second.add_data_key(&SystemEntropy, at(20), &event(Action::DataKeyCreated, at(20))).await
        })
        .await;
        assert_eq!((ids.0.unwrap(), ids.1.unwrap()), (2, 2));
        assert_eq!(number(&first, "SELECT CAST(COUNT(*) AS BIGINT) FROM data_keys").await, 2);
        first.learn_data_keys().await.unwrap();
        let activated = event(Action::DataKeyActivated, at(20));
        assert!(first.activate_data_key(2, &activated).await.unwrap());
        assert!(!second.activate_data_key(2, &activated).await.unwrap(), "it no longer waits");
        assert_eq!(events(&first, Action::DataKeyActivated).await, 1);
        first.close().await;
        second.close().await;
    })
    .await;
}

#[tokio::test]
async fn data_keys_move_to_another_key_encryption_key_and_the_old_one_is_no_longer_needed() {
    const OTHER: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";
    each_place(async |place| {
        let store = place.store().await;
        fill(&store).await;
        new_key(&store).await;
        let mut wrappers = unlock_with(OTHER).wrappers;
        let new_id = wrappers[0].id().to_owned();
        wrappers.extend(super::support::unlock().wrappers);
        store.set_key_wrappers(wrappers);
        assert_eq!(store.rewrap_data_keys(false).await.unwrap(), (2, Vec::new()));
        assert_eq!(store.rewrap_data_keys(false).await.unwrap(), (0, Vec::new()));
        assert_eq!(store.rewrap_data_keys(true).await.unwrap(), (2, Vec::new()));
        assert!(store.data_keys().await.unwrap().iter().all(|row| row.wrapper == new_id));
        store.close().await;

        let database = place.database().await;
        let alone = TokenStore::open(database.clone(), unlock_with(OTHER), 0, &entropy(), at(40)).await.unwrap();
        for table in SealedTable::ALL {
            assert_eq!(unreadable(&alone, table).await, 0);
        }
        let old = TokenStore::open(database, super::support::unlock(), 0, &entropy(), at(40)).await.unwrap_err();
        let StoreError::Unlock(refused) = old else { panic!("{old:?}") };
        let text = refused.to_string();
        assert!(text.contains("data key 1") && text.contains(&new_id), "it says which key is lacking: {text}");
        alone.close().await;
    })
    .await;
}
