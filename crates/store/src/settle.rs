//! Settle: what a refresh brought, or failed to bring.

use data_encoding::HEXLOWER;
use serde_json::json;
use valetkey_core::{
    AttemptId, AuditEvent, Connection, Label, ReauthReason, RevocationId, RevocationReason, Secret, SpaceId, Timestamp,
    TokenKind, TokenSet,
};

use crate::{
    StoreError, TokenStore,
    audit::write_audit,
    connections::{Texts, put_due},
    db::{Tx, on_tx},
    group_rows::{DueRow, FailingRow, SettleRow, Write},
    revocations::{QueuedToken, queue_token},
    rows::{millis, to_json},
    sql::connections as sql,
};

/// A refreshed token set on its way into its connection.
#[derive(Debug)]
pub struct Settle<'a> {
    /// The connection as it was when the attempt was recorded.
    pub connection: &'a Connection,
    /// The attempt.
    pub attempt: AttemptId,
    /// The tokens; its refresh token is what must be presented next, new or kept.
    pub tokens: &'a TokenSet,
    /// Whether that refresh token is the one that was presented: not this answer's to revoke, should it come too late.
    pub kept_refresh_token: bool,
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

impl TokenStore {
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
        let row = SettleRow {
            connection: texts.id.clone(),
            generation: connection.generation,
            scopes: to_json(&settle.granted_scopes),
            token_type: tokens.token_type.clone(),
            access: HEXLOWER.encode(&access),
            refresh: refresh.map(|record| HEXLOWER.encode(&record)),
            fingerprint: tokens.access_token.fingerprint().as_str().to_owned(),
            issued_at: tokens.issued_at.as_millis(),
            expires_at: millis(tokens.expires_at),
            refresh_expires_at: millis(tokens.refresh_expires_at),
            due_at: millis(settle.due_at),
            now: settle.now.as_millis(),
        };
        if self.commit_shared(connection.id, Write::Settle(Box::new((row, audit.clone())))).await?.is_done() {
            return Ok(Settled::Stored);
        }
        self.settle_late(settle, &texts, audit.clone()).await
    }

    /// The generation is over, or the connection was revoked: the tokens are nobody's.
    async fn settle_late(
        &self,
        settle: &Settle<'_>,
        texts: &Texts,
        mut audit: AuditEvent,
    ) -> Result<Settled, StoreError> {
        let connection = settle.connection;
        let mut tx = self.db.begin_write().await?;
        let found: Option<(i64, Option<String>)> = on_tx!(&mut tx, |executor| {
            sqlx::query_as(crate::sql::groups::FIND_SETTLED).bind(&texts.id).fetch_optional(executor).await?
        });
        let ours = settle.tokens.access_token.fingerprint();
        if found == Some((connection.generation + 1, Some(ours.as_str().to_owned()))) {
            // A settle whose commit was in doubt took place: what is stored is not late, and must not be revoked.
            return Ok(Settled::Stored);
        }
        on_tx!(&mut tx, |executor| {
            sqlx::query(crate::sql::attempts::SETTLE_LATE)
                .bind(&texts.id)
                .bind(connection.generation)
                .bind(settle.now.as_millis())
                .execute(executor)
                .await?;
        });
        if !self.queue_late(&mut tx, settle, texts).await? {
            // The same of a late one.
            return Ok(Settled::Late);
        }
        if let Some(detail) = audit.detail.as_object_mut() {
            detail.insert("late".to_owned(), json!(true));
        }
        write_audit(&mut tx, &audit).await?;
        tx.commit().await?;
        Ok(Settled::Late)
    }

    /// Tokens that nobody may use any more: sealed anew under the revocation's own identity, and queued.
    /// False if they are queued already.
    async fn queue_late(&self, tx: &mut Tx, settle: &Settle<'_>, texts: &Texts) -> Result<bool, StoreError> {
        let (refresh_id, access_id) = settle.late_ids;
        let connection = settle.connection;
        let late = [
            (
                TokenKind::Refresh,
                refresh_id,
                settle.tokens.refresh_token.as_ref().filter(|_| !settle.kept_refresh_token),
            ),
            (TokenKind::Access, access_id, Some(&settle.tokens.access_token)),
        ];
        let mut queued = false;
        for (kind, id, token) in late {
            let Some(token) = token else { continue };
            let unstored = UnstoredToken {
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
            };
            queued |= self.queue_unstored(tx, &unstored).await?;
        }
        Ok(queued)
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
        let row = FailingRow {
            connection: connection.id.to_string(),
            generation: connection.generation,
            outcome: outcome.to_owned(),
            now: now.as_millis(),
        };
        let due = DueRow::of(connection.id, next_try_at);
        Ok(self.commit_shared(connection.id, Write::Failing(row, due)).await?.is_done())
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
    pub(crate) async fn queue_unstored(&self, tx: &mut Tx, unstored: &UnstoredToken<'_>) -> Result<bool, StoreError> {
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
