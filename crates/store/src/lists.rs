//! Lists and counts for people and for metrics. None of them reads a token.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use valetkey_core::{
    Connection, ConnectionId, ConnectorId, Label, Owner, ReauthReason, Revocation, RevocationId, RevocationState,
    SpaceId, Status, Timestamp,
};

use crate::{
    StoreError, StoredConnection, TokenStore,
    db::{on_db, on_db_sweep},
    rows::{ConnectionRow, instant, parse},
    sql,
};

/// A refresh that is later than this is overdue, in milliseconds: the scheduler comes by several times a minute.
const OVERDUE_MILLIS: i64 = 60_000;

/// Which connections; what is absent does not narrow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionFilter {
    /// Of this connector.
    pub connector_id: Option<ConnectorId>,
    /// Of this owner.
    #[serde(with = "owner_key")]
    pub owner: Option<Owner>,
    /// In this status.
    pub status: Option<Status>,
    /// At this provider.
    pub provider: Option<String>,
    /// With this label.
    pub label: Option<Label>,
    /// Needing their owner for this reason.
    pub reason: Option<ReauthReason>,
}

/// An owner as the text that the columns hold.
mod owner_key {
    use super::{Deserialize, Deserializer, Owner, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
    pub(super) fn serialize<S: Serializer>(owner: &Option<Owner>, serializer: S) -> Result<S::Ok, S::Error> {
        owner.as_ref().map(Owner::key).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Owner>, D::Error> {
        let key = Option::<String>::deserialize(deserializer)?;
        key.map(|key| Owner::from_key(&key).ok_or_else(|| serde::de::Error::custom("not an owner's key"))).transpose()
    }
}

/// Which revocations; what is absent does not narrow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationFilter {
    /// In this state.
    pub state: Option<RevocationState>,
    /// Of this connector.
    pub connector_id: Option<ConnectorId>,
    /// Of this connection.
    pub connection_id: Option<ConnectionId>,
    /// Of these connectors alone.
    pub only: Option<Vec<ConnectorId>>,
}

/// How many connections of a provider are in a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionCount {
    /// The provider.
    pub provider: String,
    /// The status.
    pub status: Status,
    /// How many.
    pub count: i64,
}

/// How much refresh work waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueCounts {
    /// Connections whose due point has come.
    pub due: i64,
    /// Those whose due point came more than a minute ago.
    pub overdue: i64,
    /// The earliest due point that has come.
    pub oldest: Option<Timestamp>,
}

/// The ids that exist for a caller as one text, which a statement looks an id up in.
pub(crate) fn only_text(only: &[ConnectorId]) -> String {
    only.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Binds the eight parameters that all statements over a [`ConnectionFilter`] begin with.
macro_rules! bind_filter {
    ($query:expr, $space:expr, $filter:expr, $only:expr) => {
        $query
            .bind($space.as_str())
            .bind($only.map($crate::lists::only_text))
            .bind($filter.connector_id.map(|id| id.to_string()))
            .bind($filter.owner.as_ref().map(valetkey_core::Owner::key))
            .bind($filter.status.map(valetkey_core::Status::as_str))
            .bind($filter.provider.as_deref())
            .bind($filter.label.as_ref().map(valetkey_core::Label::as_str))
            .bind($filter.reason.map(valetkey_core::ReauthReason::as_str))
    };
}
pub(crate) use bind_filter;

#[derive(sqlx::FromRow)]
struct RevocationRow {
    id: String,
    space_id: String,
    connection_id: String,
    connector_id: String,
    token_kind: String,
    reason: String,
    state: String,
    outcome: Option<String>,
    tries: i64,
    next_try_at: Option<i64>,
    created_at: i64,
    updated_at: i64,
}

impl TryFrom<RevocationRow> for Revocation {
    type Error = StoreError;

    fn try_from(row: RevocationRow) -> Result<Self, StoreError> {
        const TABLE: &str = "revocations";
        Ok(Self {
            id: parse(TABLE, "id", &row.id, &row.id)?,
            space: parse(TABLE, "space_id", &row.id, &row.space_id)?,
            connection_id: parse(TABLE, "connection_id", &row.id, &row.connection_id)?,
            connector_id: parse(TABLE, "connector_id", &row.id, &row.connector_id)?,
            token_kind: parse(TABLE, "token_kind", &row.id, &row.token_kind)?,
            reason: parse(TABLE, "reason", &row.id, &row.reason)?,
            state: parse(TABLE, "state", &row.id, &row.state)?,
            outcome: row.outcome,
            tries: row.tries,
            next_try_at: instant(row.next_try_at),
            created_at: Timestamp::from_millis(row.created_at),
            updated_at: Timestamp::from_millis(row.updated_at),
        })
    }
}

impl TokenStore {
    /// A space's connections by id, that is oldest first; `only` narrows to connectors that exist for the caller.
    pub async fn list_connections(
        &self,
        space: &SpaceId,
        filter: &ConnectionFilter,
        only: Option<&[ConnectorId]>,
        after: Option<ConnectionId>,
        limit: i64,
    ) -> Result<Vec<Connection>, StoreError> {
        let text = match filter.owner {
            Some(_) => sql::lists::LIST_CONNECTIONS_OF_OWNER,
            None => sql::lists::LIST_CONNECTIONS,
        };
        let rows: Vec<ConnectionRow> = on_db!(&self.db, |pool| {
            bind_filter!(sqlx::query_as(text), space, filter, only)
                .bind(after.map(|id| id.to_string()))
                .bind(limit)
                .fetch_all(pool)
                .await?
        });
        rows.into_iter().map(|row| Ok(StoredConnection::try_from(row)?.connection)).collect()
    }

    /// How many connections a list without a limit would have.
    pub async fn count_connections(
        &self,
        space: &SpaceId,
        filter: &ConnectionFilter,
        only: Option<&[ConnectorId]>,
    ) -> Result<i64, StoreError> {
        let text = match filter.owner {
            Some(_) => sql::lists::COUNT_CONNECTIONS_OF_OWNER,
            None => sql::lists::COUNT_CONNECTIONS,
        };
        Ok(on_db!(&self.db, |pool| {
            bind_filter!(sqlx::query_scalar(text), space, filter, only).fetch_one(pool).await?
        }))
    }

    /// A space's connection.
    pub async fn find_connection(&self, space: &SpaceId, id: ConnectionId) -> Result<Option<Connection>, StoreError> {
        let row: Option<ConnectionRow> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::lists::FIND_CONNECTION)
                .bind(space.as_str())
                .bind(id.to_string())
                .fetch_optional(pool)
                .await?
        });
        row.map(|row| Ok(StoredConnection::try_from(row)?.connection)).transpose()
    }

    /// Connections of all spaces by provider and status. Reads every one of them: for a timer, not for a request.
    pub async fn connection_counts(&self) -> Result<Vec<ConnectionCount>, StoreError> {
        let rows: Vec<(String, String, i64)> =
            on_db_sweep!(&self.db, |pool| sqlx::query_as(sql::lists::CONNECTION_COUNTS).fetch_all(pool).await?);
        rows.into_iter()
            .map(|(provider, status, count)| {
                let status = parse("connections", "status", &provider, &status)?;
                Ok(ConnectionCount { provider, status, count })
            })
            .collect()
    }

    /// A space's revocations by id, that is oldest first.
    pub async fn list_revocations(
        &self,
        space: &SpaceId,
        filter: &RevocationFilter,
        after: Option<RevocationId>,
        limit: i64,
    ) -> Result<Vec<Revocation>, StoreError> {
        let rows: Vec<RevocationRow> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::lists::LIST_REVOCATIONS)
                .bind(space.as_str())
                .bind(filter.state.map(RevocationState::as_str))
                .bind(filter.connector_id.map(|id| id.to_string()))
                .bind(filter.connection_id.map(|id| id.to_string()))
                .bind(after.map(|id| id.to_string()))
                .bind(filter.only.as_deref().map(only_text))
                .bind(limit)
                .fetch_all(pool)
                .await?
        });
        rows.into_iter().map(Revocation::try_from).collect()
    }

    /// Revocations of all spaces by state.
    pub async fn revocation_counts(&self) -> Result<Vec<(RevocationState, i64)>, StoreError> {
        let rows: Vec<(String, i64)> =
            on_db!(&self.db, |pool| sqlx::query_as(sql::lists::REVOCATION_COUNTS).fetch_all(pool).await?);
        rows.into_iter().map(|(state, count)| Ok((parse("revocations", "state", &state, &state)?, count))).collect()
    }

    /// How much refresh work waits in all spaces.
    pub async fn due_counts(&self, now: Timestamp) -> Result<DueCounts, StoreError> {
        let (due, overdue, oldest): (i64, i64, Option<i64>) = on_db_sweep!(&self.db, |pool| {
            sqlx::query_as(sql::lists::DUE_COUNTS)
                .bind(now.as_millis())
                .bind(now.as_millis() - OVERDUE_MILLIS)
                .fetch_one(pool)
                .await?
        });
        Ok(DueCounts { due, overdue, oldest: instant(oldest) })
    }
}
