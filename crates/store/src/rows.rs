//! Rows as the statements return them, and how they become the domain's types.

use valetkey_core::{
    Account, Connection, ConnectionId, ConnectorId, Fingerprint, Label, LastAttempt, NeedsReauth, Owner, SpaceId,
    Timestamp,
};

use crate::StoreError;

/// Reads a column that holds a text form of `T`.
pub(crate) fn parse<T: std::str::FromStr>(
    table: &'static str,
    column: &'static str,
    row: &str,
    text: &str,
) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::inconsistent(table, column, row))
}

/// Reads a column that holds JSON.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(
    table: &'static str,
    column: &'static str,
    row: &str,
    text: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::inconsistent(table, column, row))
}

/// Writes JSON into a column. What we write is plain data, so this cannot fail; an empty text would be refused on reading.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// An optional instant as a column.
pub(crate) fn millis(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_millis)
}

/// A column as an optional instant.
pub(crate) fn instant(millis: Option<i64>) -> Option<Timestamp> {
    millis.map(Timestamp::from_millis)
}

/// The columns of a connection: what `sql::connections::columns!` names.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct ConnectionRow {
    pub(crate) id: String,
    pub(crate) space_id: String,
    pub(crate) connector_id: String,
    pub(crate) provider: String,
    pub(crate) owner: String,
    pub(crate) label: String,
    pub(crate) status: String,
    pub(crate) reauth_reason: Option<String>,
    pub(crate) reauth_since: Option<i64>,
    pub(crate) requested_scopes: String,
    pub(crate) granted_scopes: String,
    pub(crate) account_issuer: Option<String>,
    pub(crate) account_subject: Option<String>,
    pub(crate) account_name: Option<String>,
    pub(crate) generation: i64,
    pub(crate) token_type: String,
    pub(crate) has_refresh_token: bool,
    pub(crate) access_fingerprint: Option<String>,
    pub(crate) issued_at: i64,
    pub(crate) expires_at: Option<i64>,
    pub(crate) refresh_expires_at: Option<i64>,
    pub(crate) reconnect_by: Option<i64>,
    pub(crate) refresh_due_at: Option<i64>,
    pub(crate) refreshing: String,
    pub(crate) last_outcome: Option<String>,
    pub(crate) last_attempt_at: Option<i64>,
    pub(crate) rejected_at: Option<i64>,
    pub(crate) weakly_bound: bool,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    /// Read only where the statement joins `due`.
    #[sqlx(default)]
    pub(crate) next_try_at: Option<i64>,
    /// Read only where the statement joins `connection_usage`.
    #[sqlx(default)]
    pub(crate) last_used_at: Option<i64>,
    /// Read only where the statement names it.
    #[sqlx(default)]
    pub(crate) access_token: Option<Vec<u8>>,
}

/// A connection with its access token, still sealed. The refresh token stays in the database until it is presented.
#[derive(Clone)]
pub struct StoredConnection {
    /// Everything but the tokens.
    pub connection: Connection,
    /// Names the access token.
    pub fingerprint: Option<Fingerprint>,
    pub(crate) access_token: Option<Vec<u8>>,
}

impl std::fmt::Debug for StoredConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredConnection").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl StoredConnection {
    /// Roughly what it takes in memory, in bytes.
    pub(crate) fn weight(&self) -> u64 {
        let sealed = self.access_token.as_ref().map_or(0, Vec::len);
        u64::try_from(sealed).unwrap_or(u64::MAX) + 900
    }
}

impl TryFrom<ConnectionRow> for StoredConnection {
    type Error = StoreError;

    fn try_from(row: ConnectionRow) -> Result<Self, StoreError> {
        const TABLE: &str = "connections";
        let id: ConnectionId = parse(TABLE, "id", &row.id, &row.id)?;
        let connector_id: ConnectorId = parse(TABLE, "connector_id", &row.id, &row.connector_id)?;
        let space: SpaceId = parse(TABLE, "space_id", &row.id, &row.space_id)?;
        let label: Label = parse(TABLE, "label", &row.id, &row.label)?;
        let owner = Owner::from_key(&row.owner).ok_or_else(|| StoreError::inconsistent(TABLE, "owner", &row.id))?;
        let needs_reauth = match (&row.reauth_reason, row.reauth_since) {
            (Some(reason), Some(since)) => Some(NeedsReauth {
                reason: parse(TABLE, "reauth_reason", &row.id, reason)?,
                since: Timestamp::from_millis(since),
            }),
            _ => None,
        };
        let account = match (row.account_issuer, row.account_subject) {
            (Some(issuer), Some(subject)) => Some(Account { issuer, subject, name: row.account_name }),
            _ => None,
        };
        let last_attempt = match (row.last_outcome, row.last_attempt_at) {
            (Some(outcome), Some(at)) => Some(LastAttempt { outcome, at: Timestamp::from_millis(at) }),
            _ => None,
        };
        let connection = Connection {
            id,
            space,
            connector_id,
            provider: row.provider,
            owner,
            label,
            status: parse(TABLE, "status", &row.id, &row.status)?,
            needs_reauth,
            requested_scopes: from_json(TABLE, "requested_scopes", &row.id, &row.requested_scopes)?,
            granted_scopes: from_json(TABLE, "granted_scopes", &row.id, &row.granted_scopes)?,
            account,
            generation: row.generation,
            token_type: row.token_type,
            issued_at: Timestamp::from_millis(row.issued_at),
            expires_at: instant(row.expires_at),
            has_refresh_token: row.has_refresh_token,
            refresh_expires_at: instant(row.refresh_expires_at),
            reconnect_by: instant(row.reconnect_by),
            refresh_due_at: instant(row.refresh_due_at),
            next_try_at: instant(row.next_try_at),
            refreshing: parse(TABLE, "refreshing", &row.id, &row.refreshing)?,
            last_attempt,
            rejected_at: instant(row.rejected_at),
            weakly_bound: row.weakly_bound,
            created_at: Timestamp::from_millis(row.created_at),
            updated_at: Timestamp::from_millis(row.updated_at),
            last_used_at: instant(row.last_used_at),
        };
        Ok(Self {
            connection,
            fingerprint: row.access_fingerprint.map(Fingerprint::from_text),
            access_token: row.access_token,
        })
    }
}
