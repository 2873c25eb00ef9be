//! Two engines behind one type: typed pools, one body per operation.

use std::{path::PathBuf, time::Duration};

use sqlx::{
    Sqlite, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{
    Patience, StoreError,
    bounded::{BoundedPool, BoundedTransaction},
    migrations,
};

/// Which database to open.
#[derive(Debug, Clone)]
pub enum DatabaseSettings {
    /// One file, one process.
    Sqlite {
        /// The file; made if it is not there.
        path: PathBuf,
    },
    /// A server that replicas share.
    Postgres {
        /// `postgres://…`
        url: String,
        /// The most connections this process opens.
        max_connections: u32,
        /// How long it is waited for.
        patience: Patience,
    },
}

/// The engine behind a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// SQLite: this process is the only writer.
    Sqlite,
    /// PostgreSQL: other replicas write too.
    Postgres,
}

/// SQLite's two pools: readers, and the one writer that all writes queue for.
#[derive(Debug, Clone)]
pub(crate) struct SqlitePools {
    pub(crate) read: SqlitePool,
    pub(crate) write: SqlitePool,
}

/// The typed pools.
#[derive(Debug, Clone)]
pub(crate) enum Db {
    Sqlite(SqlitePools),
    Postgres(BoundedPool),
}

/// Runs one body against whichever pool there is, for reading.
macro_rules! on_db {
    ($db:expr, |$pool:ident| $body:expr) => {
        match $db {
            $crate::db::Db::Sqlite(pools) => {
                let $pool = &pools.read;
                $body
            }
            $crate::db::Db::Postgres($pool) => $body,
        }
    };
}
pub(crate) use on_db;

/// The same for what a caller waits for: it ends sooner where nobody answers.
macro_rules! on_db_look {
    ($db:expr, |$pool:ident| $body:expr) => {
        match $db {
            $crate::db::Db::Sqlite(pools) => {
                let $pool = &pools.read;
                $body
            }
            $crate::db::Db::Postgres(pool) => {
                let $pool = &pool.looking();
                $body
            }
        }
    };
}
pub(crate) use on_db_look;

/// The same for a look through a whole table, which may take its time.
macro_rules! on_db_sweep {
    ($db:expr, |$pool:ident| $body:expr) => {
        match $db {
            $crate::db::Db::Sqlite(pools) => {
                let $pool = &pools.read;
                $body
            }
            $crate::db::Db::Postgres(pool) => {
                let mut sweep = pool.begin_sweep().await?;
                let $pool = &mut sweep;
                $body
            }
        }
    };
}
pub(crate) use on_db_sweep;

/// Runs one body against whichever pool there is, for a single writing statement.
macro_rules! on_db_write {
    ($db:expr, |$pool:ident| $body:expr) => {
        match $db {
            $crate::db::Db::Sqlite(pools) => {
                let $pool = &pools.write;
                $body
            }
            $crate::db::Db::Postgres($pool) => $body,
        }
    };
}
pub(crate) use on_db_write;

/// Runs one body inside whichever transaction there is.
macro_rules! on_tx {
    ($tx:expr, |$connection:ident| $body:expr) => {
        match $tx {
            $crate::db::Tx::Sqlite(transaction) => {
                let $connection = &mut **transaction;
                $body
            }
            $crate::db::Tx::Postgres(transaction) => {
                let $connection = &mut *transaction;
                $body
            }
        }
    };
}
pub(crate) use on_tx;

/// A writing transaction.
pub(crate) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(BoundedTransaction),
}

impl Tx {
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await?,
            Self::Postgres(transaction) => transaction.commit().await?,
        }
        Ok(())
    }
}

impl Db {
    pub(crate) async fn connect(settings: &DatabaseSettings) -> Result<Self, StoreError> {
        match settings {
            DatabaseSettings::Sqlite { path } => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .page_size(8192)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .foreign_keys(true)
                    .busy_timeout(Duration::from_secs(5))
                    .pragma("cache_size", "-4096")
                    .pragma("temp_store", "MEMORY");
                let write = SqlitePoolOptions::new()
                    .max_connections(1)
                    .idle_timeout(None)
                    .max_lifetime(None)
                    .connect_with(options.clone())
                    .await?;
                let read = SqlitePoolOptions::new()
                    .max_connections(4)
                    .idle_timeout(None)
                    .max_lifetime(None)
                    .test_before_acquire(false)
                    // Readers share the system's cache of the file; a page cache of their own is memory twice.
                    .connect_with(options.pragma("cache_size", "-512"))
                    .await?;
                Ok(Self::Sqlite(SqlitePools { read, write }))
            }
            DatabaseSettings::Postgres { url, max_connections, patience } => {
                Ok(Self::Postgres(BoundedPool::connect(url, *max_connections, *patience).await?))
            }
        }
    }

    pub(crate) fn engine(&self) -> Engine {
        match self {
            Self::Sqlite(_) => Engine::Sqlite,
            Self::Postgres(_) => Engine::Postgres,
        }
    }

    /// Begins a transaction that may read and then write. SQLite takes its write lock at once: a plain `BEGIN` that
    /// upgrades later fails under load.
    pub(crate) async fn begin_write(&self) -> Result<Tx, StoreError> {
        Ok(match self {
            Self::Sqlite(pools) => Tx::Sqlite(pools.write.begin_with("BEGIN IMMEDIATE").await?),
            Self::Postgres(pool) => Tx::Postgres(pool.begin().await?),
        })
    }

    /// The same for writes of many rows, each of which is found by its key.
    pub(crate) async fn begin_by_key(&self) -> Result<Tx, StoreError> {
        Ok(match self {
            Self::Sqlite(_) => self.begin_write().await?,
            Self::Postgres(pool) => Tx::Postgres(pool.begin_by_key().await?),
        })
    }

    /// The same for the few transactions that may go through a whole table.
    pub(crate) async fn begin_sweep(&self) -> Result<Tx, StoreError> {
        Ok(match self {
            Self::Sqlite(_) => self.begin_write().await?,
            Self::Postgres(pool) => Tx::Postgres(pool.begin_sweep().await?),
        })
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pools) => {
                pools.read.close().await;
                pools.write.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// An open database whose secrets are still locked.
#[derive(Debug, Clone)]
pub struct Database {
    pub(crate) db: Db,
}

impl Database {
    /// Opens the database; makes the SQLite file if it is not there.
    pub async fn connect(settings: &DatabaseSettings) -> Result<Self, StoreError> {
        Ok(Self { db: Db::connect(settings).await? })
    }

    /// The engine.
    pub fn engine(&self) -> Engine {
        self.db.engine()
    }

    /// Brings the schema up to date and says how many migrations ran. Safe to call from several replicas at once.
    pub async fn migrate(&self) -> Result<u64, StoreError> {
        migrations::run(&self.db).await
    }

    /// Refuses a schema that is newer or older than this program.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        migrations::check(&self.db).await
    }

    /// SQLite no longer syncs a commit before it is acknowledged: the null control of the power-cut proof, which has to
    /// see that something is lost then. No setting reaches this.
    #[doc(hidden)]
    pub async fn without_durable_commits(&self) -> Result<(), StoreError> {
        if let Db::Sqlite(pools) = &self.db {
            // The one writer's connection, which is never replaced.
            sqlx::query("PRAGMA synchronous = NORMAL").execute(&pools.write).await?;
        }
        Ok(())
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.db.close().await;
    }
}
