//! Data keys: made, learnt by every replica, put to use, retired, wrapped anew.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::Mutex;
use valetkey_core::{AuditEvent, Entropy, KeyWrapper, Timestamp, WrapError};
use valetkey_sealing::{DataKeyRow, new_data_key};

use crate::{
    StoreError, TokenStore,
    audit::write_audit,
    db::{on_db, on_db_sweep, on_db_write, on_tx},
    instance::list_data_keys,
    sql::sealed as sql,
};

/// Readers that said nothing for so long are forgotten, in milliseconds.
const FORGET_READERS: i64 = 24 * 60 * 60 * 1_000;

/// What unwraps data keys, for as long as the process runs.
pub(crate) struct DataKeys {
    wrappers: RwLock<Vec<Arc<dyn KeyWrapper>>>,
    /// Held while the key table is read: of many calls that meet a new key one learns it.
    learning: Mutex<()>,
}

impl DataKeys {
    pub(crate) fn new(wrappers: Vec<Arc<dyn KeyWrapper>>) -> Self {
        Self { wrappers: RwLock::new(wrappers), learning: Mutex::new(()) }
    }

    fn wrappers(&self) -> Vec<Arc<dyn KeyWrapper>> {
        self.wrappers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one that wraps.
    fn active(&self) -> Result<Arc<dyn KeyWrapper>, StoreError> {
        Ok(self.wrappers().into_iter().next().ok_or(WrapError::Refused)?)
    }
}

impl fmt::Debug for DataKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKeys").field("wrappers", &self.wrappers()).finish_non_exhaustive()
    }
}

/// What a replica knew of the data keys when it last said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKeyReader {
    /// The replica.
    pub holder: String,
    /// The highest id that it holds.
    pub newest_key: u32,
    /// The key that it seals with.
    pub active_key: u32,
}

/// How many fields of a column a data key has sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFields {
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// The data key that they name.
    pub key_id: u32,
    /// How many.
    pub fields: u64,
}

impl TokenStore {
    /// The key table.
    pub async fn data_keys(&self) -> Result<Vec<DataKeyRow>, StoreError> {
        list_data_keys(&self.db).await
    }

    /// The data key that this process seals with.
    pub fn active_data_key(&self) -> u32 {
        self.sealer.active_key()
    }

    /// Whether this process holds a data key.
    pub fn has_data_key(&self, key_id: u32) -> bool {
        self.sealer.has_key(key_id)
    }

    /// Data keys that this process could not unwrap, with the reason; nothing is sealed with them.
    pub fn missing_data_keys(&self) -> std::collections::BTreeMap<u32, String> {
        self.sealer.missing_keys()
    }

    /// Which key-encryption key wraps new data keys.
    pub fn key_wrapper(&self) -> Result<String, StoreError> {
        Ok(self.data_keys.active()?.id().to_owned())
    }

    /// Takes other key-encryption keys from now on; the first wraps.
    pub fn set_key_wrappers(&self, wrappers: Vec<Arc<dyn KeyWrapper>>) {
        *self.data_keys.wrappers.write().unwrap_or_else(PoisonError::into_inner) = wrappers;
    }

    /// Takes over what changed in the key table; true if something did. After an error everything is as it was.
    pub async fn learn_data_keys(&self) -> Result<bool, StoreError> {
        let _one = self.data_keys.learning.lock().await;
        self.learn().await
    }

    async fn learn(&self) -> Result<bool, StoreError> {
        let rows = list_data_keys(&self.db).await?;
        if !self.sealer.is_behind(&rows) {
            return Ok(false);
        }
        self.sealer.reload(&rows, &self.data_keys.wrappers()).await?;
        Ok(true)
    }

    /// Sees that what was just read can be opened: a data key that another replica made meanwhile is learnt here.
    pub(crate) async fn know_key_of(&self, record: Option<&[u8]>) {
        let Some(record) = record.filter(|record| !self.sealer.can_open(record)) else { return };
        let _one = self.data_keys.learning.lock().await;
        if !self.sealer.can_open(record)
            && let Err(error) = self.learn().await
        {
            // Whoever opens the record says which key it lacks.
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a data key of another replica cannot be had: {error}"
            );
        }
    }

    /// Makes a data key that waits for its turn, unless one waits already. Answers with the id of the one that waits.
    pub async fn add_data_key(
        &self,
        entropy: &dyn Entropy,
        now: Timestamp,
        audit: &AuditEvent,
    ) -> Result<u32, StoreError> {
        let rows = self.data_keys().await?;
        let pending = |rows: &[DataKeyRow]| {
            rows.iter().find(|row| row.state == valetkey_sealing::DataKeyState::Pending).map(|row| row.id)
        };
        if let Some(id) = pending(&rows) {
            return Ok(id);
        }
        let id = rows.iter().map(|row| row.id).max().unwrap_or(0) + 1;
        let wrapper = self.data_keys.active()?;
        let instance = self.instance_id().await?;
        let key = new_data_key(&instance, id, wrapper.as_ref(), entropy, now).await?;
        let mut tx = self.db.begin_write().await?;
        let added = on_tx!(&mut tx, |connection| {
            sqlx::query(sql::INSERT_PENDING)
                .bind(i64::from(key.id))
                .bind(key.wrapper)
                .bind(key.wrapped)
                .bind(key.canary)
                .bind(key.created_at.as_millis())
                .execute(connection)
                .await?
                .rows_affected()
        }) == 1;
        if added {
            let mut audit = audit.clone();
            audit.detail = serde_json::json!({ "data_key": id });
            write_audit(&mut tx, &audit).await?;
            tx.commit().await?;
            return Ok(id);
        }
        drop(tx);
        // Another replica was faster.
        let rows = self.data_keys().await?;
        pending(&rows).ok_or_else(|| StoreError::inconsistent("data_keys", "state", &id.to_string()))
    }

    /// Puts the key that waits to use, in place of the one that sealed until now; false if it no longer waits.
    pub async fn activate_data_key(&self, key_id: u32, audit: &AuditEvent) -> Result<bool, StoreError> {
        let mut tx = self.db.begin_write().await?;
        let promoted = on_tx!(&mut tx, |connection| {
            sqlx::query(sql::DEMOTE).bind(i64::from(key_id)).execute(&mut *connection).await?;
            sqlx::query(sql::PROMOTE).bind(i64::from(key_id)).execute(connection).await?.rows_affected()
        }) == 1;
        if promoted {
            write_audit(&mut tx, audit).await?;
            tx.commit().await?;
        }
        Ok(promoted)
    }

    /// Says that nothing is left that a key has sealed.
    pub async fn retire_data_key(&self, key_id: u32, audit: &AuditEvent) -> Result<bool, StoreError> {
        let mut tx = self.db.begin_write().await?;
        let retired = on_tx!(&mut tx, |connection| {
            sqlx::query(sql::RETIRE).bind(i64::from(key_id)).execute(connection).await?.rows_affected()
        }) == 1;
        if retired {
            write_audit(&mut tx, audit).await?;
            tx.commit().await?;
        }
        Ok(retired)
    }

    /// Wraps data keys by the key-encryption key that wraps from now on: those that another one wraps, or all of them.
    /// Says how many were wrapped anew and which could not be.
    pub async fn rewrap_data_keys(&self, all: bool) -> Result<(u64, Vec<u32>), StoreError> {
        let wrapper = self.data_keys.active()?;
        let (mut wrapped_anew, mut missing) = (0, Vec::new());
        for row in self.data_keys().await? {
            if row.wrapper == wrapper.id() && !all {
                continue;
            }
            if !self.sealer.has_key(row.id) {
                missing.push(row.id);
                continue;
            }
            let anew = self.sealer.wrap_again(row.id, wrapper.as_ref()).await?;
            wrapped_anew += on_db_write!(&self.db, |pool| {
                sqlx::query(sql::REWRAP)
                    .bind(i64::from(row.id))
                    .bind(wrapper.id())
                    .bind(anew)
                    .bind(row.wrapped)
                    .execute(pool)
                    .await?
                    .rows_affected()
            });
        }
        Ok((wrapped_anew, missing))
    }

    /// Says to the other replicas what this one knows of the data keys.
    pub async fn note_data_key_reader(&self, holder: &str, now: Timestamp) -> Result<(), StoreError> {
        on_db_write!(&self.db, |pool| {
            sqlx::query(sql::NOTE_READER)
                .bind(holder)
                .bind(i64::from(self.sealer.newest_key()))
                .bind(i64::from(self.sealer.active_key()))
                .bind(now.as_millis())
                .execute(pool)
                .await?;
        });
        on_db_write!(&self.db, |pool| {
            sqlx::query(sql::SWEEP_READERS).bind(now.as_millis() - FORGET_READERS).execute(pool).await?;
        });
        Ok(())
    }

    /// Nobody waits for this replica any more.
    pub async fn drop_data_key_reader(&self, holder: &str) -> Result<(), StoreError> {
        on_db_write!(&self.db, |pool| {
            sqlx::query(sql::DROP_READER).bind(holder).execute(pool).await?;
        });
        Ok(())
    }

    /// The replicas that said something since then.
    pub async fn data_key_readers(&self, since: Timestamp) -> Result<Vec<DataKeyReader>, StoreError> {
        let rows: Vec<(String, i64, i64)> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::LIST_READERS).bind(since.as_millis()).fetch_all(pool).await?
        });
        let id = |holder: &str, id: i64| {
            u32::try_from(id).map_err(|_| StoreError::inconsistent("data_key_readers", "newest_key", holder))
        };
        rows.into_iter()
            .map(|(holder, newest, active)| {
                Ok(DataKeyReader { newest_key: id(&holder, newest)?, active_key: id(&holder, active)?, holder })
            })
            .collect()
    }

    /// How many fields each data key has sealed, column by column. Reads every sealed table once.
    pub async fn count_sealed_fields(&self) -> Result<Vec<SealedFields>, StoreError> {
        let rows: Vec<(String, String, Vec<u8>, i64)> =
            on_db_sweep!(&self.db, |pool| sqlx::query_as(sql::COUNT_FIELDS).fetch_all(pool).await?);
        let mut counted = Vec::with_capacity(rows.len());
        for (table, column, key_id, fields) in rows {
            let key_id = key_id.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
            counted.push(SealedFields { table, column, key_id, fields: u64::try_from(fields).unwrap_or(0) });
        }
        Ok(counted)
    }
}
