//! What the token call reads: keys and connectors, from memory where this process is the only writer.

use std::sync::Arc;

use sqlx::{Row, postgres::PgRow};
use valetkey_core::{ApiKey, Connector, ConnectorId, KeyId, SpaceId, Timestamp};

use crate::{
    StoreError, TokenStore,
    rows::{from_json, instant, parse},
};

impl TokenStore {
    /// The key, valid or not.
    pub async fn key_cached(&self, id: KeyId) -> Result<Option<Arc<ApiKey>>, StoreError> {
        if let Some(found) = self.cache.key(id) {
            return Ok(Some(found));
        }
        let epoch = self.cache.epoch();
        let Some(key) = self.find_key(id).await? else { return Ok(None) };
        let key = Arc::new(key);
        self.cache.put_key(epoch, &key);
        Ok(Some(key))
    }

    /// The connector, if it is in the space and not deleted.
    pub(crate) async fn connector_cached(
        &self,
        space: &SpaceId,
        id: ConnectorId,
    ) -> Result<Option<Arc<Connector>>, StoreError> {
        if let Some(found) = self.cache.connector(id) {
            return Ok((found.space == *space && found.deleted_at.is_none()).then_some(found));
        }
        let epoch = self.cache.epoch();
        let Some(connector) = self.find_connector(space, id).await? else { return Ok(None) };
        let connector = Arc::new(connector);
        self.cache.put_connector(epoch, &connector);
        Ok(Some(connector))
    }

    /// The connector as it was at `version`, which the database has just named: parsed once, kept by version.
    pub(crate) async fn connector_of_version(
        &self,
        id: ConnectorId,
        version: i64,
    ) -> Result<Option<Arc<Connector>>, StoreError> {
        if let Some(found) = self.parsed.get(&id)
            && found.version == version
        {
            return Ok(Some(found));
        }
        let Some(connector) = self.find_connector_any(id).await? else { return Ok(None) };
        let connector = Arc::new(connector);
        self.parsed.insert(id, Arc::clone(&connector));
        Ok(Some(connector))
    }
}

/// Reads the key's columns of `sql::connections::ACCESS`.
pub(crate) fn key_from_access_row(id: KeyId, row: &PgRow) -> Result<ApiKey, StoreError> {
    const TABLE: &str = "api_keys";
    let text = id.to_string();
    let connectors: Option<&str> = row.try_get("key_connectors")?;
    let hash: &[u8] = row.try_get("key_secret_hash")?;
    Ok(ApiKey {
        id,
        space: parse(TABLE, "space_id", &text, row.try_get("key_space_id")?)?,
        name: row.try_get("key_name")?,
        roles: from_json(TABLE, "roles", &text, row.try_get("key_roles")?)?,
        connectors: connectors.map(|list| from_json(TABLE, "connectors", &text, list)).transpose()?,
        secret_hash: hash.try_into().map_err(|_| StoreError::inconsistent(TABLE, "secret_hash", &text))?,
        created_at: Timestamp::from_millis(row.try_get("key_created_at")?),
        expires_at: instant(row.try_get("key_expires_at")?),
        revoked_at: instant(row.try_get("key_revoked_at")?),
        last_used_at: None,
    })
}
