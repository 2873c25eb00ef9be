//! What holds for every statement.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use super::support::each_place;
use crate::{
    db::Db,
    sql::{admin, attempts, connections, flows, groups, lists, notices, revocations, sealed},
};

type Statements = &'static [(&'static str, &'static str)];

const BOTH: [Statements; 8] =
    [admin::ALL, attempts::ALL, connections::ALL, flows::ALL, groups::ALL, lists::ALL, revocations::ALL, sealed::ALL];
const SQLITE: [Statements; 6] =
    [admin::SQLITE, connections::SQLITE, groups::SQLITE, lists::SQLITE, revocations::SQLITE, sealed::SQLITE];
const POSTGRES: [Statements; 7] = [
    admin::POSTGRES,
    connections::POSTGRES,
    groups::POSTGRES,
    lists::POSTGRES,
    notices::POSTGRES,
    revocations::POSTGRES,
    sealed::POSTGRES,
];

fn all() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    BOTH.into_iter().chain(SQLITE).chain(POSTGRES).flatten()
}

#[tokio::test]
async fn every_statement_prepares_on_its_engines() {
    each_place(async |place| {
        let database = place.database().await;
        match &database.db {
            Db::Sqlite(pools) => {
                for (name, text) in BOTH.into_iter().chain(SQLITE).flatten() {
                    let prepared = pools.write.prepare((*text).into_sql_str()).await;
                    assert!(prepared.is_ok(), "{name} on SQLite: {:?}", prepared.err());
                }
            }
            Db::Postgres(pool) => {
                for (name, text) in BOTH.into_iter().chain(POSTGRES).flatten() {
                    let prepared = pool.prepare((*text).into_sql_str()).await;
                    assert!(prepared.is_ok(), "{name} on PostgreSQL: {:?}", prepared.err());
                }
            }
        }
        database.close().await;
    })
    .await;
}

/// A plan is kept while the tables grow, so it must suit large ones also where it was made on empty ones.
#[tokio::test]
async fn groups_look_up_every_row_by_its_key_though_planned_on_empty_tables() {
    each_place(async |place| {
        let database = place.database().await;
        if let Db::Postgres(pool) = &database.db {
            for (name, text) in groups::POSTGRES.iter().filter(|(name, _)| !name.ends_with("TO_REFRESH_POSTGRES")) {
                let mut tx = pool.begin_by_key().await.expect("a transaction");
                (&mut tx).execute("SET LOCAL plan_cache_mode = force_generic_plan").await.expect("a setting");
                let prepare = AssertSqlSafe(format!("PREPARE looked_up (text) AS {text}"));
                (&mut tx).execute(prepare).await.expect("a statement");
                let explain = "EXPLAIN EXECUTE looked_up('[]')";
                let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut tx).await.expect("a plan");
                let plan = plan.join("\n");
                (&mut tx).execute("DEALLOCATE looked_up").await.expect("no statement");
                for table in ["connections", "attempts", "due"] {
                    assert!(!plan.contains(&format!("Seq Scan on {table}")), "{name} reads all of {table}:\n{plan}");
                }
                if !name.contains("PUT_DUE") {
                    assert!(plan.contains("Index Cond: "), "{name} looks nothing up:\n{plan}");
                }
            }
        }
        database.close().await;
    })
    .await;
}

#[test]
fn every_statement_is_listed() {
    let listed: BTreeSet<&str> = all().map(|(name, _)| *name).collect();
    assert_eq!(listed.len(), all().count(), "a name is listed twice");
    let mut found = 0;
    for (module, source) in [
        ("attempts", include_str!("../sql/attempts.rs")),
        ("connections", include_str!("../sql/connections.rs")),
        ("flows", include_str!("../sql/flows.rs")),
        ("revocations", include_str!("../sql/revocations.rs")),
    ] {
        for line in source.lines().filter_map(|line| line.strip_prefix("pub(crate) const ")) {
            let (name, rest) = line.split_once(':').expect("a constant has a type");
            if rest.starts_with(" &str") {
                found += 1;
                assert!(listed.contains(format!("{module}::{name}").as_str()), "{module}::{name} is not listed");
            }
        }
    }
    assert!(found > 30, "only {found} statements were found: the search is out of date");
}

#[test]
fn names_say_the_engine() {
    for (name, _) in BOTH.into_iter().flatten() {
        assert!(!name.ends_with("_SQLITE") && !name.ends_with("_POSTGRES"), "{name}");
    }
    assert!(SQLITE.into_iter().flatten().all(|(name, _)| name.ends_with("_SQLITE")));
    assert!(POSTGRES.into_iter().flatten().all(|(name, _)| name.ends_with("_POSTGRES")));
}

#[test]
fn statements_name_their_columns_and_take_the_time_as_a_parameter() {
    for (name, text) in all() {
        let upper = text.to_uppercase();
        assert!(!upper.contains("SELECT *") && !upper.contains("RETURNING *") && !upper.contains(".*"), "{name}");
        for clock in ["NOW()", "CURRENT_TIMESTAMP", "UNIXEPOCH", "STRFTIME", "CLOCK_TIMESTAMP"] {
            assert!(!upper.contains(clock), "{name} reads the database's clock");
        }
        for sum in ["SUM(", "COUNT("] {
            for (position, _) in upper.match_indices(sum) {
                assert!(upper[..position].ends_with("CAST("), "{name}: {sum}…) is not cast to BIGINT");
            }
        }
    }
}

#[test]
fn placeholders_are_numbered_without_a_gap() {
    for (name, text) in all() {
        let mut numbers = BTreeSet::new();
        for (position, _) in text.match_indices('$') {
            let digits: String = text[position + 1..].chars().take_while(char::is_ascii_digit).collect();
            if let Ok(number) = digits.parse::<usize>() {
                numbers.insert(number);
            }
        }
        assert_eq!(numbers.iter().copied().collect::<Vec<_>>(), (1..=numbers.len()).collect::<Vec<_>>(), "{name}");
    }
}
