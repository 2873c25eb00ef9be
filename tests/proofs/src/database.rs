//! Where a broker keeps its data, and a look at it behind the broker's back.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

/// A database engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Engine {
    /// A file.
    Sqlite,
    /// A server.
    Postgres,
}

impl Engine {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// Which engine a proof runs on; part of its settings.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct EngineChoice {
    /// The database engine.
    #[arg(long, default_value = "sqlite")]
    pub(crate) engine: Engine,
    /// A PostgreSQL server, as postgres://user@host/name, where databases may be made.
    #[arg(long, required_if_eq("engine", "postgres"))]
    pub(crate) postgres: Option<String>,
}

/// A data directory and, on PostgreSQL, a database of its own.
#[derive(Debug)]
pub(crate) struct Place {
    around: TempDir,
    database: Option<Fresh>,
}

#[derive(Debug)]
struct Fresh {
    server: String,
    name: String,
    url: String,
}

impl Place {
    /// A place that nobody used before. `number` tells those of one run apart.
    pub(crate) async fn new(choice: &EngineChoice, number: usize) -> anyhow::Result<Self> {
        let around = tempfile::Builder::new().prefix("valetkey-proof-").tempdir()?;
        let database = match choice.engine {
            Engine::Sqlite => None,
            Engine::Postgres => Some(Fresh::create(choice.postgres.as_deref(), number).await?),
        };
        Ok(Self { around, database })
    }

    /// The data directory, which the broker makes; replicas have one each.
    pub(crate) fn data_dir(&self, replica: usize) -> PathBuf {
        self.around.path().join(format!("data-{replica}"))
    }

    /// The PostgreSQL database, if it is one.
    pub(crate) fn postgres(&self) -> Option<String> {
        self.database.as_ref().map(|database| database.url.clone())
    }

    /// Opens it beside the broker. Not to be kept while a broker starts: who opens a database after a crash repairs it.
    pub(crate) async fn beside(&self) -> anyhow::Result<Beside> {
        Ok(match &self.database {
            None => {
                let file = self.data_dir(0).join("valetkey.db");
                let options = SqliteConnectOptions::new().filename(file).busy_timeout(Duration::from_secs(20));
                Beside::Sqlite(SqliteConnection::connect_with(&options).await?)
            }
            Some(database) => Beside::Postgres(PgConnection::connect(&database.url).await?),
        })
    }

    /// Removes everything.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        if let Some(database) = &self.database {
            database.remove().await?;
        }
        Ok(self.around.close()?)
    }
}

impl Fresh {
    async fn create(server: Option<&str>, number: usize) -> anyhow::Result<Self> {
        let server = server.context("--postgres names the server")?.to_owned();
        let name = format!("valetkey_proof_{}_{number}", std::process::id());
        let mut url: url::Url = server.parse().context("--postgres is no address")?;
        url.set_path(&name);
        let fresh = Self { server, name, url: url.into() };
        fresh.remove().await?;
        fresh.at_server(format!("CREATE DATABASE {}", fresh.name)).await?;
        Ok(fresh)
    }

    async fn remove(&self) -> anyhow::Result<()> {
        self.at_server(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)).await
    }

    async fn at_server(&self, statement: String) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.server).await.context("the PostgreSQL server")?;
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }
}

/// A connection beside those of the broker.
#[derive(Debug)]
pub(crate) enum Beside {
    /// To the file.
    Sqlite(SqliteConnection),
    /// To the server.
    Postgres(PgConnection),
}

impl Beside {
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Sqlite(connection) => connection.close().await?,
            Self::Postgres(connection) => connection.close().await?,
        }
        Ok(())
    }
}

/// Runs one body for both engines, with `$connection` as theirs.
macro_rules! on_both {
    ($beside:expr, |$connection:ident| $body:expr) => {
        match $beside {
            $crate::database::Beside::Sqlite($connection) => $body,
            $crate::database::Beside::Postgres($connection) => $body,
        }
    };
}
pub(crate) use on_both;
