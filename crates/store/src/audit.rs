//! Audit: who did what to which, when and with what result.

use serde::Serialize;
use valetkey_core::{
    Action, Actor, AuditEvent, ConnectionId, ConnectorId, EventId, FlowId, KeyId, Owner, SpaceId, Subject, Timestamp,
};

use crate::{
    StoreError, TokenStore,
    db::{Tx, on_db, on_tx},
    rows::{millis, parse, to_json},
    sql,
};

const TABLE: &str = "audit";

/// Which events to list; what is absent does not narrow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// What happened.
    pub action: Option<Action>,
    /// The connector it is about.
    pub connector_id: Option<ConnectorId>,
    /// The connection it is about.
    pub connection_id: Option<ConnectionId>,
    /// The flow it is about.
    pub flow_id: Option<FlowId>,
    /// The key it is about.
    pub key_id: Option<KeyId>,
    /// Whose grant it is about.
    pub owner: Option<Owner>,
    /// Of these connectors alone; events about no connector do not match.
    pub only: Option<Vec<ConnectorId>>,
    /// At this instant or later.
    pub from: Option<Timestamp>,
    /// Before this instant.
    pub to: Option<Timestamp>,
}

/// The columns of an event, in the order of the statements.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct AuditRow {
    id: String,
    space_id: String,
    at: i64,
    actor_kind: String,
    actor_id: Option<String>,
    action: String,
    connector_id: Option<String>,
    connection_id: Option<String>,
    flow_id: Option<String>,
    key_id: Option<String>,
    owner: Option<String>,
    detail: Option<String>,
    request_id: Option<String>,
}

impl From<&AuditEvent> for AuditRow {
    fn from(event: &AuditEvent) -> Self {
        let (actor_kind, actor_id) = match &event.actor {
            Actor::Key { key_id } => ("key", Some(key_id.to_string())),
            Actor::CommandLine => ("command_line", None),
            Actor::Browser => ("browser", None),
            Actor::System => ("system", None),
        };
        let subject = &event.subject;
        Self {
            id: event.id.to_string(),
            space_id: event.space.to_string(),
            at: event.at.as_millis(),
            actor_kind: actor_kind.to_owned(),
            actor_id,
            action: event.action.as_str().to_owned(),
            connector_id: subject.connector_id.map(|id| id.to_string()),
            connection_id: subject.connection_id.map(|id| id.to_string()),
            flow_id: subject.flow_id.map(|id| id.to_string()),
            key_id: subject.key_id.map(|id| id.to_string()),
            owner: subject.owner.as_ref().map(Owner::key),
            detail: (!event.detail.is_null()).then(|| event.detail.to_string()),
            request_id: event.request_id.clone(),
        }
    }
}

impl TryFrom<AuditRow> for AuditEvent {
    type Error = StoreError;

    fn try_from(row: AuditRow) -> Result<Self, StoreError> {
        let inconsistent = |column| StoreError::inconsistent(TABLE, column, &row.id);
        let actor = match (row.actor_kind.as_str(), row.actor_id.as_deref()) {
            ("key", Some(id)) => Actor::Key { key_id: parse(TABLE, "actor_id", &row.id, id)? },
            ("command_line", None) => Actor::CommandLine,
            ("browser", None) => Actor::Browser,
            ("system", None) => Actor::System,
            _ => return Err(inconsistent("actor_kind")),
        };
        let owner = match row.owner.as_deref() {
            Some(key) => Some(Owner::from_key(key).ok_or_else(|| inconsistent("owner"))?),
            None => None,
        };
        let detail = match row.detail.as_deref() {
            Some(text) => serde_json::from_str(text).map_err(|_| inconsistent("detail"))?,
            None => serde_json::Value::Null,
        };
        Ok(Self {
            id: parse(TABLE, "id", &row.id, &row.id)?,
            space: parse(TABLE, "space_id", &row.id, &row.space_id)?,
            at: Timestamp::from_millis(row.at),
            actor,
            action: parse(TABLE, "action", &row.id, &row.action)?,
            subject: Subject {
                connector_id: optional("connector_id", &row.id, row.connector_id.as_deref())?,
                connection_id: optional("connection_id", &row.id, row.connection_id.as_deref())?,
                flow_id: optional("flow_id", &row.id, row.flow_id.as_deref())?,
                key_id: optional("key_id", &row.id, row.key_id.as_deref())?,
                owner,
            },
            detail,
            request_id: row.request_id,
        })
    }
}

fn optional<T: std::str::FromStr>(
    column: &'static str,
    row: &str,
    text: Option<&str>,
) -> Result<Option<T>, StoreError> {
    text.map(|text| parse(TABLE, column, row, text)).transpose()
}

/// Writes an event inside the transaction of the change that it tells of.
pub(crate) async fn write_audit(tx: &mut Tx, event: &AuditEvent) -> Result<(), StoreError> {
    let row = AuditRow::from(event);
    on_tx!(tx, |connection| {
        sqlx::query(sql::admin::INSERT_AUDIT)
            .bind(row.id)
            .bind(row.space_id)
            .bind(row.at)
            .bind(row.actor_kind)
            .bind(row.actor_id)
            .bind(row.action)
            .bind(row.connector_id)
            .bind(row.connection_id)
            .bind(row.flow_id)
            .bind(row.key_id)
            .bind(row.owner)
            .bind(row.detail)
            .bind(row.request_id)
            .execute(connection)
            .await?;
    });
    Ok(())
}

/// Writes many events in one statement inside a transaction.
pub(crate) async fn write_audits(tx: &mut Tx, events: &[AuditEvent]) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    let rows = to_json(&events.iter().map(AuditRow::from).collect::<Vec<_>>());
    match tx {
        Tx::Sqlite(transaction) => {
            sqlx::query(sql::admin::APPEND_AUDIT_SQLITE).bind(rows).execute(&mut **transaction).await?;
        }
        Tx::Postgres(transaction) => {
            sqlx::query(sql::admin::APPEND_AUDIT_POSTGRES).bind(rows).execute(&mut *transaction).await?;
        }
    }
    Ok(())
}

impl TokenStore {
    /// Writes events that belong to no change of state, all or none.
    pub async fn append_audit(&self, events: &[AuditEvent]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.begin_write().await?;
        write_audits(&mut tx, events).await?;
        tx.commit().await
    }

    /// Lists a space's events, newest first, starting after (that is, before in time) `after`.
    pub async fn list_audit(
        &self,
        space: &SpaceId,
        filter: &AuditFilter,
        after: Option<EventId>,
        limit: i64,
    ) -> Result<Vec<AuditEvent>, StoreError> {
        let rows: Vec<AuditRow> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::admin::LIST_AUDIT)
                .bind(space.as_str())
                .bind(after.map(|id| id.to_string()))
                .bind(filter.action.map(Action::as_str))
                .bind(filter.connector_id.map(|id| id.to_string()))
                .bind(filter.connection_id.map(|id| id.to_string()))
                .bind(filter.flow_id.map(|id| id.to_string()))
                .bind(filter.key_id.map(|id| id.to_string()))
                .bind(filter.owner.as_ref().map(Owner::key))
                .bind(millis(filter.from))
                .bind(millis(filter.to))
                .bind(filter.only.as_deref().map(crate::lists::only_text))
                .bind(limit)
                .fetch_all(pool)
                .await?
        });
        rows.into_iter().map(AuditEvent::try_from).collect()
    }
}
