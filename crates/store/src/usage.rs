//! When tokens were last handed out and keys last used, to the minute, written in groups.

use std::collections::BTreeMap;

use valetkey_core::{ConnectionId, KeyId, Timestamp};

use crate::{
    StoreError, TokenStore,
    db::{Tx, on_tx},
    rows::to_json,
    sql,
};

/// A token was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Whose.
    pub connection: ConnectionId,
    /// When.
    pub at: Timestamp,
}

/// The minute that an instant lies in: more would cost a write for each call.
fn minute(at: Timestamp) -> i64 {
    at.as_millis() / 60_000 * 60_000
}

/// The newest use of each, by id: two replicas then take their row locks in the same order.
fn newest<T: Ord>(uses: impl Iterator<Item = (T, Timestamp)>) -> BTreeMap<T, i64> {
    let mut newest = BTreeMap::new();
    for (id, at) in uses {
        let minute = minute(at);
        newest.entry(id).and_modify(|seen: &mut i64| *seen = minute.max(*seen)).or_insert(minute);
    }
    newest
}

impl TokenStore {
    /// Records uses of connections and of keys in one transaction; an older use never replaces a newer one.
    pub async fn record_uses(&self, uses: &[Use], key_uses: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        if uses.is_empty() && key_uses.is_empty() {
            return Ok(());
        }
        let connections = newest(uses.iter().map(|used| (used.connection, used.at)));
        let keys = newest(key_uses.iter().copied());
        let mut tx = self.db.begin_write().await?;
        if !connections.is_empty() {
            let pairs = to_json(&connections.iter().collect::<Vec<_>>());
            match &mut tx {
                Tx::Sqlite(transaction) => {
                    sqlx::query(sql::admin::RECORD_USES_SQLITE).bind(pairs).execute(&mut **transaction).await?;
                }
                Tx::Postgres(transaction) => {
                    sqlx::query(sql::admin::RECORD_USES_POSTGRES).bind(pairs).execute(&mut *transaction).await?;
                }
            }
        }
        for (key, at) in keys {
            on_tx!(&mut tx, |connection| {
                sqlx::query(sql::admin::RECORD_KEY_USE).bind(key.to_string()).bind(at).execute(connection).await?;
            });
        }
        tx.commit().await
    }
}
