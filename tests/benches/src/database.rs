//! A database of its own for each run.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// A fresh database.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) url: String,
    server: String,
    name: String,
}

impl Fresh {
    /// Makes one on a server.
    pub(crate) async fn create(server: &str) -> anyhow::Result<Self> {
        let name = format!("valetkey_bench_{}", std::process::id());
        let mut connection = PgConnection::connect(server).await?;
        for statement in [format!("DROP DATABASE IF EXISTS {name}"), format!("CREATE DATABASE {name}")] {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        let (head, tail) = match server.rsplit_once('/') {
            Some((head, tail)) if head.contains("//") => (head, tail),
            _ => (server, ""),
        };
        let query = tail.split_once('?').map_or(String::new(), |(_, query)| format!("?{query}"));
        Ok(Self { url: format!("{head}/{name}{query}"), server: server.to_owned(), name })
    }

    /// Drops it.
    pub(crate) async fn drop(self) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.server).await?;
        sqlx::query(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)))
            .execute(&mut connection)
            .await?;
        Ok(())
    }
}
