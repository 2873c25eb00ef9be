//! The schema's history, embedded.

use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

use crate::{
    StoreError,
    db::{Db, on_db},
};

/// Version, name, SQLite text, PostgreSQL text.
pub(crate) const ALL: &[(i64, &str, &str, &str)] = &[(
    1,
    "initial",
    include_str!("../../../migrations/sqlite/0001_initial.sql"),
    include_str!("../../../migrations/postgres/0001_initial.sql"),
)];

const APPLIED: &str = "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations WHERE success";

fn migrator(db: &Db) -> Migrator {
    let migrations = ALL
        .iter()
        .map(|(version, name, sqlite, postgres)| {
            let text = match db {
                Db::Sqlite(_) => sqlite,
                Db::Postgres(_) => postgres,
            };
            Migration::new(*version, (*name).into(), MigrationType::Simple, text.into_sql_str(), false)
        })
        .collect();
    Migrator::with_migrations(migrations)
}

fn newest() -> i64 {
    ALL.last().map_or(0, |(version, ..)| *version)
}

async fn applied(db: &Db) -> i64 {
    // Without the table nothing has been applied.
    on_db!(db, |pool| sqlx::query_scalar(APPLIED).fetch_one(pool).await).unwrap_or(0)
}

pub(crate) async fn run(db: &Db) -> Result<u64, StoreError> {
    let before = applied(db).await;
    if before > newest() {
        return Err(StoreError::SchemaTooNew { found: before, known: newest() });
    }
    let migrator = migrator(db);
    match db {
        Db::Sqlite(pools) => migrator.run(&pools.write).await?,
        Db::Postgres(pool) => {
            // It may wait for another replica's, and may go through every row.
            let mut connection = pool.unbounded().await?;
            migrator.run_direct(None, &mut *connection, false).await?;
            connection.close().await?;
        }
    }
    Ok(u64::try_from(newest() - before).unwrap_or(0))
}

pub(crate) async fn check(db: &Db) -> Result<(), StoreError> {
    let found = applied(db).await;
    match found.cmp(&newest()) {
        std::cmp::Ordering::Less => Err(StoreError::SchemaTooOld),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(StoreError::SchemaTooNew { found, known: newest() }),
    }
}
