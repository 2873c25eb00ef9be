//! Settle: what a refresh brought, or failed to bring.

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
