//! Attempts: recorded before a refresh token leaves, ended by whoever holds them.

use sqlx::FromRow;
use valetkey_core::{
    Attempt, AttemptId, AttemptState, AuditEvent, Connection, ConnectionId, Fingerprint, ReauthReason, Timestamp,
};

use crate::{
    StoreError, TokenStore,
    audit::write_audit,
    connections::put_due,
    db::{on_db, on_db_look, on_db_write, on_tx},
    group_rows::{EndRow, MarkRow, RecordRow, Write, Written},
    rows::{instant, parse},
    sql::{attempts as sql, connections::MARK_DEAD},
};

const TABLE: &str = "attempts";

/// An attempt about to be recorded.
#[derive(Debug, Clone)]
pub struct NewAttempt {
    /// Its id, if it is the generation's first.
    pub id: AttemptId,
    /// The connection.
    pub connection_id: ConnectionId,
    /// The generation whose refresh token will be presented.
    pub generation: i64,
    /// `Sent` where one mark is enough, `Unsent` where a second follows right before the first byte.
    pub state: AttemptState,
    /// This process.
    pub holder: String,
    /// Until when this process may act.
    pub lease_until: Timestamp,
    /// Names what is presented.
    pub fingerprint: Fingerprint,
    /// Whether a hold does not keep it back: presenting this token twice harms nothing.
    pub despite_hold: bool,
    /// Now.
    pub now: Timestamp,
}

/// An attempt that this process holds.
#[derive(Debug, Clone)]
pub struct HeldAttempt {
    /// Its id.
    pub id: AttemptId,
    /// How often it was sent, this time included.
    pub send_no: i64,
    /// When the first presentation may have left.
    pub first_sent_at: Option<Timestamp>,
}

/// How this process ends one send of an attempt.
#[derive(Debug, Clone, Copy)]
pub struct EndAttempt<'a> {
    /// The state from now on.
    pub state: AttemptState,
    /// What was seen, a short code.
    pub outcome: &'a str,
    /// Not to be repeated before this.
    pub next_try_at: Timestamp,
    /// Now.
    pub now: Timestamp,
}

/// What [`TokenStore::stop_abandoned`] has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Somebody else said first what became of the attempt; nothing changed.
    NotAtAll,
    /// The attempt; the grant was over already.
    Alone,
    /// The attempt and the grant.
    WithItsGrant,
}

#[derive(Debug, FromRow)]
struct AttemptRow {
    connection_id: String,
    generation: i64,
    id: String,
    state: String,
    send_no: i64,
    holder: String,
    lease_until: i64,
    next_try_at: i64,
    first_sent_at: Option<i64>,
    fingerprint: String,
    outcome: Option<String>,
    created_at: i64,
    updated_at: i64,
}

impl TryFrom<AttemptRow> for Attempt {
    type Error = StoreError;

    fn try_from(row: AttemptRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: parse(TABLE, "id", &row.id, &row.id)?,
            connection_id: parse(TABLE, "connection_id", &row.id, &row.connection_id)?,
            generation: row.generation,
            state: parse(TABLE, "state", &row.id, &row.state)?,
            send_no: row.send_no,
            holder: row.holder,
            lease_until: Timestamp::from_millis(row.lease_until),
            next_try_at: Timestamp::from_millis(row.next_try_at),
            first_sent_at: instant(row.first_sent_at),
            fingerprint: Fingerprint::from_text(row.fingerprint),
            outcome: row.outcome,
            created_at: Timestamp::from_millis(row.created_at),
            updated_at: Timestamp::from_millis(row.updated_at),
        })
    }
}

impl TokenStore {
    /// Takes the one attempt of a generation, durably. `None`: somebody else holds it, it may not be repeated yet or at
    /// all, or the generation is over.
    pub async fn record_attempt(&self, new: &NewAttempt) -> Result<Option<HeldAttempt>, StoreError> {
        match self.commit_shared(new.connection_id, Write::Record(RecordRow::of(new))).await? {
            Written::Held(held) => Ok(held),
            Written::Done(_) => Ok(None),
        }
    }

    /// The second mark, right before the first byte.
    pub async fn mark_attempt_sent(
        &self,
        connection: ConnectionId,
        generation: i64,
        holder: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let row =
            MarkRow { connection: connection.to_string(), generation, holder: holder.to_owned(), now: now.as_millis() };
        Ok(self.commit_shared(connection, Write::MarkSent(row)).await?.is_done())
    }

    /// The attempt of a generation.
    pub async fn find_attempt(&self, connection: ConnectionId, generation: i64) -> Result<Option<Attempt>, StoreError> {
        let row: Option<AttemptRow> = on_db_look!(&self.db, |pool| {
            sqlx::query_as(sql::FIND).bind(connection.to_string()).bind(generation).fetch_optional(pool).await?
        });
        row.map(Attempt::try_from).transpose()
    }

    /// Ends one send and gives the lease back; false if this process no longer holds it.
    pub async fn end_attempt(
        &self,
        connection: &Connection,
        holder: &str,
        end: EndAttempt<'_>,
    ) -> Result<bool, StoreError> {
        let row = EndRow {
            connection: connection.id.to_string(),
            generation: connection.generation,
            holder: holder.to_owned(),
            state: end.state.as_str(),
            outcome: end.outcome.to_owned(),
            next_try_at: end.next_try_at.as_millis(),
            now: end.now.as_millis(),
        };
        Ok(self.commit_shared(connection.id, Write::End(row)).await?.is_done())
    }

    /// Attempts whose lease is over and whose end nobody wrote: a process died. Only those changed after `since`.
    pub async fn abandoned_attempts(
        &self,
        now: Timestamp,
        since: Timestamp,
        limit: i64,
    ) -> Result<Vec<Attempt>, StoreError> {
        let rows: Vec<AttemptRow> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::ABANDONED)
                .bind(now.as_millis())
                .bind(since.as_millis())
                .bind(limit)
                .fetch_all(pool)
                .await?
        });
        rows.into_iter().map(Attempt::try_from).collect()
    }

    /// Says how an abandoned attempt goes on; false if somebody else did so first.
    pub async fn resolve_abandoned(
        &self,
        attempt: &Attempt,
        state: AttemptState,
        outcome: &str,
        next_try_at: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let resolved = on_db_write!(&self.db, |pool| {
            sqlx::query(sql::RESOLVE)
                .bind(attempt.connection_id.to_string())
                .bind(attempt.generation)
                .bind(attempt.send_no)
                .bind(state.as_str())
                .bind(outcome)
                .bind(next_try_at.as_millis())
                .bind(now.as_millis())
                .execute(pool)
                .await?
                .rows_affected()
        });
        Ok(resolved == 1)
    }

    /// Ends an abandoned attempt and the grant whose token it may have spent, both or neither.
    pub async fn stop_abandoned(
        &self,
        attempt: &Attempt,
        reason: ReauthReason,
        outcome: &str,
        now: Timestamp,
        audit: &AuditEvent,
    ) -> Result<Stopped, StoreError> {
        let id = attempt.connection_id.to_string();
        let mut tx = self.db.begin_write().await?;
        // In the order in which a settle takes them.
        let (ended, resolved) = on_tx!(&mut tx, |executor| {
            let ended = sqlx::query(MARK_DEAD)
                .bind(&id)
                .bind(attempt.generation)
                .bind(reason.as_str())
                .bind(now.as_millis())
                .bind(outcome)
                .execute(&mut *executor)
                .await?
                .rows_affected();
            let resolved = sqlx::query(sql::RESOLVE)
                .bind(&id)
                .bind(attempt.generation)
                .bind(attempt.send_no)
                .bind(AttemptState::Stopped.as_str())
                .bind(outcome)
                .bind(now.as_millis())
                .bind(now.as_millis())
                .execute(executor)
                .await?
                .rows_affected();
            (ended == 1, resolved == 1)
        });
        if !resolved {
            return Ok(Stopped::NotAtAll);
        }
        if ended {
            put_due(&mut tx, attempt.connection_id, None).await?;
            write_audit(&mut tx, audit).await?;
        }
        tx.commit().await?;
        self.cache.forget_connection(attempt.connection_id);
        Ok(if ended { Stopped::WithItsGrant } else { Stopped::Alone })
    }

    /// Takes back what [`stop_abandoned`](Self::stop_abandoned) did, both or neither: the holder has come back and says
    /// that the token never left. False if it was not stopped, or somebody connected anew or revoked meanwhile.
    pub async fn take_back_stop(
        &self,
        connection: &Connection,
        holder: &str,
        end: EndAttempt<'_>,
        audit: &AuditEvent,
    ) -> Result<bool, StoreError> {
        let id = connection.id.to_string();
        let mut tx = self.db.begin_write().await?;
        let (grant, attempt) = on_tx!(&mut tx, |executor| {
            let grant = sqlx::query(sql::TAKE_BACK_DEATH)
                .bind(&id)
                .bind(connection.generation)
                .bind(end.next_try_at.as_millis())
                .bind(end.outcome)
                .bind(end.now.as_millis())
                .bind(ReauthReason::UnknownOutcome.as_str())
                .execute(&mut *executor)
                .await?
                .rows_affected();
            let attempt = sqlx::query(sql::TAKE_BACK_STOP)
                .bind(&id)
                .bind(connection.generation)
                .bind(holder)
                .bind(end.outcome)
                .bind(end.next_try_at.as_millis())
                .bind(end.now.as_millis())
                .execute(executor)
                .await?
                .rows_affected();
            (grant == 1, attempt == 1)
        });
        if !grant || !attempt {
            return Ok(false);
        }
        put_due(&mut tx, connection.id, Some(end.next_try_at)).await?;
        write_audit(&mut tx, audit).await?;
        tx.commit().await?;
        self.cache.forget_connection(connection.id);
        Ok(true)
    }
}
