//! A database of a test's own, and how to be rid of it.

use std::{path::PathBuf, time::Duration};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use valetkey_core::{FlowId, SystemClock, SystemEntropy};
use valetkey_server::Config;

use crate::Engine;

/// What replicas share: base64 of 32 bytes.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A data directory and, on PostgreSQL, a database; both are gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    around: TempDir,
    server: Option<Server>,
}

#[derive(Debug)]
struct Server {
    url: String,
    database: String,
}

#[expect(clippy::disallowed_methods, reason = "the one place where tests learn of a server")]
fn server_url() -> String {
    let url = std::env::var("VALETKEY_TEST_POSTGRES_URL").unwrap_or_default();
    assert!(!url.is_empty(), "VALETKEY_TEST_POSTGRES_URL names no server, and this run may leave nothing out");
    url
}

impl Place {
    pub(crate) async fn new(engine: Engine) -> Self {
        let around = tempfile::tempdir().expect("a directory");
        let server = match engine {
            Engine::Sqlite => None,
            Engine::Postgres => {
                let url = server_url();
                let id = FlowId::new(valetkey_core::Clock::now(&SystemClock::new()), &SystemEntropy);
                let database = format!("valetkey_suite_{id}");
                run(&url, format!("CREATE DATABASE {database}")).await;
                Some(Server { url, database })
            }
        };
        Self { around, server }
    }

    /// The data directory. The server makes it, so that it is as private as it has to be.
    pub(crate) fn directory(&self) -> PathBuf {
        self.around.path().join("data")
    }

    /// The configuration of a server here.
    pub(crate) fn config(&self) -> Config {
        match &self.server {
            None => Config::local(self.directory()),
            Some(server) => Config::local_postgres(self.directory(), server.database_url(), KEY),
        }
    }

    /// The one number that a statement returns, read beside the server.
    pub(crate) async fn number(&self, statement: &str) -> i64 {
        let statement = AssertSqlSafe(statement.to_owned());
        match self.connect().await {
            Beside::Sqlite(mut connection) => sqlx::query_scalar(statement).fetch_one(&mut connection).await,
            Beside::Postgres(mut connection) => sqlx::query_scalar(statement).fetch_one(&mut connection).await,
        }
        .expect("a number")
    }

    /// Runs a statement beside the server; gives the number of rows that it changed.
    pub(crate) async fn change(&self, statement: &str) -> u64 {
        let query = AssertSqlSafe(statement.to_owned());
        match self.connect().await {
            Beside::Sqlite(mut connection) => {
                sqlx::query(query).execute(&mut connection).await.expect("the statement works").rows_affected()
            }
            Beside::Postgres(mut connection) => {
                sqlx::query(query).execute(&mut connection).await.expect("the statement works").rows_affected()
            }
        }
    }

    async fn connect(&self) -> Beside {
        match &self.server {
            None => {
                let file = self.directory().join("valetkey.db");
                let options = SqliteConnectOptions::new().filename(file).busy_timeout(Duration::from_secs(10));
                Beside::Sqlite(SqliteConnection::connect_with(&options).await.expect("the database opens"))
            }
            Some(server) => {
                Beside::Postgres(PgConnection::connect(&server.database_url()).await.expect("the server answers"))
            }
        }
    }
}

/// A connection beside those of the server.
enum Beside {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Server {
    /// The same server, this database.
    fn database_url(&self) -> String {
        let mut url: url::Url = self.url.parse().expect("VALETKEY_TEST_POSTGRES_URL is an address");
        url.set_path(&self.database);
        url.into()
    }
}

async fn run(url: &str, statement: String) {
    let mut connection = PgConnection::connect(url).await.expect("the server answers");
    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.expect("the statement works");
    connection.close().await.expect("closed");
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(Server { url, database }) = self.server.take() else { return };
        // A thread of its own: whoever drops this may stand inside a runtime that is ending.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(run(&url, format!("DROP DATABASE {database} WITH (FORCE)")));
        });
        assert!(dropping.join().is_ok() || std::thread::panicking(), "the test's database could not be dropped");
    }
}
