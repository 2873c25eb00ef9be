//! Runs a proof as anybody would.

use std::process::Command;

use serde_json::Value;

/// How a proof ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Whether everything that has to be zero was zero.
    pub(crate) held: bool,
    /// Its last line.
    pub(crate) last: Value,
    /// Everything that it said, for failures.
    pub(crate) said: String,
}

/// Runs a proof with these arguments.
pub(crate) fn proof(arguments: &[&str]) -> Ended {
    let ended = Command::new(env!("CARGO_BIN_EXE_valetkey-proofs")).args(arguments).output().unwrap();
    let (out, told) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    let said = format!("{told}{out}");
    assert!(matches!(ended.status.code(), Some(0 | 1)), "{:?} could not be run: {said}", ended.status);
    let last = out.lines().last().unwrap_or_default();
    let last = serde_json::from_str(last).unwrap_or_else(|_| panic!("the last line is no JSON: {said}"));
    Ended { held: ended.status.success(), last, said }
}

/// The arguments that put a proof on PostgreSQL.
#[expect(clippy::disallowed_methods, reason = "the one place where these tests learn of a server")]
pub(crate) fn on_postgres() -> [String; 4] {
    let url = std::env::var("VALETKEY_TEST_POSTGRES_URL").unwrap_or_default();
    assert!(!url.is_empty(), "VALETKEY_TEST_POSTGRES_URL names no server, and this run may leave nothing out");
    ["--engine".to_owned(), "postgres".to_owned(), "--postgres".to_owned(), url]
}
