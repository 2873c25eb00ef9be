//! Connections and their tokens: find, open, count.

use std::sync::Arc;

use valetkey_core::{
    ApiKey, Connection, ConnectionId, Connector, ConnectorId, KeyId, Label, Owner, Secret, SpaceId, Timestamp,
    TokenKind,
};
use valetkey_sealing::RecordIdentity;

use crate::{
    StoreError, TokenStore,
    connectors::is_unchanged,
    db::{Db, Tx, on_db, on_db_look, on_db_write, on_tx},
    rows::{ConnectionRow, StoredConnection, to_json},
    sql::connections as sql,
};

pub(crate) const TABLE: &str = "connections";
const ACCESS_TOKEN: &str = "access_token";
pub(crate) const REFRESH_TOKEN: &str = "refresh_token";

/// What one token call needs to know, read together.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The key, valid or not; `None` if there is none of that id.
    pub key: Option<Arc<ApiKey>>,
    /// The connector, if it is in the key's space. Load it anew before acting on what it has observed.
    pub connector: Option<Arc<Connector>>,
    /// The connection of that owner and label; on PostgreSQL without account, ends and history.
    pub connection: Option<Arc<StoredConnection>>,
}

/// The identity that a connection's token is sealed under.
pub(crate) fn token_identity<'a>(
    kind: TokenKind,
    space: &'a str,
    row: &'a str,
    owner: &'a str,
    label: &'a str,
    connector: &'a str,
    generation: i64,
) -> RecordIdentity<'a> {
    let column = match kind {
        TokenKind::Access => ACCESS_TOKEN,
        TokenKind::Refresh => REFRESH_TOKEN,
    };
    RecordIdentity {
        space,
        table: TABLE,
        column,
        row,
        owner: Some(owner),
        label: Some(label),
        connector: Some(connector),
        generation: Some(generation),
    }
}

/// The texts of a connection's identity.
pub(crate) struct Texts {
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) connector: String,
}

impl Texts {
    pub(crate) fn of(id: ConnectionId, owner: &Owner, connector: ConnectorId) -> Self {
        Self { id: id.to_string(), owner: owner.key(), connector: connector.to_string() }
    }

    pub(crate) fn identity<'a>(
        &'a self,
        kind: TokenKind,
        space: &'a SpaceId,
        label: &'a Label,
        generation: i64,
    ) -> RecordIdentity<'a> {
        token_identity(kind, space.as_str(), &self.id, &self.owner, label.as_str(), &self.connector, generation)
    }
}

/// The tokens of one owner at one connector.
#[derive(Debug)]
pub struct OwnerTokens<'a> {
    store: &'a TokenStore,
    space: SpaceId,
    connector: ConnectorId,
    owner: Owner,
}

impl<'a> OwnerTokens<'a> {
    pub(crate) fn new(store: &'a TokenStore, space: &SpaceId, connector: ConnectorId, owner: Owner) -> Self {
        Self { store, space: space.clone(), connector, owner }
    }

    /// The connection under `label`, whatever its status.
    pub async fn find(&self, label: &Label) -> Result<Option<Arc<StoredConnection>>, StoreError> {
        self.store.connection_at(&self.space, self.connector, &self.owner, label).await
    }
}

impl TokenStore {
    /// Reads key, connector and connection for one token call. On SQLite from memory, if they are there.
    pub async fn access(
        &self,
        key: KeyId,
        connector: ConnectorId,
        owner: &Owner,
        label: &Label,
    ) -> Result<Access, StoreError> {
        if let Some(access) = self.access_in_memory(key, connector, owner, label) {
            return Ok(access);
        }
        // Boxed: what waits for a database is large, and must not make every call's future so.
        match &self.db {
            Db::Sqlite(_) => Box::pin(self.access_from_memory(key, connector, owner, label)).await,
            Db::Postgres(pool) => Box::pin(self.access_shared(pool, key, connector, owner, label)).await,
        }
    }

    /// The same, if everything is in memory.
    fn access_in_memory(&self, key: KeyId, connector: ConnectorId, owner: &Owner, label: &Label) -> Option<Access> {
        let key = self.cache.key(key)?;
        let connector = self.cache.connector(connector)?;
        let connection = self.cache.connection_at(connector.id, owner, label)?;
        let in_space = connector.space == key.space && connection.connection.space == key.space;
        (in_space && connector.deleted_at.is_none()).then_some(Access {
            key: Some(key),
            connector: Some(connector),
            connection: Some(connection),
        })
    }

    async fn access_from_memory(
        &self,
        key: KeyId,
        connector: ConnectorId,
        owner: &Owner,
        label: &Label,
    ) -> Result<Access, StoreError> {
        let key = self.key_cached(key).await?;
        let Some(space) = key.as_ref().map(|key| key.space.clone()) else { return Ok(Access::default()) };
        let connector = self.connector_cached(&space, connector).await?;
        let connection = match &connector {
            Some(found) => self.connection_at(&space, found.id, owner, label).await?,
            None => None,
        };
        Ok(Access { key, connector, connection })
    }

    pub(crate) async fn connection_at(
        &self,
        space: &SpaceId,
        connector: ConnectorId,
        owner: &Owner,
        label: &Label,
    ) -> Result<Option<Arc<StoredConnection>>, StoreError> {
        if let Some(found) = self.cache.connection_at(connector, owner, label) {
            return Ok((found.connection.space == *space).then_some(found));
        }
        let epoch = self.cache.epoch();
        let row: Option<ConnectionRow> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::FIND_AT)
                .bind(connector.to_string())
                .bind(owner.key())
                .bind(label.as_str())
                .bind(space.as_str())
                .fetch_optional(pool)
                .await?
        });
        self.remember(epoch, row).await
    }

    /// The connection, whatever its status and space.
    pub async fn find_stored(&self, id: ConnectionId) -> Result<Option<Arc<StoredConnection>>, StoreError> {
        if let Some(found) = self.cache.connection(id) {
            return Ok(Some(found));
        }
        self.read_stored(id).await
    }

    /// The same, surely from the database: what a refresh decides on, with the last use.
    pub async fn read_stored(&self, id: ConnectionId) -> Result<Option<Arc<StoredConnection>>, StoreError> {
        let epoch = self.cache.epoch();
        let row: Option<ConnectionRow> =
            on_db_look!(&self.db, |pool| sqlx::query_as(sql::FIND).bind(id.to_string()).fetch_optional(pool).await?);
        self.remember(epoch, row).await
    }

    /// Makes the connection of a connector with client credentials, without tokens and at generation 0; the attempt of
    /// that generation brings the first. Nothing happens if one is there, unless it was revoked: then it lives again.
    /// False if the connector is no longer what was read.
    pub async fn make_connection(
        &self,
        connector: &Connector,
        new_id: ConnectionId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.db.begin_write().await?;
        if !is_unchanged(&mut tx, connector.id, connector.version).await? {
            return Ok(false);
        }
        on_tx!(&mut tx, |executor| {
            sqlx::query(sql::MAKE_EMPTY)
                .bind(new_id.to_string())
                .bind(connector.space.as_str())
                .bind(connector.id.to_string())
                .bind(&connector.provider)
                .bind(Owner::Shared.key())
                .bind(to_json(&connector.scopes))
                .bind(now.as_millis())
                .execute(executor)
                .await?;
        });
        tx.commit().await?;
        self.cache.clear();
        Ok(true)
    }

    async fn remember(
        &self,
        epoch: crate::cache::Epoch,
        row: Option<ConnectionRow>,
    ) -> Result<Option<Arc<StoredConnection>>, StoreError> {
        let Some(row) = row else { return Ok(None) };
        let stored = Arc::new(StoredConnection::try_from(row)?);
        self.know_key_of(stored.access_token.as_deref()).await;
        self.cache.put_connection(epoch, &stored);
        Ok(Some(stored))
    }

    /// Opens the access token.
    pub fn open_access_token(&self, stored: &StoredConnection) -> Result<Option<Secret>, StoreError> {
        let Some(record) = &stored.access_token else { return Ok(None) };
        self.open_token(&stored.connection, TokenKind::Access, record).map(Some)
    }

    /// Reads and opens the refresh token of this generation; `None` if there is none, or the generation is over.
    pub async fn refresh_token(&self, connection: &Connection) -> Result<Option<Secret>, StoreError> {
        let record: Option<Option<Vec<u8>>> = on_db!(&self.db, |pool| {
            sqlx::query_scalar(sql::REFRESH_TOKEN)
                .bind(connection.id.to_string())
                .bind(connection.generation)
                .fetch_optional(pool)
                .await?
        });
        match record.flatten() {
            Some(record) => {
                self.know_key_of(Some(&record)).await;
                self.open_token(connection, TokenKind::Refresh, &record).map(Some)
            }
            None => Ok(None),
        }
    }

    pub(crate) fn open_token(
        &self,
        connection: &Connection,
        kind: TokenKind,
        record: &[u8],
    ) -> Result<Secret, StoreError> {
        let texts = Texts::of(connection.id, &connection.owner, connection.connector_id);
        let identity = texts.identity(kind, &connection.space, &connection.label, connection.generation);
        let column = identity.column;
        self.sealer.open_secret(&identity, record).map_err(|source| StoreError::Open { column, row: texts.id, source })
    }

    pub(crate) fn seal_token(
        &self,
        texts: &Texts,
        kind: TokenKind,
        space: &SpaceId,
        label: &Label,
        generation: i64,
        token: &Secret,
    ) -> Result<Vec<u8>, StoreError> {
        Ok(self.sealer.seal_secret(&texts.identity(kind, space, label, generation), token)?)
    }

    /// Lets one caller's `rejected` start a refresh, at most once since `not_since`.
    pub async fn claim_rejected(
        &self,
        connection: &Connection,
        now: Timestamp,
        not_since: Timestamp,
    ) -> Result<bool, StoreError> {
        let claimed = on_db_write!(&self.db, |pool| {
            sqlx::query(sql::CLAIM_REJECTED)
                .bind(connection.id.to_string())
                .bind(connection.generation)
                .bind(now.as_millis())
                .bind(not_since.as_millis())
                .execute(pool)
                .await?
                .rows_affected()
        }) == 1;
        if claimed {
            self.cache.forget_connection(connection.id);
        }
        Ok(claimed)
    }

    /// How many other live connections share the client and the account; where no account is known, the owner.
    pub async fn count_siblings(&self, connector: &Connector, connection: &Connection) -> Result<i64, StoreError> {
        let id = connection.id.to_string();
        let count = match &connection.account {
            Some(account) => on_db!(&self.db, |pool| {
                sqlx::query_scalar(sql::COUNT_SIBLINGS)
                    .bind(&connector.client_id)
                    .bind(&connector.provider)
                    .bind(id)
                    .bind(&account.issuer)
                    .bind(&account.subject)
                    .fetch_one(pool)
                    .await?
            }),
            None => on_db!(&self.db, |pool| {
                sqlx::query_scalar(sql::COUNT_SIBLINGS_OF_OWNER)
                    .bind(&connector.client_id)
                    .bind(&connector.provider)
                    .bind(id)
                    .bind(connection.space.as_str())
                    .bind(connection.owner.key())
                    .fetch_one(pool)
                    .await?
            }),
        };
        Ok(count)
    }
}

/// Moves the due point, or takes it away.
pub(crate) async fn put_due(tx: &mut Tx, id: ConnectionId, due_at: Option<Timestamp>) -> Result<(), StoreError> {
    match due_at {
        Some(at) => on_tx!(tx, |executor| {
            sqlx::query(sql::PUT_DUE).bind(id.to_string()).bind(at.as_millis()).execute(executor).await?;
        }),
        None => on_tx!(tx, |executor| {
            sqlx::query(sql::DELETE_DUE).bind(id.to_string()).execute(executor).await?;
        }),
    }
    Ok(())
}
