//! The two folders of migrations.

use std::{collections::BTreeSet, fs, path::Path};

use super::support::each_place;
use crate::migrations::ALL;

fn names(engine: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations").join(engine);
    fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect()
}

#[test]
fn both_folders_have_the_same_files_and_all_are_embedded() {
    let embedded: BTreeSet<String> = ALL.iter().map(|(version, name, ..)| format!("{version:04}_{name}.sql")).collect();
    assert_eq!(names("sqlite"), embedded);
    assert_eq!(names("postgres"), embedded);
}

#[test]
fn the_first_line_says_why() {
    for (version, _, sqlite, postgres) in ALL {
        for text in [sqlite, postgres] {
            let first = text.lines().next().unwrap_or_default();
            assert!(first.starts_with("-- ") && first.len() > 20, "{version}: {first}");
        }
    }
}

/// The tables and indexes of a migration, with the names of types that differ made equal.
fn shape(text: &str) -> BTreeSet<String> {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    code.join(" ")
        .replace("BYTEA", "BLOB")
        .split(';')
        .map(|statement| statement.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|statement| statement.starts_with("CREATE"))
        .collect()
}

#[test]
fn both_engines_get_the_same_tables() {
    for (version, _, sqlite, postgres) in ALL {
        assert_eq!(shape(sqlite), shape(postgres), "{version}");
    }
}

#[tokio::test]
async fn migrating_twice_changes_nothing() {
    each_place(async |place| {
        let database = place.database().await;
        assert_eq!(database.migrate().await.expect("migrated"), 0);
        database.check_schema().await.expect("up to date");
        database.close().await;
    })
    .await;
}
