//! Revocations: gone here at once, the provider told through a durable queue.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::FromRow;
use valetkey_core::{
    AuditEvent, ConnectionId, ConnectorId, Owner, Revocation, RevocationId, RevocationReason, RevocationState, Secret,
    SpaceId, Timestamp, TokenKind,
};
use valetkey_sealing::RecordIdentity;

use crate::{
    StoreError, TokenStore,
    audit::{write_audit, write_audits},
    connections::token_identity,
    db::{Db, Tx, on_db, on_db_write, on_tx},
    rows::{instant, parse, to_json},
    sql::revocations as sql,
};

pub(crate) const TABLE: &str = "revocations";

/// A connection to revoke, with ids for what that makes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ToRevoke {
    /// The connection.
    #[serde(rename = "c")]
    pub connection: ConnectionId,
    /// For its refresh token.
    #[serde(rename = "r")]
    pub refresh: RevocationId,
    /// For its access token.
    #[serde(rename = "a")]
    pub access: RevocationId,
}

/// A revocation that this process tries now.
#[derive(Debug)]
pub struct ClaimedRevocation {
    /// The revocation.
    pub revocation: Revocation,
    /// The token.
    pub token: Secret,
}

/// A sealed token on its way into the queue.
#[derive(Debug)]
pub(crate) struct QueuedToken<'a> {
    pub(crate) id: RevocationId,
    pub(crate) space: &'a str,
    pub(crate) connection: &'a str,
    pub(crate) connector: &'a str,
    pub(crate) owner: &'a str,
    pub(crate) label: &'a str,
    pub(crate) generation: i64,
    pub(crate) kind: TokenKind,
    pub(crate) record: &'a [u8],
    pub(crate) sealed_in: &'static str,
    pub(crate) reason: RevocationReason,
    pub(crate) now: Timestamp,
}

#[derive(Debug, FromRow)]
struct ClaimedRow {
    id: String,
    space_id: String,
    connection_id: String,
    connector_id: String,
    owner: String,
    label: String,
    generation: i64,
    token_kind: String,
    token: Option<Vec<u8>>,
    sealed_in: String,
    reason: String,
    state: String,
    outcome: Option<String>,
    tries: i64,
    next_try_at: Option<i64>,
    created_at: i64,
    updated_at: i64,
}

/// The identity of a token that was sealed for the queue itself.
pub(crate) fn own_identity<'a>(
    space: &'a str,
    row: &'a str,
    owner: &'a str,
    label: &'a str,
    connector: &'a str,
) -> RecordIdentity<'a> {
    RecordIdentity {
        space,
        table: TABLE,
        column: "token",
        row,
        owner: Some(owner),
        label: Some(label),
        connector: Some(connector),
        generation: None,
    }
}

/// False if it is queued already: the commit of a first try was in doubt and took place.
pub(crate) async fn queue_token(tx: &mut Tx, queued: &QueuedToken<'_>) -> Result<bool, StoreError> {
    let rows = on_tx!(tx, |executor| {
        sqlx::query(sql::INSERT)
            .bind(queued.id.to_string())
            .bind(queued.space)
            .bind(queued.connection)
            .bind(queued.connector)
            .bind(queued.owner)
            .bind(queued.label)
            .bind(queued.generation)
            .bind(queued.kind.as_str())
            .bind(queued.record)
            .bind(queued.sealed_in)
            .bind(queued.reason.as_str())
            .bind(queued.now.as_millis())
            .execute(executor)
            .await?
            .rows_affected()
    });
    Ok(rows == 1)
}

impl TokenStore {
    /// Revokes connections of one space, all in one transaction: from its commit on none of their tokens is served by
    /// any replica, and each token is queued for its provider. Answers with those that were live.
    pub async fn revoke_connections(
        &self,
        space: &SpaceId,
        revoke: &[ToRevoke],
        reason: RevocationReason,
        now: Timestamp,
        audit: &[AuditEvent],
    ) -> Result<Vec<ConnectionId>, StoreError> {
        if revoke.is_empty() {
            return Ok(Vec::new());
        }
        let (mark, queue_refresh, queue_access, erase, delete_due) = match &self.db {
            Db::Sqlite(_) => (
                sql::BEGIN_SQLITE,
                sql::QUEUE_REFRESH_SQLITE,
                sql::QUEUE_ACCESS_SQLITE,
                sql::ERASE_TOKENS_SQLITE,
                sql::DELETE_DUE_SQLITE,
            ),
            Db::Postgres(_) => (
                sql::BEGIN_POSTGRES,
                sql::QUEUE_REFRESH_POSTGRES,
                sql::QUEUE_ACCESS_POSTGRES,
                sql::ERASE_TOKENS_POSTGRES,
                sql::DELETE_DUE_POSTGRES,
            ),
        };
        let mut tx = self.db.begin_write().await?;
        let begun: Vec<(String, String, String)> = on_tx!(&mut tx, |executor| {
            sqlx::query_as(mark)
                .bind(to_json(&revoke))
                .bind(now.as_millis())
                .bind(space.as_str())
                .fetch_all(executor)
                .await?
        });
        if begun.is_empty() {
            return Ok(Vec::new());
        }
        let mut live: HashMap<ConnectionId, (ConnectorId, Option<Owner>)> = HashMap::with_capacity(begun.len());
        for (id, connector, owner) in &begun {
            let connector = parse("connections", "connector_id", id, connector)?;
            live.insert(parse("connections", "id", id, id)?, (connector, Owner::from_key(owner)));
        }
        let list = to_json(&revoke.iter().filter(|each| live.contains_key(&each.connection)).collect::<Vec<_>>());
        for statement in [queue_refresh, queue_access] {
            on_tx!(&mut tx, |executor| {
                sqlx::query(statement)
                    .bind(&list)
                    .bind(reason.as_str())
                    .bind(now.as_millis())
                    .execute(executor)
                    .await?;
            });
        }
        for statement in [erase, delete_due] {
            on_tx!(&mut tx, |executor| {
                sqlx::query(statement).bind(&list).execute(executor).await?;
            });
        }
        let mut events = Vec::with_capacity(live.len());
        for event in audit {
            let Some((connector, owner)) = event.subject.connection_id.and_then(|id| live.get(&id)) else { continue };
            let mut event = event.clone();
            event.subject.connector_id = Some(*connector);
            event.subject.owner.clone_from(owner);
            events.push(event);
        }
        write_audits(&mut tx, &events).await?;
        tx.commit().await?;
        if live.len() > 64 {
            self.cache.clear();
        } else {
            for id in live.keys() {
                self.cache.forget_connection(*id);
            }
        }
        Ok(live.into_keys().collect())
    }

    /// Live connections of a connector, for revoking them all.
    pub async fn live_connections_of(
        &self,
        connector: ConnectorId,
        limit: i64,
    ) -> Result<Vec<ConnectionId>, StoreError> {
        let ids: Vec<String> = on_db!(&self.db, |pool| {
            sqlx::query_scalar(sql::LIVE_OF_CONNECTOR).bind(connector.to_string()).bind(limit).fetch_all(pool).await?
        });
        ids.iter().map(|id| parse("connections", "id", id, id)).collect()
    }

    /// Takes up to `limit` revocations that are due; they are due again at `until` if this process dies.
    pub async fn claim_revocations(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: i64,
    ) -> Result<Vec<ClaimedRevocation>, StoreError> {
        let statement = match &self.db {
            Db::Sqlite(_) => sql::CLAIM_SQLITE,
            Db::Postgres(_) => sql::CLAIM_POSTGRES,
        };
        let rows: Vec<ClaimedRow> = on_db_write!(&self.db, |pool| {
            sqlx::query_as(statement).bind(now.as_millis()).bind(until.as_millis()).bind(limit).fetch_all(pool).await?
        });
        let mut claimed = Vec::with_capacity(rows.len());
        for row in rows {
            let id = row.id.clone();
            self.know_key_of(row.token.as_deref()).await;
            match self.claimed(row) {
                Ok(one) => claimed.push(one),
                // One row that does not open must not hold up the others: it ends here, and says so.
                Err(error) => {
                    tracing::error!(revocation.id = %id, error = &error as &dyn std::error::Error, "revocation {id} cannot be read");
                    self.end_unreadable(&id, now).await?;
                }
            }
        }
        Ok(claimed)
    }

    async fn end_unreadable(&self, id: &str, now: Timestamp) -> Result<(), StoreError> {
        on_db_write!(&self.db, |pool| {
            sqlx::query(sql::END)
                .bind(id)
                .bind(RevocationState::Failed.as_str())
                .bind("unreadable")
                .bind(now.as_millis())
                .execute(pool)
                .await?;
        });
        Ok(())
    }

    fn claimed(&self, row: ClaimedRow) -> Result<ClaimedRevocation, StoreError> {
        let kind: TokenKind = parse(TABLE, "token_kind", &row.id, &row.token_kind)?;
        let record = row.token.as_deref().ok_or_else(|| StoreError::inconsistent(TABLE, "token", &row.id))?;
        let identity = if row.sealed_in == TABLE {
            own_identity(&row.space_id, &row.id, &row.owner, &row.label, &row.connector_id)
        } else {
            token_identity(
                kind,
                &row.space_id,
                &row.connection_id,
                &row.owner,
                &row.label,
                &row.connector_id,
                row.generation,
            )
        };
        let token = self.sealer.open_secret(&identity, record).map_err(|source| StoreError::Open {
            column: "token",
            row: row.id.clone(),
            source,
        })?;
        let revocation = Revocation {
            id: parse(TABLE, "id", &row.id, &row.id)?,
            space: parse(TABLE, "space_id", &row.id, &row.space_id)?,
            connection_id: parse(TABLE, "connection_id", &row.id, &row.connection_id)?,
            connector_id: parse(TABLE, "connector_id", &row.id, &row.connector_id)?,
            token_kind: kind,
            reason: parse(TABLE, "reason", &row.id, &row.reason)?,
            state: parse(TABLE, "state", &row.id, &row.state)?,
            outcome: row.outcome,
            tries: row.tries,
            next_try_at: instant(row.next_try_at),
            created_at: Timestamp::from_millis(row.created_at),
            updated_at: Timestamp::from_millis(row.updated_at),
        };
        Ok(ClaimedRevocation { revocation, token })
    }

    /// Ends a revocation and erases its token; the connection is `revoked` once its last one has ended.
    pub async fn end_revocation(
        &self,
        revocation: &Revocation,
        state: RevocationState,
        outcome: &str,
        now: Timestamp,
        audit: &AuditEvent,
    ) -> Result<bool, StoreError> {
        let mut tx = self.db.begin_write().await?;
        on_tx!(&mut tx, |executor| {
            sqlx::query(sql::LOCK_CONNECTION).bind(revocation.connection_id.to_string()).execute(executor).await?;
        });
        let ended = on_tx!(&mut tx, |executor| {
            sqlx::query(sql::END)
                .bind(revocation.id.to_string())
                .bind(state.as_str())
                .bind(outcome)
                .bind(now.as_millis())
                .execute(executor)
                .await?
                .rows_affected()
        }) == 1;
        if ended {
            on_tx!(&mut tx, |executor| {
                sqlx::query(sql::CONNECTION_OVER)
                    .bind(revocation.connection_id.to_string())
                    .bind(now.as_millis())
                    .execute(executor)
                    .await?;
            });
            write_audit(&mut tx, audit).await?;
        }
        tx.commit().await?;
        self.cache.forget_connection(revocation.connection_id);
        Ok(ended)
    }

    /// Plans the next try of a revocation.
    pub async fn retry_revocation(
        &self,
        id: RevocationId,
        outcome: &str,
        next_try_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        on_db_write!(&self.db, |pool| {
            sqlx::query(sql::RETRY)
                .bind(id.to_string())
                .bind(outcome)
                .bind(next_try_at.as_millis())
                .bind(now.as_millis())
                .execute(pool)
                .await?;
        });
        Ok(())
    }
}
