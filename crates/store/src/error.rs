//! What can go wrong in the store.

use valetkey_core::WrapError;
use valetkey_sealing::{OpenError, SealError, UnlockError};

/// A failure of the store. Absence is not one: it is `Ok(None)`.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, or refused a statement.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database schema could not be migrated")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The schema is newer than this program.
    #[error(
        "the database schema is at version {found}, and this program knows versions up to {known}: start a newer valetkey, or restore the backup made before the upgrade"
    )]
    SchemaTooNew {
        /// What the database has.
        found: i64,
        /// What this program knows.
        known: i64,
    },
    /// The schema is older than this program.
    #[error("the database schema is behind this program: run `valetkey migrate`")]
    SchemaTooOld,
    /// The key ring belongs to another instance.
    #[error(
        "the key ring belongs to instance {ring}, but the database to instance {database}: use the key ring that was backed up with this database"
    )]
    ForeignKeyRing {
        /// The ring's instance.
        ring: String,
        /// The database's.
        database: String,
    },
    /// A data key cannot be unlocked.
    #[error("the data keys could not be unlocked")]
    Unlock(#[from] UnlockError),
    /// A data key could not be wrapped.
    #[error("a new data key could not be wrapped")]
    Wrap(#[from] WrapError),
    /// A secret could not be sealed.
    #[error("a secret could not be sealed")]
    Seal(#[from] SealError),
    /// A sealed field does not open.
    #[error("a sealed {column} of {row} does not open: it was moved, damaged, or sealed under another key")]
    Open {
        /// The column.
        column: &'static str,
        /// The row's id.
        row: String,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// A transaction that several writes shared failed as a whole.
    #[error("the commit that this write shared with others failed")]
    Shared(#[source] std::sync::Arc<StoreError>),
    /// A row holds what no version of this program writes.
    #[error("row {row} of {table} holds an unreadable {column}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's id.
        row: String,
    },
}

impl StoreError {
    /// An [`StoreError::Inconsistent`].
    pub(crate) fn inconsistent(table: &'static str, column: &'static str, row: &str) -> Self {
        Self::Inconsistent { table, column, row: row.to_owned() }
    }

    /// Whether the database itself could not be reached, so that a later try may work.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Shared(error) => error.is_unavailable(),
            Self::Database(sqlx::Error::Database(error)) => error.code().is_some_and(|code| is_away(&code)),
            Self::Database(error) => matches!(
                error,
                sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed
            ),
            _ => false,
        }
    }

    /// Whether the same write may work later: everything that a database says of itself, and nothing that it says of the
    /// statement.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Shared(error) => error.may_pass(),
            Self::Database(sqlx::Error::Database(error)) => error.kind() == sqlx::error::ErrorKind::Other,
            Self::Database(error) => !matches!(error, sqlx::Error::PoolClosed),
            _ => false,
        }
    }
}

/// PostgreSQL starts, stops, takes no more connections, was demoted under us, or did not get done in time.
fn is_away(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("57") || code == "53300" || code == "25006"
}
