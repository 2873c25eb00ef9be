//! Flows: each step is one conditional statement, so that of many at once one wins.

use sqlx::FromRow;
use valetkey_core::{AuditEvent, Flow, FlowFailure, FlowId, FlowStatus, Owner, Secret, SpaceId, Timestamp, UserId};
use valetkey_sealing::RecordIdentity;

use crate::{
    StoreError, TokenStore,
    audit::write_audit,
    connectors::is_unchanged,
    db::{on_db, on_tx},
    rows::{from_json, instant, parse, to_json},
    sql::flows as sql,
};

const TABLE: &str = "flows";

/// How many flows may be open at once.
#[derive(Debug, Clone, Copy)]
pub struct FlowCaps {
    /// Per key.
    pub per_caller: i64,
    /// Per user.
    pub per_user: i64,
    /// In all.
    pub total: i64,
}

/// How a start was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// The flow is stored.
    Stored,
    /// A cap is reached; nothing changed.
    Capped,
    /// The connector is no longer the one that the flow was made for, or is gone; nothing changed.
    ConnectorChanged,
}

/// A flow and the hashes that recognise its browser and its handle.
#[derive(Debug, Clone)]
pub struct FlowRecord {
    /// The flow.
    pub flow: Flow,
    /// SHA-256 of the bound browser's cookie.
    pub browser_hash: Option<Vec<u8>>,
    /// SHA-256 of the handle.
    pub handle_hash: Option<Vec<u8>>,
    /// SHA-256 of the confirm page's one-use token.
    pub confirm_hash: Option<Vec<u8>>,
}

/// What binds a browser to a flow.
#[derive(Debug)]
pub struct Bind<'a> {
    /// SHA-256 of the cookie that the browser will hold.
    pub browser_hash: &'a [u8],
    /// SHA-256 of the cookie that the browser sent, if it was bound before.
    pub presented_hash: Option<&'a [u8]>,
    /// SHA-256 of the state.
    pub state_hash: &'a [u8],
    /// The PKCE verifier.
    pub verifier: &'a Secret,
    /// The OpenID nonce.
    pub nonce: &'a Secret,
    /// Now.
    pub now: Timestamp,
}

/// What a callback that passed its checks leaves behind.
#[derive(Debug)]
pub struct AcceptedCallback<'a> {
    /// SHA-256 of the state, consumed by this.
    pub state_hash: &'a [u8],
    /// Where the flow stands from now on.
    pub status: FlowStatus,
    /// The authorization code.
    pub code: &'a Secret,
    /// Further parameters that the profile wants kept.
    pub kept: &'a std::collections::BTreeMap<String, String>,
    /// SHA-256 of the handle.
    pub handle_hash: &'a [u8],
    /// When the handle lapses.
    pub handle_expires_at: Timestamp,
    /// SHA-256 of the confirm page's token.
    pub confirm_hash: Option<&'a [u8]>,
    /// Now.
    pub now: Timestamp,
}

/// What is needed to redeem a code.
#[derive(Debug)]
pub struct Redemption {
    /// The authorization code.
    pub code: Secret,
    /// The PKCE verifier.
    pub verifier: Secret,
    /// The OpenID nonce.
    pub nonce: Secret,
    /// Further parameters of the callback.
    pub kept: std::collections::BTreeMap<String, String>,
}

/// Which one-use proof starts a redemption.
#[derive(Debug, Clone, Copy)]
pub enum Proof<'a> {
    /// SHA-256 of the handle that came home to the application.
    Handle(&'a [u8]),
    /// SHA-256 of the confirm page's token.
    Confirm(&'a [u8]),
}

#[derive(Debug, FromRow)]
struct FlowRow {
    id: String,
    space_id: String,
    connector_id: String,
    started_by: String,
    owner: String,
    actor: Option<String>,
    user_display: Option<String>,
    label: String,
    mode: String,
    return_url: String,
    origin: Option<String>,
    scopes: String,
    login_hint: Option<String>,
    binding_challenge: Option<String>,
    allow_account_change: bool,
    status: String,
    failure: Option<String>,
    connection_id: Option<String>,
    browser_hash: Option<Vec<u8>>,
    handle_hash: Option<Vec<u8>>,
    handle_expires_at: Option<i64>,
    confirm_hash: Option<Vec<u8>>,
    created_at: i64,
    expires_at: i64,
}

#[derive(Debug, FromRow)]
struct RedemptionRow {
    code: Option<Vec<u8>>,
    verifier: Option<Vec<u8>>,
    nonce: Option<Vec<u8>>,
    kept: Option<String>,
}

impl TryFrom<FlowRow> for FlowRecord {
    type Error = StoreError;

    fn try_from(row: FlowRow) -> Result<Self, StoreError> {
        let id = &row.id;
        let flow = Flow {
            id: parse(TABLE, "id", id, id)?,
            space: parse(TABLE, "space_id", id, &row.space_id)?,
            connector_id: parse(TABLE, "connector_id", id, &row.connector_id)?,
            started_by: parse(TABLE, "started_by", id, &row.started_by)?,
            owner: Owner::from_key(&row.owner).ok_or_else(|| StoreError::inconsistent(TABLE, "owner", id))?,
            actor: row.actor.as_deref().map(|actor| parse(TABLE, "actor", id, actor)).transpose()?,
            user_display: row.user_display,
            label: parse(TABLE, "label", id, &row.label)?,
            mode: parse(TABLE, "mode", id, &row.mode)?,
            return_url: row.return_url,
            origin: row.origin,
            scopes: from_json(TABLE, "scopes", id, &row.scopes)?,
            login_hint: row.login_hint,
            binding_challenge: row.binding_challenge,
            allow_account_change: row.allow_account_change,
            status: parse(TABLE, "status", id, &row.status)?,
            failure: row.failure.as_deref().map(|failure| parse(TABLE, "failure", id, failure)).transpose()?,
            connection_id: row
                .connection_id
                .as_deref()
                .map(|text| parse(TABLE, "connection_id", id, text))
                .transpose()?,
            created_at: Timestamp::from_millis(row.created_at),
            expires_at: Timestamp::from_millis(row.expires_at),
            handle_expires_at: instant(row.handle_expires_at),
        };
        Ok(Self { flow, browser_hash: row.browser_hash, handle_hash: row.handle_hash, confirm_hash: row.confirm_hash })
    }
}

/// The identity of a sealed field of a flow.
pub(crate) fn identity<'a>(
    column: &'static str,
    space: &'a str,
    row: &'a str,
    owner: &'a str,
    connector: &'a str,
) -> RecordIdentity<'a> {
    RecordIdentity {
        space,
        table: TABLE,
        column,
        row,
        owner: Some(owner),
        label: None,
        connector: Some(connector),
        generation: None,
    }
}

impl TokenStore {
    fn seal_flow(&self, flow: &Flow, column: &'static str, secret: &Secret) -> Result<Vec<u8>, StoreError> {
        let (row, owner, connector) = (flow.id.to_string(), flow.owner.key(), flow.connector_id.to_string());
        Ok(self.sealer.seal_secret(&identity(column, flow.space.as_str(), &row, &owner, &connector), secret)?)
    }

    fn open_flow(&self, flow: &Flow, column: &'static str, record: Option<&[u8]>) -> Result<Secret, StoreError> {
        let row = flow.id.to_string();
        let Some(record) = record else { return Err(StoreError::inconsistent(TABLE, column, &row)) };
        let (owner, connector) = (flow.owner.key(), flow.connector_id.to_string());
        let identity = identity(column, flow.space.as_str(), &row, &owner, &connector);
        self.sealer.open_secret(&identity, record).map_err(|source| StoreError::Open {
            column,
            row: row.clone(),
            source,
        })
    }

    /// Starts a flow at the connector of this version unless a cap is reached. New ones are refused; old ones live.
    pub async fn insert_flow(
        &self,
        flow: &Flow,
        connector_version: i64,
        ticket_hash: &[u8],
        caps: FlowCaps,
        audit: &AuditEvent,
    ) -> Result<Begun, StoreError> {
        let mut tx = self.db.begin_write().await?;
        if !is_unchanged(&mut tx, flow.connector_id, connector_version).await? {
            return Ok(Begun::ConnectorChanged);
        }
        let (caller, user, total): (i64, i64, i64) = on_tx!(&mut tx, |executor| {
            sqlx::query_as(sql::COUNT_OPEN)
                .bind(flow.started_by.to_string())
                .bind(flow.space.as_str())
                .bind(flow.owner.key())
                .bind(flow.created_at.as_millis())
                .fetch_one(executor)
                .await?
        });
        if caller >= caps.per_caller || user >= caps.per_user || total >= caps.total {
            return Ok(Begun::Capped);
        }
        on_tx!(&mut tx, |executor| {
            sqlx::query(sql::INSERT)
                .bind(flow.id.to_string())
                .bind(flow.space.as_str())
                .bind(flow.connector_id.to_string())
                .bind(flow.started_by.to_string())
                .bind(flow.owner.key())
                .bind(flow.actor.as_ref().map(UserId::as_str))
                .bind(&flow.user_display)
                .bind(flow.label.as_str())
                .bind(flow.mode.as_str())
                .bind(&flow.return_url)
                .bind(&flow.origin)
                .bind(to_json(&flow.scopes))
                .bind(&flow.login_hint)
                .bind(&flow.binding_challenge)
                .bind(flow.allow_account_change)
                .bind(ticket_hash)
                .bind(flow.created_at.as_millis())
                .bind(flow.expires_at.as_millis())
                .execute(executor)
                .await?;
        });
        write_audit(&mut tx, audit).await?;
        tx.commit().await?;
        Ok(Begun::Stored)
    }

    /// The flow, in whatever space.
    pub async fn find_flow(&self, id: FlowId) -> Result<Option<FlowRecord>, StoreError> {
        let row: Option<FlowRow> =
            on_db!(&self.db, |pool| sqlx::query_as(sql::FIND).bind(id.to_string()).fetch_optional(pool).await?);
        row.map(FlowRecord::try_from).transpose()
    }

    /// The flow of a start link.
    pub async fn find_flow_by_ticket(&self, ticket_hash: &[u8]) -> Result<Option<FlowRecord>, StoreError> {
        let row: Option<FlowRow> =
            on_db!(&self.db, |pool| sqlx::query_as(sql::FIND_BY_TICKET).bind(ticket_hash).fetch_optional(pool).await?);
        row.map(FlowRecord::try_from).transpose()
    }

    /// The flow of a state that was not consumed yet.
    pub async fn find_flow_by_state(&self, state_hash: &[u8]) -> Result<Option<FlowRecord>, StoreError> {
        let row: Option<FlowRow> =
            on_db!(&self.db, |pool| sqlx::query_as(sql::FIND_BY_STATE).bind(state_hash).fetch_optional(pool).await?);
        row.map(FlowRecord::try_from).transpose()
    }

    /// Binds the browser; false if another one is bound, or the flow is no longer pending.
    pub async fn bind_flow(&self, flow: &Flow, bind: &Bind<'_>, audit: &AuditEvent) -> Result<bool, StoreError> {
        let verifier = self.seal_flow(flow, "verifier", bind.verifier)?;
        let nonce = self.seal_flow(flow, "nonce", bind.nonce)?;
        let mut tx = self.db.begin_write().await?;
        let bound = on_tx!(&mut tx, |executor| {
            sqlx::query(sql::BIND)
                .bind(flow.id.to_string())
                .bind(bind.browser_hash)
                .bind(bind.state_hash)
                .bind(verifier)
                .bind(nonce)
                .bind(bind.now.as_millis())
                .bind(bind.presented_hash)
                .execute(executor)
                .await?
                .rows_affected()
        }) == 1;
        if bound {
            write_audit(&mut tx, audit).await?;
            tx.commit().await?;
        }
        Ok(bound)
    }

    /// Consumes the state and keeps the code; false if somebody was faster or the flow is over.
    pub async fn accept_callback(
        &self,
        flow: &Flow,
        accepted: &AcceptedCallback<'_>,
        audit: &AuditEvent,
    ) -> Result<bool, StoreError> {
        let code = self.seal_flow(flow, "code", accepted.code)?;
        let mut tx = self.db.begin_write().await?;
        let moved = on_tx!(&mut tx, |executor| {
            sqlx::query(sql::ACCEPT_CALLBACK)
                .bind(flow.id.to_string())
                .bind(accepted.state_hash)
                .bind(accepted.status.as_str())
                .bind(code)
                .bind(to_json(accepted.kept))
                .bind(accepted.handle_hash)
                .bind(accepted.handle_expires_at.as_millis())
                .bind(accepted.confirm_hash)
                .bind(accepted.now.as_millis())
                .execute(executor)
                .await?
                .rows_affected()
        }) == 1;
        if moved {
            write_audit(&mut tx, audit).await?;
            tx.commit().await?;
        }
        Ok(moved)
    }

    /// Ends a flow that stands at `from`, and erases its secrets; false if it no longer stands there.
    pub async fn fail_flow(
        &self,
        id: FlowId,
        from: FlowStatus,
        failure: FlowFailure,
        now: Timestamp,
        audit: &AuditEvent,
    ) -> Result<bool, StoreError> {
        let mut tx = self.db.begin_write().await?;
        let failed = on_tx!(&mut tx, |executor| {
            sqlx::query(sql::FAIL)
                .bind(id.to_string())
                .bind(from.as_str())
                .bind(failure.as_str())
                .bind(now.as_millis())
                .execute(executor)
                .await?
                .rows_affected()
        }) == 1;
        if failed {
            write_audit(&mut tx, audit).await?;
            tx.commit().await?;
        }
        Ok(failed)
    }

    /// Starts the redemption of the code by its one-use proof; `None` if the proof does not fit, has lapsed, or was used.
    pub async fn begin_redemption(
        &self,
        flow: &Flow,
        proof: Proof<'_>,
        now: Timestamp,
        lease_until: Timestamp,
    ) -> Result<Option<Redemption>, StoreError> {
        let (statement, from, hash) = match proof {
            Proof::Handle(hash) => (sql::BEGIN_FINISH, FlowStatus::AwaitingFinish, hash),
            Proof::Confirm(hash) => (sql::BEGIN_CONFIRM, FlowStatus::AwaitingConfirm, hash),
        };
        let mut tx = self.db.begin_write().await?;
        let found: Option<RedemptionRow> = on_tx!(&mut tx, |executor| {
            sqlx::query_as(statement)
                .bind(flow.id.to_string())
                .bind(from.as_str())
                .bind(now.as_millis())
                .bind(lease_until.as_millis())
                .bind(hash)
                .fetch_optional(executor)
                .await?
        });
        tx.commit().await?;
        let Some(row) = found else { return Ok(None) };
        let kept = match row.kept {
            Some(text) => from_json(TABLE, "kept", &flow.id.to_string(), &text)?,
            None => std::collections::BTreeMap::new(),
        };
        for record in [&row.code, &row.verifier, &row.nonce] {
            self.know_key_of(record.as_deref()).await;
        }
        Ok(Some(Redemption {
            code: self.open_flow(flow, "code", row.code.as_deref())?,
            verifier: self.open_flow(flow, "verifier", row.verifier.as_deref())?,
            nonce: self.open_flow(flow, "nonce", row.nonce.as_deref())?,
            kept,
        }))
    }

    /// Calls a flow off; false if it is past that.
    pub async fn cancel_flow(&self, id: FlowId, now: Timestamp, audit: &AuditEvent) -> Result<bool, StoreError> {
        let mut tx = self.db.begin_write().await?;
        let cancelled = on_tx!(&mut tx, |executor| {
            sqlx::query(sql::CANCEL).bind(id.to_string()).bind(now.as_millis()).execute(executor).await?.rows_affected()
        }) == 1;
        if cancelled {
            write_audit(&mut tx, audit).await?;
            tx.commit().await?;
        }
        Ok(cancelled)
    }

    /// Fails flows whose redemption died with its process. Only those that expire after `since`.
    pub async fn fail_interrupted_flows(&self, now: Timestamp, since: Timestamp) -> Result<u64, StoreError> {
        Ok(crate::db::on_db_write!(&self.db, |pool| {
            sqlx::query(sql::INTERRUPTED)
                .bind(now.as_millis())
                .bind(since.as_millis())
                .execute(pool)
                .await?
                .rows_affected()
        }))
    }

    /// Queues tokens that a failed flow had already redeemed.
    pub async fn revoke_unstored(
        &self,
        space: &SpaceId,
        unstored: &Unstored<'_>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (connector, owner, connection) =
            (unstored.connector.to_string(), unstored.owner.key(), unstored.connection.to_string());
        let mut tx = self.db.begin_write().await?;
        let tokens = [
            (valetkey_core::TokenKind::Refresh, unstored.ids.0, unstored.tokens.refresh_token.as_ref()),
            (valetkey_core::TokenKind::Access, unstored.ids.1, Some(&unstored.tokens.access_token)),
        ];
        for (kind, id, token) in tokens {
            let Some(token) = token else { continue };
            self.queue_unstored(
                &mut tx,
                &crate::settle::UnstoredToken {
                    id,
                    space,
                    connection: &connection,
                    connector: &connector,
                    owner: &owner,
                    label: unstored.label,
                    kind,
                    token,
                    reason: valetkey_core::RevocationReason::FlowFailed,
                    now,
                },
            )
            .await?;
        }
        tx.commit().await
    }
}

/// Tokens that were redeemed and cannot be stored.
#[derive(Debug)]
pub struct Unstored<'a> {
    /// The connector.
    pub connector: valetkey_core::ConnectorId,
    /// The id under which the revocation is listed: of the connection that was not made or not changed.
    pub connection: valetkey_core::ConnectionId,
    /// Whose grant it would have been.
    pub owner: &'a Owner,
    /// Which of the owner's accounts.
    pub label: &'a valetkey_core::Label,
    /// The tokens.
    pub tokens: &'a valetkey_core::TokenSet,
    /// Ids for the revocations: refresh, access.
    pub ids: (valetkey_core::RevocationId, valetkey_core::RevocationId),
}
