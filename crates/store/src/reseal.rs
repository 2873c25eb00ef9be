//! Sealing anew: every sealed field is opened under the key it names and sealed with the active one, a window of rows at a
//! time, each row on the condition that it still holds the bytes that were read.

use sqlx::FromRow;
use valetkey_core::TokenKind;
use valetkey_sealing::RecordIdentity;

use crate::{
    Engine, StoreError, TokenStore,
    connections::token_identity,
    connectors,
    db::{Tx, on_db, on_tx},
    flows, revocations,
    rows::parse,
    sql::sealed as sql,
};

/// A table with sealed columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SealedTable {
    /// Client secrets.
    Connectors,
    /// Access and refresh tokens.
    Connections,
    /// Verifiers, nonces and codes.
    Flows,
    /// Tokens on their way to be revoked.
    Revocations,
}

impl SealedTable {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Connectors, Self::Connections, Self::Flows, Self::Revocations];

    /// Its name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connectors => "connectors",
            Self::Connections => "connections",
            Self::Flows => "flows",
            Self::Revocations => "revocations",
        }
    }
}

/// What became of a window of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resealed {
    /// The last row of the window; `None` if there were no more rows.
    pub end: Option<String>,
    /// Fields that are sealed with the active key now.
    pub fields: u64,
    /// Rows that somebody else changed or held meanwhile: they are as they were.
    pub put_off: u64,
    /// Fields that do not open: they are as they were.
    pub unreadable: u64,
}

/// What is readable in a window of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// The last row of the window; `None` if there were no more rows.
    pub end: Option<String>,
    /// Fields that were opened.
    pub fields: u64,
    /// Fields that do not open.
    pub unreadable: u64,
}

/// The columns of whichever table it is.
#[derive(Debug, Default, FromRow)]
#[sqlx(default)]
pub(crate) struct SealedRow {
    id: String,
    space_id: String,
    owner: String,
    label: String,
    connector_id: String,
    connection_id: String,
    generation: i64,
    secrets_no: i64,
    token_kind: String,
    sealed_in: String,
    secrets: Option<Vec<u8>>,
    access_token: Option<Vec<u8>>,
    refresh_token: Option<Vec<u8>>,
    verifier: Option<Vec<u8>>,
    nonce: Option<Vec<u8>>,
    code: Option<Vec<u8>>,
    token: Option<Vec<u8>>,
}

/// A sealed field with its place.
pub(crate) type Field<'r> = (RecordIdentity<'r>, Option<&'r [u8]>);

impl SealedRow {
    #[cfg(test)]
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The sealed fields of the row, in the order in which the statements that write them take them.
    pub(crate) fn fields(&self, table: SealedTable) -> Result<Vec<Field<'_>>, StoreError> {
        let of_flow = |column| flows::identity(column, &self.space_id, &self.id, &self.owner, &self.connector_id);
        let token = |kind, row| {
            token_identity(kind, &self.space_id, row, &self.owner, &self.label, &self.connector_id, self.generation)
        };
        Ok(match table {
            SealedTable::Connectors => {
                vec![(connectors::identity(&self.space_id, &self.id, self.secrets_no), self.secrets.as_deref())]
            }
            SealedTable::Connections => vec![
                (token(TokenKind::Access, &self.id), self.access_token.as_deref()),
                (token(TokenKind::Refresh, &self.id), self.refresh_token.as_deref()),
            ],
            SealedTable::Flows => vec![
                (of_flow("verifier"), self.verifier.as_deref()),
                (of_flow("nonce"), self.nonce.as_deref()),
                (of_flow("code"), self.code.as_deref()),
            ],
            SealedTable::Revocations if self.sealed_in == revocations::TABLE => {
                let identity =
                    revocations::own_identity(&self.space_id, &self.id, &self.owner, &self.label, &self.connector_id);
                vec![(identity, self.token.as_deref())]
            }
            SealedTable::Revocations => {
                let kind = parse(revocations::TABLE, "token_kind", &self.id, &self.token_kind)?;
                vec![(token(kind, &self.connection_id), self.token.as_deref())]
            }
        })
    }
}

/// What a row is to hold.
type NewFields = Vec<Option<Vec<u8>>>;

impl TokenStore {
    /// Seals the next `limit` rows after `after` with the active key; only what another one has sealed is touched.
    ///
    /// A field that does not open stays as it is and is counted. Nothing is locked while rows are read, and whoever else
    /// changes a row keeps what was changed.
    pub async fn reseal(&self, table: SealedTable, after: &str, limit: i64) -> Result<Resealed, StoreError> {
        let Some(end) = self.window_end(table, after, limit).await? else { return Ok(Resealed::default()) };
        let rows = self.sealed_rows(table, after, &end, &self.sealer.active_key().to_be_bytes()).await?;
        let mut resealed = Resealed { end: Some(end), ..Resealed::default() };
        let mut anew = Vec::with_capacity(rows.len());
        for row in &rows {
            let (fields, sealed) = self.seal_row_anew(table, row, &mut resealed.unreadable).await?;
            if sealed > 0 {
                anew.push((row, fields, sealed));
            }
        }
        if anew.is_empty() {
            return Ok(resealed);
        }
        let mut tx = self.db.begin_write().await?;
        for (row, fields, sealed) in anew {
            if self.put_row(&mut tx, table, row, fields).await? {
                resealed.fields += sealed;
            } else {
                resealed.put_off += 1;
            }
        }
        tx.commit().await?;
        // Rows in memory keep the record that they were read with: it opens as long as its key is here, and keys stay.
        Ok(resealed)
    }

    /// Opens every sealed field of the next `limit` rows after `after`, and changes nothing.
    pub async fn check_sealed(&self, table: SealedTable, after: &str, limit: i64) -> Result<Checked, StoreError> {
        let Some(end) = self.window_end(table, after, limit).await? else { return Ok(Checked::default()) };
        let rows = self.sealed_rows(table, after, &end, &[]).await?;
        let mut checked = Checked { end: Some(end), ..Checked::default() };
        for row in &rows {
            for (identity, record) in row.fields(table)? {
                let Some(record) = record.filter(|record| !record.is_empty()) else { continue };
                checked.fields += 1;
                self.know_key_of(Some(record)).await;
                if let Err(error) = self.sealer.open(&identity, record) {
                    checked.unreadable += 1;
                    unreadable(&identity, &error);
                }
            }
        }
        Ok(checked)
    }

    pub(crate) async fn seal_row_anew(
        &self,
        table: SealedTable,
        row: &SealedRow,
        unreadable_fields: &mut u64,
    ) -> Result<(NewFields, u64), StoreError> {
        let active = self.sealer.active_key().to_be_bytes();
        let mut sealed = 0;
        let mut fields = Vec::new();
        for (identity, record) in row.fields(table)? {
            let Some(record) = record.filter(|record| record.get(2..6) != Some(active.as_slice())) else {
                fields.push(record.map(<[u8]>::to_vec));
                continue;
            };
            self.know_key_of(Some(record)).await;
            match self.sealer.open(&identity, record) {
                Ok(plaintext) => {
                    fields.push(Some(self.sealer.seal(&identity, &plaintext)?));
                    sealed += 1;
                }
                Err(error) => {
                    *unreadable_fields += 1;
                    unreadable(&identity, &error);
                    fields.push(Some(record.to_vec()));
                }
            }
        }
        Ok((fields, sealed))
    }

    async fn window_end(&self, table: SealedTable, after: &str, limit: i64) -> Result<Option<String>, StoreError> {
        let statement = match table {
            SealedTable::Connectors => sql::WINDOW_OF_CONNECTORS,
            SealedTable::Connections => sql::WINDOW_OF_CONNECTIONS,
            SealedTable::Flows => sql::WINDOW_OF_FLOWS,
            SealedTable::Revocations => sql::WINDOW_OF_REVOCATIONS,
        };
        Ok(on_db!(&self.db, |pool| sqlx::query_scalar(statement).bind(after).bind(limit).fetch_one(pool).await?))
    }

    /// The rows of a window with a field that another key than `but` has sealed.
    pub(crate) async fn sealed_rows(
        &self,
        table: SealedTable,
        after: &str,
        end: &str,
        but: &[u8],
    ) -> Result<Vec<SealedRow>, StoreError> {
        let statement = match table {
            SealedTable::Connectors => sql::CONNECTORS,
            SealedTable::Connections => sql::CONNECTIONS,
            SealedTable::Flows => sql::FLOWS,
            SealedTable::Revocations => sql::REVOCATIONS,
        };
        Ok(on_db!(&self.db, |pool| {
            sqlx::query_as(statement).bind(after).bind(end).bind(but).fetch_all(pool).await?
        }))
    }

    /// Writes a row if it holds what was read; on PostgreSQL also only if nobody holds it.
    pub(crate) async fn put_row(
        &self,
        tx: &mut Tx,
        table: SealedTable,
        row: &SealedRow,
        fields: NewFields,
    ) -> Result<bool, StoreError> {
        let sqlite = self.engine() == Engine::Sqlite;
        let mut fields = fields.into_iter();
        let mut field = move || fields.next().flatten();
        let written = match table {
            SealedTable::Connectors => on_tx!(tx, |executor| {
                sqlx::query(if sqlite { sql::PUT_CONNECTOR_SQLITE } else { sql::PUT_CONNECTOR_POSTGRES })
                    .bind(&row.id)
                    .bind(field())
                    .bind(&row.secrets)
                    .bind(row.secrets_no)
                    .execute(executor)
                    .await?
                    .rows_affected()
            }),
            SealedTable::Connections => on_tx!(tx, |executor| {
                sqlx::query(if sqlite { sql::PUT_CONNECTION_SQLITE } else { sql::PUT_CONNECTION_POSTGRES })
                    .bind(&row.id)
                    .bind(field())
                    .bind(field())
                    .bind(&row.access_token)
                    .bind(&row.refresh_token)
                    .bind(row.generation)
                    .execute(executor)
                    .await?
                    .rows_affected()
            }),
            SealedTable::Flows => on_tx!(tx, |executor| {
                sqlx::query(if sqlite { sql::PUT_FLOW_SQLITE } else { sql::PUT_FLOW_POSTGRES })
                    .bind(&row.id)
                    .bind(field())
                    .bind(field())
                    .bind(field())
                    .bind(&row.verifier)
                    .bind(&row.nonce)
                    .bind(&row.code)
                    .execute(executor)
                    .await?
                    .rows_affected()
            }),
            SealedTable::Revocations => on_tx!(tx, |executor| {
                sqlx::query(if sqlite { sql::PUT_REVOCATION_SQLITE } else { sql::PUT_REVOCATION_POSTGRES })
                    .bind(&row.id)
                    .bind(field())
                    .bind(&row.token)
                    .execute(executor)
                    .await?
                    .rows_affected()
            }),
        };
        Ok(written == 1)
    }
}

fn unreadable(identity: &RecordIdentity<'_>, error: &valetkey_sealing::OpenError) {
    let (table, column, row) = (identity.table, identity.column, identity.row);
    tracing::error!(table, column, row, "a sealed {column} of {row} in {table} does not open: {error}");
}
