//! Connections and their tokens: find, connect, settle, mark.

use std::sync::Arc;

use serde_json::json;
use sqlx::FromRow;
use valetkey_core::{
    Account, ApiKey, AttemptId, AuditEvent, Connection, ConnectionId, Connector, ConnectorId, FlowId, KeyId, Label,
    Owner, ReauthReason, RevocationId, RevocationReason, Secret, SpaceId, Status, Timestamp, TokenKind, TokenSet,
};
use valetkey_sealing::RecordIdentity;

use crate::{
    StoreError, TokenStore,
    audit::write_audit,
    db::{Db, Tx, on_db, on_db_write, on_tx},
    revocations::{QueuedToken, queue_token},
    rows::{ConnectionRow, StoredConnection, millis, parse, to_json},
    sql::connections as sql,
};

const TABLE: &str = "connections";
const ACCESS_TOKEN: &str = "access_token";
const REFRESH_TOKEN: &str = "refresh_token";

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

/// A token set on its way into a connection.
#[derive(Debug)]
pub struct Connect<'a> {
    /// The flow that brought it, which must still be `finishing`; none for imports and client credentials.
    pub flow: Option<FlowId>,
    /// The connection's id, if it is new.
    pub new_id: ConnectionId,
    /// The connector.
    pub connector: &'a Connector,
    /// Whose grant.
    pub owner: &'a Owner,
    /// Which of the owner's accounts.
    pub label: &'a Label,
    /// The tokens.
    pub tokens: &'a TokenSet,
    /// Scopes that were asked for.
    pub requested_scopes: &'a [String],
    /// Scopes that were granted.
    pub granted_scopes: &'a [String],
    /// When the first refresh is due.
    pub due_at: Option<Timestamp>,
    /// Bound by the confirm page only.
    pub weakly_bound: bool,
    /// Another account may take the place of the one connected before.
    pub allow_account_change: bool,
    /// An active connection may be replaced.
    pub replace_active: bool,
    /// If set, a refresh token that is replaced is queued for revocation under this id.
    pub revoke_replaced: Option<RevocationId>,
    /// Now.
    pub now: Timestamp,
}

/// How a token set was received.
#[derive(Debug)]
pub enum Connected {
    /// It is stored.
    Stored(Box<Connection>),
    /// Another account is connected there; nothing changed.
    AccountChanged,
    /// An active connection is there and may not be replaced; nothing changed.
    Occupied,
    /// The flow is no longer `finishing`; nothing changed.
    FlowOver,
}

/// A refreshed token set on its way into its connection.
#[derive(Debug)]
pub struct Settle<'a> {
    /// The connection as it was when the attempt was recorded.
    pub connection: &'a Connection,
    /// The attempt.
    pub attempt: AttemptId,
    /// The tokens; its refresh token is what must be presented next, new or kept.
    pub tokens: &'a TokenSet,
    /// Scopes that are granted now.
    pub granted_scopes: &'a [String],
    /// When the next refresh is due.
    pub due_at: Option<Timestamp>,
    /// Ids for revocations of these tokens, should the connection have been revoked meanwhile: refresh, access.
    pub late_ids: (RevocationId, RevocationId),
    /// Now.
    pub now: Timestamp,
}

/// How a refreshed token set was received.
#[derive(Debug)]
pub enum Settled {
    /// It is stored under the next generation.
    Stored,
    /// The connection was revoked, reconnected or purged meanwhile: the tokens are queued for revocation.
    Late,
}

#[derive(Debug, FromRow)]
struct ExistingRow {
    id: String,
    generation: i64,
    status: String,
    refresh_token: Option<Vec<u8>>,
    account_issuer: Option<String>,
    account_subject: Option<String>,
    created_at: i64,
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
struct Texts {
    id: String,
    owner: String,
    connector: String,
}

impl Texts {
    fn of(id: ConnectionId, owner: &Owner, connector: ConnectorId) -> Self {
        Self { id: id.to_string(), owner: owner.key(), connector: connector.to_string() }
    }

    fn identity<'a>(
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
        self.remember(epoch, row)
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
            on_db!(&self.db, |pool| sqlx::query_as(sql::FIND).bind(id.to_string()).fetch_optional(pool).await?);
        self.remember(epoch, row)
    }

    /// Makes the connection of a connector with client credentials, without tokens and at generation 0; the attempt of
    /// that generation brings the first. Nothing happens if one is there, unless it was revoked: then it lives again.
    pub async fn make_connection(
        &self,
        connector: &Connector,
        new_id: ConnectionId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        on_db_write!(&self.db, |pool| {
            sqlx::query(sql::MAKE_EMPTY)
                .bind(new_id.to_string())
                .bind(connector.space.as_str())
                .bind(connector.id.to_string())
                .bind(&connector.provider)
                .bind(Owner::Shared.key())
                .bind(to_json(&connector.scopes))
                .bind(now.as_millis())
                .execute(pool)
                .await?;
        });
        self.cache.clear();
        Ok(())
    }

    fn remember(
        &self,
        epoch: crate::cache::Epoch,
        row: Option<ConnectionRow>,
    ) -> Result<Option<Arc<StoredConnection>>, StoreError> {
        let Some(row) = row else { return Ok(None) };
        let stored = Arc::new(StoredConnection::try_from(row)?);
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
            Some(record) => self.open_token(connection, TokenKind::Refresh, &record).map(Some),
            None => Ok(None),
        }
    }

    fn open_token(&self, connection: &Connection, kind: TokenKind, record: &[u8]) -> Result<Secret, StoreError> {
        let texts = Texts::of(connection.id, &connection.owner, connection.connector_id);
        let identity = texts.identity(kind, &connection.space, &connection.label, connection.generation);
        let column = identity.column;
        self.sealer.open_secret(&identity, record).map_err(|source| StoreError::Open { column, row: texts.id, source })
    }

    fn seal_token(
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

    /// Stores a token set as the connection of its owner: a new one, or in place of the one before, whose tokens are
    /// never deleted first. `audit` gets the connection's id.
    pub async fn connect(&self, connect: &Connect<'_>, audit: AuditEvent) -> Result<Connected, StoreError> {
        // Two finishing flows of one owner may both see the row before; the one that comes second starts over.
        loop {
            let mut tx = self.db.begin_write().await?;
            match self.connect_once(&mut tx, connect, audit.clone()).await? {
                Some((Connected::Stored(connection), replaced)) => {
                    tx.commit().await?;
                    self.cache.forget_connection(replaced);
                    return Ok(Connected::Stored(connection));
                }
                Some((other, _)) => return Ok(other),
                None => {}
            }
        }
    }

    async fn connect_once(
        &self,
        tx: &mut Tx,
        connect: &Connect<'_>,
        mut audit: AuditEvent,
    ) -> Result<Option<(Connected, ConnectionId)>, StoreError> {
        let connector = connect.connector;
        let existing: Option<ExistingRow> = on_tx!(tx, |executor| {
            sqlx::query_as(sql::EXISTING)
                .bind(connector.id.to_string())
                .bind(connect.owner.key())
                .bind(connect.label.as_str())
                .fetch_optional(executor)
                .await?
        });
        let (id, generation) = match &existing {
            Some(row) => (parse(TABLE, "id", &row.id, &row.id)?, row.generation + 1),
            None => (connect.new_id, 1),
        };
        if let Some(row) = &existing {
            let status: Status = parse(TABLE, "status", &row.id, &row.status)?;
            if status == Status::Active && !connect.replace_active {
                return Ok(Some((Connected::Occupied, id)));
            }
            let live = matches!(status, Status::Active | Status::NeedsReauth);
            if live && !connect.allow_account_change && is_other_account(row, connect.tokens.account.as_ref()) {
                return Ok(Some((Connected::AccountChanged, id)));
            }
        }
        if let Some(flow) = connect.flow {
            let moved = on_tx!(tx, |executor| {
                sqlx::query(crate::sql::flows::CONNECTED)
                    .bind(flow.to_string())
                    .bind(id.to_string())
                    .bind(connect.now.as_millis())
                    .execute(executor)
                    .await?
                    .rows_affected()
            });
            if moved == 0 {
                return Ok(Some((Connected::FlowOver, id)));
            }
        }
        if !self.write_tokens(tx, connect, existing.as_ref(), id, generation).await? {
            return Ok(None);
        }
        put_due(tx, id, connect.due_at).await?;
        audit.subject.connection_id = Some(id);
        write_audit(tx, &audit).await?;
        let created_at = existing.map_or(connect.now, |row| Timestamp::from_millis(row.created_at));
        let connection = connected(connect, id, generation, created_at);
        Ok(Some((Connected::Stored(Box::new(connection)), id)))
    }

    async fn write_tokens(
        &self,
        tx: &mut Tx,
        connect: &Connect<'_>,
        existing: Option<&ExistingRow>,
        id: ConnectionId,
        generation: i64,
    ) -> Result<bool, StoreError> {
        let connector = connect.connector;
        let tokens = connect.tokens;
        let texts = Texts::of(id, connect.owner, connector.id);
        let access = self.seal_token(
            &texts,
            TokenKind::Access,
            &connector.space,
            connect.label,
            generation,
            &tokens.access_token,
        )?;
        let refresh = match &tokens.refresh_token {
            Some(token) => {
                Some(self.seal_token(&texts, TokenKind::Refresh, &connector.space, connect.label, generation, token)?)
            }
            None => None,
        };
        if let Some(row) = existing {
            self.queue_replaced(tx, connect, row, &texts).await?;
        }
        let account = tokens.account.as_ref();
        let fingerprint = tokens.access_token.fingerprint();
        let requested = to_json(&connect.requested_scopes);
        let granted = to_json(&connect.granted_scopes);
        let now = connect.now.as_millis();
        let rows = if existing.is_some() {
            on_tx!(tx, |executor| {
                sqlx::query(sql::REPLACE)
                    .bind(&texts.id)
                    .bind(generation - 1)
                    .bind(requested)
                    .bind(granted)
                    .bind(account.map(|account| account.issuer.as_str()))
                    .bind(account.map(|account| account.subject.as_str()))
                    .bind(account.and_then(|account| account.name.as_deref()))
                    .bind(&tokens.token_type)
                    .bind(access)
                    .bind(refresh)
                    .bind(fingerprint.as_str())
                    .bind(tokens.issued_at.as_millis())
                    .bind(millis(tokens.expires_at))
                    .bind(millis(tokens.refresh_expires_at))
                    .bind(millis(tokens.reconnect_by))
                    .bind(millis(connect.due_at))
                    .bind(connect.weakly_bound)
                    .bind(now)
                    .execute(executor)
                    .await?
                    .rows_affected()
            })
        } else {
            on_tx!(tx, |executor| {
                sqlx::query(sql::INSERT)
                    .bind(&texts.id)
                    .bind(connector.space.as_str())
                    .bind(&texts.connector)
                    .bind(&connector.provider)
                    .bind(&texts.owner)
                    .bind(connect.label.as_str())
                    .bind(requested)
                    .bind(granted)
                    .bind(account.map(|account| account.issuer.as_str()))
                    .bind(account.map(|account| account.subject.as_str()))
                    .bind(account.and_then(|account| account.name.as_deref()))
                    .bind(generation)
                    .bind(&tokens.token_type)
                    .bind(access)
                    .bind(refresh)
                    .bind(fingerprint.as_str())
                    .bind(tokens.issued_at.as_millis())
                    .bind(millis(tokens.expires_at))
                    .bind(millis(tokens.refresh_expires_at))
                    .bind(millis(tokens.reconnect_by))
                    .bind(millis(connect.due_at))
                    .bind(connect.weakly_bound)
                    .bind(now)
                    .execute(executor)
                    .await?
                    .rows_affected()
            })
        };
        Ok(rows == 1)
    }

    /// A refresh token that a reconnect replaces must not live on at the provider.
    async fn queue_replaced(
        &self,
        tx: &mut Tx,
        connect: &Connect<'_>,
        row: &ExistingRow,
        texts: &Texts,
    ) -> Result<(), StoreError> {
        let (Some(id), Some(record)) = (connect.revoke_replaced, &row.refresh_token) else { return Ok(()) };
        let space = &connect.connector.space;
        let identity = texts.identity(TokenKind::Refresh, space, connect.label, row.generation);
        let old = self.sealer.open_secret(&identity, record).map_err(|source| StoreError::Open {
            column: REFRESH_TOKEN,
            row: texts.id.clone(),
            source,
        })?;
        if connect.tokens.refresh_token.as_ref() == Some(&old) {
            return Ok(());
        }
        let queued = QueuedToken {
            id,
            space: space.as_str(),
            connection: &texts.id,
            connector: &texts.connector,
            owner: &texts.owner,
            label: connect.label.as_str(),
            generation: row.generation,
            kind: TokenKind::Refresh,
            record,
            sealed_in: TABLE,
            reason: RevocationReason::Replaced,
            now: connect.now,
        };
        queue_token(tx, &queued).await
    }

    /// Stores what a refresh brought. The first thing to do with a success (DESIGN: settle first).
    pub async fn settle(&self, settle: &Settle<'_>, audit: &AuditEvent) -> Result<Settled, StoreError> {
        let connection = settle.connection;
        let tokens = settle.tokens;
        let texts = Texts::of(connection.id, &connection.owner, connection.connector_id);
        let generation = connection.generation + 1;
        let seal = |kind, token: &Secret| {
            self.seal_token(&texts, kind, &connection.space, &connection.label, generation, token)
        };
        let access = seal(TokenKind::Access, &tokens.access_token)?;
        let refresh = tokens.refresh_token.as_ref().map(|token| seal(TokenKind::Refresh, token)).transpose()?;
        let mut tx = self.db.begin_write().await?;
        let stored = on_tx!(&mut tx, |executor| {
            sqlx::query(sql::SETTLE)
                .bind(&texts.id)
                .bind(connection.generation)
                .bind(to_json(&settle.granted_scopes))
                .bind(&tokens.token_type)
                .bind(&access)
                .bind(&refresh)
                .bind(tokens.access_token.fingerprint().as_str())
                .bind(tokens.issued_at.as_millis())
                .bind(millis(tokens.expires_at))
                .bind(millis(tokens.refresh_expires_at))
                .bind(millis(settle.due_at))
                .bind(settle.now.as_millis())
                .execute(executor)
                .await?
                .rows_affected()
        }) == 1;
        on_tx!(&mut tx, |executor| {
            sqlx::query(crate::sql::attempts::SETTLE)
                .bind(&texts.id)
                .bind(connection.generation)
                .bind(if stored { "settled" } else { "late" })
                .bind(settle.now.as_millis())
                .execute(executor)
                .await?;
        });
        let mut audit = audit.clone();
        if stored {
            put_due(&mut tx, connection.id, settle.due_at).await?;
        } else {
            self.queue_late(&mut tx, settle, &texts).await?;
            if let Some(detail) = audit.detail.as_object_mut() {
                detail.insert("late".to_owned(), json!(true));
            }
        }
        write_audit(&mut tx, &audit).await?;
        tx.commit().await?;
        self.cache.forget_connection(connection.id);
        Ok(if stored { Settled::Stored } else { Settled::Late })
    }

    /// Tokens that nobody may use any more: sealed anew under the revocation's own identity, and queued.
    async fn queue_late(&self, tx: &mut Tx, settle: &Settle<'_>, texts: &Texts) -> Result<(), StoreError> {
        let (refresh_id, access_id) = settle.late_ids;
        let connection = settle.connection;
        let late = [
            (TokenKind::Refresh, refresh_id, settle.tokens.refresh_token.as_ref()),
            (TokenKind::Access, access_id, Some(&settle.tokens.access_token)),
        ];
        for (kind, id, token) in late {
            let Some(token) = token else { continue };
            self.queue_unstored(
                tx,
                &UnstoredToken {
                    id,
                    space: &connection.space,
                    connection: &texts.id,
                    connector: &texts.connector,
                    owner: &texts.owner,
                    label: &connection.label,
                    kind,
                    token,
                    reason: RevocationReason::LateTokens,
                    now: settle.now,
                },
            )
            .await?;
        }
        Ok(())
    }

    /// The provider said that the grant is dead. False if another attempt settled or the connection was revoked
    /// meanwhile.
    pub async fn mark_dead(
        &self,
        connection: &Connection,
        reason: ReauthReason,
        outcome: &str,
        now: Timestamp,
        audit: &AuditEvent,
    ) -> Result<bool, StoreError> {
        let mut tx = self.db.begin_write().await?;
        let marked = on_tx!(&mut tx, |executor| {
            sqlx::query(sql::MARK_DEAD)
                .bind(connection.id.to_string())
                .bind(connection.generation)
                .bind(reason.as_str())
                .bind(now.as_millis())
                .bind(outcome)
                .execute(executor)
                .await?
                .rows_affected()
        }) == 1;
        if marked {
            put_due(&mut tx, connection.id, None).await?;
            write_audit(&mut tx, audit).await?;
        }
        tx.commit().await?;
        self.cache.forget_connection(connection.id);
        Ok(marked)
    }

    /// A refresh failed and will be tried again at `next_try_at`.
    pub async fn mark_failing(
        &self,
        connection: &Connection,
        outcome: &str,
        next_try_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.db.begin_write().await?;
        let marked = on_tx!(&mut tx, |executor| {
            sqlx::query(sql::MARK_FAILING)
                .bind(connection.id.to_string())
                .bind(connection.generation)
                .bind(outcome)
                .bind(now.as_millis())
                .execute(executor)
                .await?
                .rows_affected()
        }) == 1;
        if marked {
            put_due(&mut tx, connection.id, next_try_at).await?;
        }
        tx.commit().await?;
        self.cache.forget_connection(connection.id);
        Ok(marked)
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

/// A token that was never stored in a connection and must be revoked.
#[derive(Debug)]
pub(crate) struct UnstoredToken<'a> {
    pub(crate) id: RevocationId,
    pub(crate) space: &'a SpaceId,
    pub(crate) connection: &'a str,
    pub(crate) connector: &'a str,
    pub(crate) owner: &'a str,
    pub(crate) label: &'a Label,
    pub(crate) kind: TokenKind,
    pub(crate) token: &'a Secret,
    pub(crate) reason: RevocationReason,
    pub(crate) now: Timestamp,
}

impl TokenStore {
    pub(crate) async fn queue_unstored(&self, tx: &mut Tx, unstored: &UnstoredToken<'_>) -> Result<(), StoreError> {
        let row = unstored.id.to_string();
        let identity = crate::revocations::own_identity(
            unstored.space.as_str(),
            &row,
            unstored.owner,
            unstored.label.as_str(),
            unstored.connector,
        );
        let record = self.sealer.seal_secret(&identity, unstored.token)?;
        let queued = QueuedToken {
            id: unstored.id,
            space: unstored.space.as_str(),
            connection: unstored.connection,
            connector: unstored.connector,
            owner: unstored.owner,
            label: unstored.label.as_str(),
            generation: 0,
            kind: unstored.kind,
            record: &record,
            sealed_in: crate::revocations::TABLE,
            reason: unstored.reason,
            now: unstored.now,
        };
        queue_token(tx, &queued).await
    }
}

fn is_other_account(row: &ExistingRow, account: Option<&Account>) -> bool {
    match (&row.account_issuer, &row.account_subject, account) {
        (Some(issuer), Some(subject), Some(account)) => *issuer != account.issuer || *subject != account.subject,
        _ => false,
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

/// The connection as the statement has just written it.
fn connected(connect: &Connect<'_>, id: ConnectionId, generation: i64, created_at: Timestamp) -> Connection {
    let tokens = connect.tokens;
    Connection {
        id,
        space: connect.connector.space.clone(),
        connector_id: connect.connector.id,
        provider: connect.connector.provider.clone(),
        owner: connect.owner.clone(),
        label: connect.label.clone(),
        status: Status::Active,
        needs_reauth: None,
        requested_scopes: connect.requested_scopes.to_vec(),
        granted_scopes: connect.granted_scopes.to_vec(),
        account: tokens.account.clone(),
        generation,
        token_type: tokens.token_type.clone(),
        issued_at: tokens.issued_at,
        expires_at: tokens.expires_at,
        has_refresh_token: tokens.refresh_token.is_some(),
        refresh_expires_at: tokens.refresh_expires_at,
        reconnect_by: tokens.reconnect_by,
        refresh_due_at: connect.due_at,
        refreshing: valetkey_core::Refreshing::Ok,
        last_attempt: None,
        rejected_at: None,
        weakly_bound: connect.weakly_bound,
        created_at,
        updated_at: connect.now,
        last_used_at: None,
    }
}
