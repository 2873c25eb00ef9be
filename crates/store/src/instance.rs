//! The instance: whose database this is, and how its secrets are unlocked.

use std::{fmt, io, sync::Arc};

use valetkey_core::{Entropy, KeyWrapper, SpaceId, Timestamp, WrapError};
use valetkey_sealing::{DataKeyRow, Sealer, new_data_key, new_instance_id};

use crate::{
    Database, StoreError, TokenStore,
    db::{Db, on_db, on_tx},
    rows::parse,
    sql,
};

pub(crate) const INSTANCE_ID: &str = "instance_id";
const FIRST_KEY: u32 = 1;

/// What unlocks a database.
#[derive(Clone)]
pub struct Unlock {
    /// The instance that the key ring belongs to, where it says so.
    pub instance: Option<String>,
    /// What unwraps data keys; the first wraps new ones.
    pub wrappers: Vec<Arc<dyn KeyWrapper>>,
}

impl fmt::Debug for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wrappers: Vec<_> = self.wrappers.iter().map(|wrapper| wrapper.id()).collect();
        f.debug_struct("Unlock").field("instance", &self.instance).field("wrappers", &wrappers).finish()
    }
}

#[derive(sqlx::FromRow)]
struct KeyTableRow {
    id: i64,
    state: String,
    wrapper: String,
    wrapped: Vec<u8>,
    canary: Vec<u8>,
    created_at: i64,
}

impl TryFrom<KeyTableRow> for DataKeyRow {
    type Error = StoreError;

    fn try_from(row: KeyTableRow) -> Result<Self, StoreError> {
        const TABLE: &str = "data_keys";
        let name = row.id.to_string();
        Ok(Self {
            id: u32::try_from(row.id).map_err(|_| StoreError::inconsistent(TABLE, "id", &name))?,
            state: parse(TABLE, "state", &name, &row.state)?,
            wrapper: row.wrapper,
            wrapped: row.wrapped,
            canary: row.canary,
            created_at: Timestamp::from_millis(row.created_at),
        })
    }
}

impl TokenStore {
    /// Unlocks a migrated database and makes its first contents: the instance id, the first data key, the space
    /// `default`.
    ///
    /// A foreign or missing key refuses the start and changes nothing. Several replicas may start on an empty database
    /// at once. `cache_bytes` bounds the sealed rows that are kept in memory.
    pub async fn open(
        database: Database,
        unlock: Unlock,
        cache_bytes: u64,
        entropy: &Arc<dyn Entropy>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let db = database.db;
        let instance = loop {
            // Keys first: whoever founds the database writes its instance with them, so that one is seen after the other.
            let has_keys = !list_data_keys(&db).await?.is_empty();
            match find_instance(&db).await? {
                Some(stored) => break stored,
                None if !has_keys => found(&db, &unlock, &**entropy, now).await?,
                // Nothing here opens without its instance: a row was lost, and a new one would hide that.
                None => return Err(StoreError::inconsistent("instance", "value", INSTANCE_ID)),
            }
        };
        if let Some(ring) = unlock.instance.clone().filter(|ring| *ring != instance) {
            return Err(StoreError::ForeignKeyRing { ring, database: instance });
        }
        // An empty key table is refused here: it was written together with the instance.
        let keys = list_data_keys(&db).await?;
        let sealer = Sealer::unlock(&instance, &keys, &unlock.wrappers, Arc::clone(entropy)).await?;
        Ok(Self::assemble(db, sealer, unlock.wrappers, cache_bytes))
    }

    /// The instance that the database belongs to.
    pub async fn instance_id(&self) -> Result<String, StoreError> {
        find_instance(&self.db).await?.ok_or_else(|| StoreError::inconsistent("instance", "value", INSTANCE_ID))
    }

    /// Whether the database answers and would take a write: readiness.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match &self.db {
            Db::Sqlite(_) => {
                self.instance_id().await?;
            }
            Db::Postgres(pool) => {
                let writable: bool =
                    sqlx::query_scalar(sql::admin::TAKES_WRITES_POSTGRES).fetch_one(&pool.looking()).await?;
                if !writable {
                    return Err(StoreError::Database(sqlx::Error::Io(io::Error::other(
                        "the database server is a standby, which takes no writes",
                    ))));
                }
            }
        }
        Ok(())
    }
}

async fn find_instance(db: &Db) -> Result<Option<String>, StoreError> {
    Ok(on_db!(db, |pool| {
        sqlx::query_scalar(sql::admin::FIND_INSTANCE).bind(INSTANCE_ID).fetch_optional(pool).await?
    }))
}

pub(crate) async fn list_data_keys(db: &Db) -> Result<Vec<DataKeyRow>, StoreError> {
    let rows: Vec<KeyTableRow> = on_db!(db, |pool| sqlx::query_as(sql::admin::LIST_DATA_KEYS).fetch_all(pool).await?);
    rows.into_iter().map(DataKeyRow::try_from).collect()
}

/// Writes the first contents. The key is wrapped before anything is written, and another replica that was faster wins:
/// the caller reads again either way.
async fn found(db: &Db, unlock: &Unlock, entropy: &dyn Entropy, now: Timestamp) -> Result<(), StoreError> {
    let wrapper = unlock.wrappers.first().ok_or(WrapError::Refused)?;
    let instance = unlock.instance.clone().unwrap_or_else(|| new_instance_id(entropy));
    let key = new_data_key(&instance, FIRST_KEY, wrapper.as_ref(), entropy, now).await?;
    let mut tx = db.begin_write().await?;
    on_tx!(&mut tx, |connection| {
        let first = sqlx::query(sql::admin::INSERT_INSTANCE)
            .bind(INSTANCE_ID)
            .bind(instance)
            .execute(&mut *connection)
            .await?
            .rows_affected();
        if first == 0 {
            return Ok(());
        }
        sqlx::query(sql::admin::INSERT_GUARD).execute(&mut *connection).await?;
        sqlx::query(sql::admin::INSERT_DATA_KEY)
            .bind(i64::from(key.id))
            .bind(key.state.as_str())
            .bind(key.wrapper)
            .bind(key.wrapped)
            .bind(key.canary)
            .bind(key.created_at.as_millis())
            .execute(&mut *connection)
            .await?;
        sqlx::query(sql::admin::INSERT_SPACE)
            .bind(SpaceId::default_space().as_str())
            .bind(now.as_millis())
            .execute(connection)
            .await?;
    });
    tx.commit().await
}
