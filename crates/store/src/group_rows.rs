//! What writes that share a commit look like, and how a group of them becomes a few statements.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use sqlx::Row;
use valetkey_core::{AttemptState, AuditEvent, ConnectionId, Timestamp};

use crate::{
    HeldAttempt, NewAttempt, StoreError,
    audit::write_audits,
    db::{Tx, on_tx},
    rows::{instant, parse, to_json},
    sql::groups as sql,
};

/// One write.
#[derive(Debug)]
pub(crate) enum Write {
    Record(RecordRow),
    MarkSent(MarkRow),
    End(EndRow),
    Settle(Box<(SettleRow, AuditEvent)>),
    Failing(FailingRow, DueRow),
    MoveDue(DueRow),
}

impl Write {
    /// Whether it changes the connection itself, which may be in memory.
    pub(crate) fn changes_connection(&self) -> bool {
        match self {
            Self::Settle(_) | Self::Failing(..) => true,
            Self::Record(_) | Self::MarkSent(_) | Self::End(_) | Self::MoveDue(_) => false,
        }
    }
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Written {
    Held(Option<HeldAttempt>),
    /// Whether its condition held.
    Done(bool),
}

impl Written {
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done(true))
    }
}

/// An attempt to be recorded.
#[derive(Debug, Serialize)]
pub(crate) struct RecordRow {
    connection: String,
    generation: i64,
    id: String,
    state: &'static str,
    holder: String,
    lease_until: i64,
    sent_at: Option<i64>,
    fingerprint: String,
    despite_hold: i64,
    now: i64,
}

impl RecordRow {
    pub(crate) fn of(new: &NewAttempt) -> Self {
        Self {
            connection: new.connection_id.to_string(),
            generation: new.generation,
            id: new.id.to_string(),
            state: new.state.as_str(),
            holder: new.holder.clone(),
            lease_until: new.lease_until.as_millis(),
            sent_at: (new.state == AttemptState::Sent).then_some(new.now.as_millis()),
            fingerprint: new.fingerprint.as_str().to_owned(),
            despite_hold: i64::from(new.despite_hold),
            now: new.now.as_millis(),
        }
    }
}

/// An attempt about to be sent.
#[derive(Debug, Serialize)]
pub(crate) struct MarkRow {
    pub(crate) connection: String,
    pub(crate) generation: i64,
    pub(crate) holder: String,
    pub(crate) now: i64,
}

/// An attempt whose send is over.
#[derive(Debug, Serialize)]
pub(crate) struct EndRow {
    pub(crate) connection: String,
    pub(crate) generation: i64,
    pub(crate) holder: String,
    pub(crate) state: &'static str,
    pub(crate) outcome: String,
    pub(crate) next_try_at: i64,
    pub(crate) now: i64,
}

/// Tokens of the next generation; sealed, and in hexadecimal digits.
#[derive(Debug, Serialize)]
pub(crate) struct SettleRow {
    pub(crate) connection: String,
    pub(crate) generation: i64,
    pub(crate) scopes: String,
    pub(crate) token_type: String,
    pub(crate) access: String,
    pub(crate) refresh: Option<String>,
    pub(crate) fingerprint: String,
    pub(crate) issued_at: i64,
    pub(crate) expires_at: Option<i64>,
    pub(crate) refresh_expires_at: Option<i64>,
    pub(crate) due_at: Option<i64>,
    pub(crate) now: i64,
}

/// A connection whose refresh failed.
#[derive(Debug, Serialize)]
pub(crate) struct FailingRow {
    pub(crate) connection: String,
    pub(crate) generation: i64,
    pub(crate) outcome: String,
    pub(crate) now: i64,
}

/// A due point, or none.
#[derive(Debug, Serialize)]
pub(crate) struct DueRow(String, Option<i64>);

impl DueRow {
    pub(crate) fn of(connection: ConnectionId, due_at: Option<Timestamp>) -> Self {
        Self(connection.to_string(), due_at.map(Timestamp::as_millis))
    }
}

/// One statement in its two spellings.
macro_rules! spelled {
    ($tx:expr, $sqlite:ident, $postgres:ident) => {
        match $tx {
            Tx::Sqlite(_) => sql::$sqlite,
            Tx::Postgres(_) => sql::$postgres,
        }
    };
}

/// Carries out writes of different connections inside one transaction; the answers are in the order of the writes.
pub(crate) async fn apply(tx: &mut Tx, writes: &[&Write]) -> Result<Vec<Written>, StoreError> {
    macro_rules! rows {
        ($pattern:pat $(if $holds:expr)? => $row:expr) => {
            writes
                .iter()
                .filter_map(|write| match write {
                    $pattern $(if $holds)? => Some($row),
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
    }
    let mut held = record(tx, rows!(Write::Record(row) => row)).await?;
    let text = spelled!(tx, MARK_SENT_SQLITE, MARK_SENT_POSTGRES);
    let marked = changed(tx, text, rows!(Write::MarkSent(row) => row), |row| &row.connection).await?;
    let text = spelled!(tx, END_SQLITE, END_POSTGRES);
    let ended = changed(tx, text, rows!(Write::End(row) => row), |row| &row.connection).await?;
    let text = spelled!(tx, SETTLE_SQLITE, SETTLE_POSTGRES);
    let settled = changed(tx, text, rows!(Write::Settle(settle) => &settle.0), |row| &row.connection).await?;
    let text = spelled!(tx, MARK_FAILING_SQLITE, MARK_FAILING_POSTGRES);
    let failing = changed(tx, text, rows!(Write::Failing(row, _) => row), |row| &row.connection).await?;
    let stored = rows!(Write::Settle(settle) if settled.contains(&settle.0.connection) => &**settle);
    end_settled(tx, &stored).await?;
    let mut due: Vec<DueRow> =
        stored.iter().map(|settle| DueRow(settle.0.connection.clone(), settle.0.due_at)).collect();
    for write in writes {
        match write {
            Write::Failing(row, next) if failing.contains(&row.connection) => due.push(DueRow(next.0.clone(), next.1)),
            Write::MoveDue(row) => due.push(DueRow(row.0.clone(), row.1)),
            _ => {}
        }
    }
    move_due(tx, due).await?;
    let mut written = Vec::with_capacity(writes.len());
    for write in writes {
        written.push(match write {
            Write::Record(row) => Written::Held(held.remove(&row.connection)),
            Write::MarkSent(row) => Written::Done(marked.contains(&row.connection)),
            Write::End(row) => Written::Done(ended.contains(&row.connection)),
            Write::Settle(settle) => Written::Done(settled.contains(&settle.0.connection)),
            Write::Failing(row, _) => Written::Done(failing.contains(&row.connection)),
            Write::MoveDue(_) => Written::Done(true),
        });
    }
    Ok(written)
}

async fn record(tx: &mut Tx, mut rows: Vec<&RecordRow>) -> Result<HashMap<String, HeldAttempt>, StoreError> {
    const TABLE: &str = "attempts";
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    rows.sort_unstable_by(|left, right| left.connection.cmp(&right.connection));
    let text = spelled!(tx, RECORD_SQLITE, RECORD_POSTGRES);
    let mut held = HashMap::with_capacity(rows.len());
    on_tx!(tx, |executor| {
        for row in sqlx::query(text).bind(to_json(&rows)).fetch_all(executor).await? {
            let id: String = row.try_get("id")?;
            let attempt = HeldAttempt {
                id: parse(TABLE, "id", &id, &id)?,
                send_no: row.try_get("send_no")?,
                first_sent_at: instant(row.try_get("first_sent_at")?),
            };
            held.insert(row.try_get("connection_id")?, attempt);
        }
    });
    Ok(held)
}

/// Runs a statement that returns the connections whose condition held. Rows go in one order everywhere, so that groups
/// of several replicas wait for each other's rows instead of locking each other out.
async fn changed<R: Serialize>(
    tx: &mut Tx,
    text: &'static str,
    mut rows: Vec<&R>,
    connection: impl Fn(&R) -> &String,
) -> Result<HashSet<String>, StoreError> {
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    rows.sort_unstable_by(|left, right| connection(left).cmp(connection(right)));
    let changed: Vec<String> =
        on_tx!(tx, |executor| sqlx::query_scalar(text).bind(to_json(&rows)).fetch_all(executor).await?);
    Ok(changed.into_iter().collect())
}

/// The attempts and the audit of what was stored.
async fn end_settled(tx: &mut Tx, stored: &[&(SettleRow, AuditEvent)]) -> Result<(), StoreError> {
    if stored.is_empty() {
        return Ok(());
    }
    let mut attempts: Vec<_> =
        stored.iter().map(|settle| (&settle.0.connection, settle.0.generation, settle.0.now)).collect();
    attempts.sort_unstable();
    let text = spelled!(tx, SETTLE_ATTEMPTS_SQLITE, SETTLE_ATTEMPTS_POSTGRES);
    on_tx!(tx, |executor| {
        sqlx::query(text).bind(to_json(&attempts)).execute(executor).await?;
    });
    let events: Vec<AuditEvent> = stored.iter().map(|settle| settle.1.clone()).collect();
    write_audits(tx, &events).await
}

async fn move_due(tx: &mut Tx, mut rows: Vec<DueRow>) -> Result<(), StoreError> {
    rows.sort_unstable_by(|left, right| left.0.cmp(&right.0));
    let (moved, taken): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.1.is_some());
    let put = spelled!(tx, PUT_DUE_SQLITE, PUT_DUE_POSTGRES);
    let delete = spelled!(tx, DELETE_DUE_SQLITE, DELETE_DUE_POSTGRES);
    for (text, rows) in [(put, moved), (delete, taken)] {
        if !rows.is_empty() {
            on_tx!(tx, |executor| {
                sqlx::query(text).bind(to_json(&rows)).execute(executor).await?;
            });
        }
    }
    Ok(())
}
