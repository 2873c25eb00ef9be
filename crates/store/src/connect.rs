//! Connect: a token set becomes the connection of its owner, new or in place of the one before.

use sqlx::FromRow;
use valetkey_core::{
    Account, AuditEvent, Connection, ConnectionId, Connector, FlowId, Label, Owner, RevocationId, RevocationReason,
    Status, Timestamp, TokenKind, TokenSet,
};

use crate::{
    StoreError, TokenStore,
    audit::write_audit,
    connections::{REFRESH_TOKEN, TABLE, Texts, put_due},
    connectors::is_unchanged,
    db::{Tx, on_tx},
    revocations::{QueuedToken, queue_token},
    rows::{millis, parse, to_json},
    sql::connections as sql,
};

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
    /// The connector is no longer the one that these tokens are for, or is gone; nothing changed.
    ConnectorChanged,
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

impl TokenStore {
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
        // A flow holds its connector to what it is, and ends with it. Without one nothing does.
        if connect.flow.is_none() && !is_unchanged(tx, connector.id, connector.version).await? {
            return Ok(Some((Connected::ConnectorChanged, connect.new_id)));
        }
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
        self.know_key_of(Some(record)).await;
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
        queue_token(tx, &queued).await?;
        Ok(())
    }
}

fn is_other_account(row: &ExistingRow, account: Option<&Account>) -> bool {
    match (&row.account_issuer, &row.account_subject, account) {
        (Some(issuer), Some(subject), Some(account)) => *issuer != account.issuer || *subject != account.subject,
        _ => false,
    }
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
        next_try_at: connect.due_at,
        refreshing: valetkey_core::Refreshing::Ok,
        last_attempt: None,
        rejected_at: None,
        weakly_bound: connect.weakly_bound,
        created_at,
        updated_at: connect.now,
        last_used_at: None,
    }
}
