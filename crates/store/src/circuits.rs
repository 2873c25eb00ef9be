//! Circuits: a connector whose registration the provider refuses is left alone, but for a probe now and then.

use std::sync::atomic::Ordering;

use valetkey_core::{ConnectorId, SpaceId, Timestamp};

use crate::{
    StoreError, TokenStore,
    db::{on_db, on_db_look, on_db_write},
    rows::parse,
    sql,
};

/// An open circuit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circuit {
    /// What the provider said, a short code.
    pub code: String,
    /// Refusals in a row.
    pub failures: i64,
    /// When it opened.
    pub opened_at: Timestamp,
    /// When somebody may try again.
    pub next_probe_at: Timestamp,
}

#[derive(sqlx::FromRow)]
struct CircuitRow {
    connector_id: String,
    code: String,
    failures: i64,
    opened_at: i64,
    next_probe_at: i64,
}

impl From<CircuitRow> for Circuit {
    fn from(row: CircuitRow) -> Self {
        Self {
            code: row.code,
            failures: row.failures,
            opened_at: Timestamp::from_millis(row.opened_at),
            next_probe_at: Timestamp::from_millis(row.next_probe_at),
        }
    }
}

impl TokenStore {
    /// Opens a circuit, or counts one more refusal of an open one; returns the refusals in a row.
    pub async fn open_circuit(
        &self,
        connector: ConnectorId,
        code: &str,
        now: Timestamp,
        next_probe_at: Timestamp,
    ) -> Result<i64, StoreError> {
        let failures = on_db_write!(&self.db, |pool| {
            sqlx::query_scalar(sql::admin::OPEN_CIRCUIT)
                .bind(connector.to_string())
                .bind(code)
                .bind(now.as_millis())
                .bind(next_probe_at.as_millis())
                .fetch_one(pool)
                .await?
        });
        self.circuit_changes.fetch_add(1, Ordering::Release);
        Ok(failures)
    }

    /// How often this process has changed a circuit: while the number stands, what was read before still holds here.
    pub fn circuit_changes(&self) -> u64 {
        self.circuit_changes.load(Ordering::Acquire)
    }

    /// Closes a circuit; `false` if it was not open.
    pub async fn close_circuit(&self, connector: ConnectorId) -> Result<bool, StoreError> {
        let closed = on_db_write!(&self.db, |pool| {
            sqlx::query(sql::admin::CLOSE_CIRCUIT).bind(connector.to_string()).execute(pool).await?.rows_affected()
        });
        self.circuit_changes.fetch_add(1, Ordering::Release);
        Ok(closed > 0)
    }

    /// Closes a circuit whose cause was mended, and lets what it had refused be tried again at once; `false` if it was not
    /// open.
    pub async fn release_circuit(&self, connector: ConnectorId, now: Timestamp) -> Result<bool, StoreError> {
        if !self.close_circuit(connector).await? {
            return Ok(false);
        }
        on_db_write!(&self.db, |pool| {
            sqlx::query(sql::admin::HASTEN_UNSENT)
                .bind(connector.to_string())
                .bind(now.as_millis())
                .execute(pool)
                .await?;
        });
        Ok(true)
    }

    /// The connector's circuit, if it is open.
    pub async fn find_circuit(&self, connector: ConnectorId) -> Result<Option<Circuit>, StoreError> {
        let row: Option<CircuitRow> = on_db_look!(&self.db, |pool| {
            sqlx::query_as(sql::admin::FIND_CIRCUIT).bind(connector.to_string()).fetch_optional(pool).await?
        });
        Ok(row.map(Circuit::from))
    }

    /// A space's open circuits.
    pub async fn list_circuits(&self, space: &SpaceId) -> Result<Vec<(ConnectorId, Circuit)>, StoreError> {
        let rows: Vec<CircuitRow> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::admin::LIST_CIRCUITS).bind(space.as_str()).fetch_all(pool).await?
        });
        rows.into_iter()
            .map(|row| {
                let id = parse("circuits", "connector_id", &row.connector_id, &row.connector_id)?;
                Ok((id, Circuit::from(row)))
            })
            .collect()
    }

    /// Takes the right to the one probe that is due, and sets when the next one is; `false` if there is none to take.
    pub async fn claim_probe(
        &self,
        connector: ConnectorId,
        now: Timestamp,
        next_probe_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let claimed = on_db_write!(&self.db, |pool| {
            sqlx::query(sql::admin::CLAIM_PROBE)
                .bind(connector.to_string())
                .bind(now.as_millis())
                .bind(next_probe_at.as_millis())
                .execute(pool)
                .await?
                .rows_affected()
        });
        self.circuit_changes.fetch_add(1, Ordering::Release);
        Ok(claimed > 0)
    }
}
