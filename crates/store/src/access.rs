//! What the token call reads: from memory where this process is the only writer, else in one statement.

use std::sync::Arc;

use sqlx::{Row, postgres::PgRow};
use valetkey_core::{
    ApiKey, Connection, Connector, ConnectorId, Fingerprint, KeyId, Label, NeedsReauth, Owner, SpaceId, Timestamp,
};

use crate::{
    Access, StoreError, StoredConnection, TokenStore,
    bounded::BoundedPool,
    db::{Tx, on_tx},
    rows::{from_json, instant, parse},
    sql::connections as sql,
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

    /// What a token call needs on PostgreSQL: one statement, and two more after a key or connector changed.
    pub(crate) async fn access_shared(
        &self,
        pool: &BoundedPool,
        key: KeyId,
        connector: ConnectorId,
        owner: &Owner,
        label: &Label,
    ) -> Result<Access, StoreError> {
        let row = sqlx::query(sql::ACCESS)
            .bind(connector.to_string())
            .bind(owner.key())
            .bind(label.as_str())
            .fetch_one(&pool.calling())
            .await?;
        let revision: i64 = row.try_get(0)?;
        let Some(key) = self.key_at(revision, key).await? else { return Ok(Access::default()) };
        let connector = self.connector_at(revision, connector).await?.filter(|found| found.space == key.space);
        let connection = match (&connector, row.try_get::<Option<&str>, _>(1)?) {
            (Some(connector), Some(id)) => {
                let stored = call_row(connector, owner, label, id, &row)?;
                self.know_key_of(stored.access_token.as_deref()).await;
                Some(Arc::new(stored))
            }
            _ => None,
        };
        Ok(Access { key: Some(key), connector, connection })
    }

    async fn key_at(&self, revision: i64, id: KeyId) -> Result<Option<Arc<ApiKey>>, StoreError> {
        if let Some((read_at, key)) = self.shared_keys.get(&id)
            && read_at == revision
        {
            return Ok(Some(key));
        }
        let Some(key) = self.find_key(id).await? else { return Ok(None) };
        let key = Arc::new(key);
        self.shared_keys.insert(id, (revision, Arc::clone(&key)));
        Ok(Some(key))
    }

    async fn connector_at(&self, revision: i64, id: ConnectorId) -> Result<Option<Arc<Connector>>, StoreError> {
        if let Some((read_at, connector)) = self.shared_connectors.get(&id)
            && read_at == revision
        {
            return Ok(Some(connector));
        }
        let found = self.find_connector_any(id).await?.filter(|connector| connector.deleted_at.is_none());
        let Some(connector) = found else { return Ok(None) };
        let connector = Arc::new(connector);
        self.shared_connectors.insert(id, (revision, Arc::clone(&connector)));
        Ok(Some(connector))
    }
}

/// Says in this transaction that a key or connector changed.
pub(crate) async fn next_revision(tx: &mut Tx) -> Result<(), StoreError> {
    on_tx!(tx, |executor| {
        sqlx::query(sql::NEXT_REVISION).execute(executor).await?;
    });
    Ok(())
}

/// Reads the connection of `sql::connections::ACCESS`: what a token call needs, and nothing of account, ends and
/// history. A refresh reads the whole row anew.
fn call_row(
    connector: &Connector,
    owner: &Owner,
    label: &Label,
    id: &str,
    row: &PgRow,
) -> Result<StoredConnection, StoreError> {
    const TABLE: &str = "connections";
    let reason: Option<&str> = row.try_get(3)?;
    let needs_reauth = match (reason, instant(row.try_get(4)?)) {
        (Some(reason), Some(since)) => Some(NeedsReauth { reason: parse(TABLE, "reauth_reason", id, reason)?, since }),
        _ => None,
    };
    let connection = Connection {
        id: parse(TABLE, "id", id, id)?,
        space: connector.space.clone(),
        connector_id: connector.id,
        provider: connector.provider.clone(),
        owner: owner.clone(),
        label: label.clone(),
        status: parse(TABLE, "status", id, row.try_get(2)?)?,
        needs_reauth,
        requested_scopes: from_json(TABLE, "requested_scopes", id, row.try_get(5)?)?,
        granted_scopes: from_json(TABLE, "granted_scopes", id, row.try_get(6)?)?,
        account: None,
        generation: row.try_get(7)?,
        token_type: row.try_get(8)?,
        issued_at: Timestamp::from_millis(row.try_get(12)?),
        expires_at: instant(row.try_get(13)?),
        has_refresh_token: row.try_get(10)?,
        refresh_expires_at: None,
        reconnect_by: None,
        refresh_due_at: instant(row.try_get(14)?),
        next_try_at: None,
        refreshing: parse(TABLE, "refreshing", id, row.try_get(15)?)?,
        last_attempt: None,
        rejected_at: instant(row.try_get(16)?),
        weakly_bound: false,
        created_at: Timestamp::from_millis(row.try_get(17)?),
        updated_at: Timestamp::from_millis(row.try_get(18)?),
        last_used_at: None,
    };
    let fingerprint: Option<String> = row.try_get(11)?;
    Ok(StoredConnection {
        connection,
        fingerprint: fingerprint.map(Fingerprint::from_text),
        access_token: row.try_get(9)?,
    })
}
