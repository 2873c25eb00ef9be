//! A database of a test's own.

use std::{path::PathBuf, time::Duration};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use valetkey_server::Config;

use crate::{Engine, pool::Lent, witness};

/// What replicas share: base64 of 32 bytes.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A data directory and, on PostgreSQL, a database; both are given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    around: TempDir,
    server: Option<Lent>,
}

#[expect(clippy::disallowed_methods, reason = "the one place where tests learn of a server")]
fn server_url() -> String {
    let url = std::env::var("VALETKEY_TEST_POSTGRES_URL").unwrap_or_default();
    assert!(!url.is_empty(), "VALETKEY_TEST_POSTGRES_URL names no server, and this run may leave nothing out");
    url
}

impl Drop for Place {
    fn drop(&mut self) {
        // Before they go.
        witness::search_left(self.around.path(), &self.rows());
    }
}

impl Place {
    pub(crate) async fn new(engine: Engine) -> Self {
        let around = tempfile::tempdir().expect("a directory");
        let server = match engine {
            Engine::Sqlite => None,
            Engine::Postgres => Some(Lent::take(server_url()).await),
        };
        Self { around, server }
    }

    /// The data directory. The server makes it, so that it is as private as it has to be.
    pub(crate) fn directory(&self) -> PathBuf {
        self.around.path().join("data")
    }

    /// Everything in the tables on PostgreSQL: where it stands, and what it is. Nothing on SQLite, whose files can be read.
    pub(crate) fn rows(&self) -> Vec<(String, Vec<u8>)> {
        self.server.as_ref().map(Lent::contents).unwrap_or_default()
    }

    /// The configuration of a server here.
    pub(crate) fn config(&self) -> Config {
        match &self.server {
            None => Config::local(self.directory()),
            Some(server) => Config::local_postgres(self.directory(), server.url(), KEY),
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
            Some(server) => Beside::Postgres(PgConnection::connect(&server.url()).await.expect("the server answers")),
        }
    }
}

/// A connection beside those of the server.
enum Beside {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}
