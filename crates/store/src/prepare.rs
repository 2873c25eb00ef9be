//! Reads everything that a refresh works with: for many connections in one statement, connectors and secrets from
//! memory while nothing has changed about them.

use std::sync::Arc;

use sqlx::FromRow;
use valetkey_core::{Connection, ConnectionId, Connector, Secret, Timestamp, TokenKind};

use crate::{
    Circuit, StoreError, StoredConnection, TokenStore,
    connectors::SealedSecrets,
    db::{Db, on_db},
    rows::{ConnectionRow, to_json},
    sql::groups as sql,
};

/// A connection about to be refreshed, as it was read.
///
/// Old age does no harm: whoever acts on it records an attempt first, and only while connection and generation are
/// what they were.
#[derive(Clone)]
pub struct Prepared {
    /// The connection.
    pub connection: Connection,
    /// The circuit of its connector, if it was open.
    pub circuit: Option<Circuit>,
    /// [`TokenStore::circuit_changes`] before that was read.
    pub circuit_changes: u64,
    refresh_token: Option<Vec<u8>>,
    revision: i64,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// A connector with its client secrets, still sealed.
#[derive(Debug)]
pub(crate) struct Client {
    connector: Connector,
    secrets: Option<SealedSecrets>,
}

#[derive(FromRow)]
struct PreparedRow {
    revision: i64,
    circuit_code: Option<String>,
    circuit_failures: Option<i64>,
    circuit_opened_at: Option<i64>,
    circuit_next_probe_at: Option<i64>,
    refresh_token: Option<Vec<u8>>,
    #[sqlx(flatten)]
    connection: ConnectionRow,
}

impl PreparedRow {
    fn circuit(&self) -> Option<Circuit> {
        Some(Circuit {
            code: self.circuit_code.clone()?,
            failures: self.circuit_failures?,
            opened_at: Timestamp::from_millis(self.circuit_opened_at?),
            next_probe_at: Timestamp::from_millis(self.circuit_next_probe_at?),
        })
    }
}

impl TokenStore {
    /// Reads connections that are to be refreshed, in no particular order; those that are gone are left out.
    pub async fn prepare(&self, ids: &[ConnectionId]) -> Result<Vec<Prepared>, StoreError> {
        let circuit_changes = self.circuit_changes();
        let text = match &self.db {
            Db::Sqlite(_) => sql::TO_REFRESH_SQLITE,
            Db::Postgres(_) => sql::TO_REFRESH_POSTGRES,
        };
        let ids: Vec<[String; 1]> = ids.iter().map(|id| [id.to_string()]).collect();
        let rows: Vec<PreparedRow> =
            on_db!(&self.db, |pool| sqlx::query_as(text).bind(to_json(&ids)).fetch_all(pool).await?);
        rows.into_iter()
            .map(|row| {
                Ok(Prepared {
                    circuit: row.circuit(),
                    circuit_changes,
                    refresh_token: row.refresh_token,
                    revision: row.revision,
                    connection: StoredConnection::try_from(row.connection)?.connection,
                })
            })
            .collect()
    }

    /// Opens the refresh token, if there is one.
    pub fn open_refresh_token(&self, prepared: &Prepared) -> Result<Option<Secret>, StoreError> {
        let Some(record) = &prepared.refresh_token else { return Ok(None) };
        self.open_token(&prepared.connection, TokenKind::Refresh, record).map(Some)
    }

    /// The connector, deleted or not, with its client secrets.
    pub async fn client_of(&self, prepared: &Prepared) -> Result<Option<(Connector, Vec<Secret>)>, StoreError> {
        let id = prepared.connection.connector_id;
        let kept = self.clients.get(&id).filter(|(revision, _)| *revision == prepared.revision);
        let client = if let Some((_, client)) = kept {
            client
        } else {
            let Some(connector) = self.find_connector_any(id).await? else { return Ok(None) };
            let client = Arc::new(Client { connector, secrets: self.sealed_secrets(id).await? });
            self.clients.insert(id, (prepared.revision, Arc::clone(&client)));
            client
        };
        let secrets = match &client.secrets {
            Some(sealed) => self.open_secrets(id, sealed)?,
            None => Vec::new(),
        };
        Ok(Some((client.connector.clone(), secrets)))
    }
}
