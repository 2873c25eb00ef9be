//! API keys, stored as hashes.

use valetkey_core::{ApiKey, AuditEvent, KeyId, SpaceId, Timestamp};

use crate::{
    StoreError, TokenStore,
    access::next_revision,
    audit::write_audit,
    db::{on_db, on_tx},
    rows::{from_json, instant, millis, parse, to_json},
    sql,
};

const TABLE: &str = "api_keys";

#[derive(sqlx::FromRow)]
struct KeyRow {
    id: String,
    space_id: String,
    name: String,
    roles: String,
    connectors: Option<String>,
    secret_hash: Vec<u8>,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
    last_used_at: Option<i64>,
}

impl TryFrom<KeyRow> for ApiKey {
    type Error = StoreError;

    fn try_from(row: KeyRow) -> Result<Self, StoreError> {
        let connectors = row.connectors.as_deref();
        Ok(Self {
            id: parse(TABLE, "id", &row.id, &row.id)?,
            space: parse(TABLE, "space_id", &row.id, &row.space_id)?,
            roles: from_json(TABLE, "roles", &row.id, &row.roles)?,
            connectors: connectors.map(|text| from_json(TABLE, "connectors", &row.id, text)).transpose()?,
            secret_hash: row
                .secret_hash
                .try_into()
                .map_err(|_| StoreError::inconsistent(TABLE, "secret_hash", &row.id))?,
            name: row.name,
            created_at: Timestamp::from_millis(row.created_at),
            expires_at: instant(row.expires_at),
            revoked_at: instant(row.revoked_at),
            last_used_at: instant(row.last_used_at),
        })
    }
}

impl TokenStore {
    /// Stores a new key.
    pub async fn insert_key(&self, key: &ApiKey, event: &AuditEvent) -> Result<(), StoreError> {
        let mut tx = self.db.begin_write().await?;
        on_tx!(&mut tx, |connection| {
            sqlx::query(sql::admin::INSERT_KEY)
                .bind(key.id.to_string())
                .bind(key.space.as_str())
                .bind(key.name.as_str())
                .bind(to_json(&key.roles))
                .bind(key.connectors.as_ref().map(to_json))
                .bind(key.secret_hash.as_slice())
                .bind(key.created_at.as_millis())
                .bind(millis(key.expires_at))
                .execute(connection)
                .await?;
        });
        write_audit(&mut tx, event).await?;
        tx.commit().await?;
        self.cache.forget_key(key.id);
        Ok(())
    }

    /// A key by its id, revoked and expired ones too: only its holder knows the id, and the hash still has to match.
    pub async fn find_key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        let row: Option<KeyRow> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::admin::FIND_KEY).bind(id.to_string()).fetch_optional(pool).await?
        });
        row.map(ApiKey::try_from).transpose()
    }

    /// A space's keys by id, that is oldest first.
    pub async fn list_keys(
        &self,
        space: &SpaceId,
        after: Option<KeyId>,
        limit: i64,
    ) -> Result<Vec<ApiKey>, StoreError> {
        let rows: Vec<KeyRow> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::admin::LIST_KEYS)
                .bind(space.as_str())
                .bind(after.map(|id| id.to_string()))
                .bind(limit)
                .fetch_all(pool)
                .await?
        });
        rows.into_iter().map(ApiKey::try_from).collect()
    }

    /// Revokes a key; `None` if there is none in that space. A second time changes nothing and writes no event.
    pub async fn revoke_key(
        &self,
        space: &SpaceId,
        id: KeyId,
        now: Timestamp,
        event: &AuditEvent,
    ) -> Result<Option<ApiKey>, StoreError> {
        let mut tx = self.db.begin_write().await?;
        let revoked: Option<KeyRow> = on_tx!(&mut tx, |connection| {
            sqlx::query_as(sql::admin::REVOKE_KEY)
                .bind(space.as_str())
                .bind(id.to_string())
                .bind(now.as_millis())
                .fetch_optional(connection)
                .await?
        });
        if let Some(row) = revoked {
            next_revision(&mut tx).await?;
            write_audit(&mut tx, event).await?;
            tx.commit().await?;
            self.cache.forget_key(id);
            return Ok(Some(row.try_into()?));
        }
        drop(tx);
        Ok(self.find_key(id).await?.filter(|key| key.space == *space))
    }
}
