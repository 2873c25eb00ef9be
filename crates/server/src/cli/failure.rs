//! Why a verb did not do what was asked, and the exit status that says so.

use std::{fmt::Write, process::ExitCode};

use serde_json::{Value, json};

use crate::{ConfigFaults, StartError, error::chain};

/// Exit statuses: part of the interface, listed in the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    WrongUse = 2,
    NotFound = 3,
    NotAllowed = 4,
    NeedsPerson = 5,
    TryLater = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure, as a person and as a program read it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// The problem (RFC 9457): the API's own, or one of the same form.
    pub(crate) problem: Value,
    /// What to do next.
    pub(crate) next: Option<String>,
}

impl Failure {
    /// A failure before or beside the API.
    pub(crate) fn local(exit: Exit, code: &str, title: impl Into<String>) -> Self {
        let problem = json!({ "title": title.into(), "code": code });
        Self { exit, problem, next: None }
    }

    /// Whoever reads has enough, as `head` does: nothing failed, and nothing more is to be said.
    pub(crate) fn nobody_reads() -> Self {
        Self { exit: Exit::Done, problem: Value::Null, next: None }
    }

    /// Says what to do next.
    pub(crate) fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// A problem that the API answered with.
    pub(crate) fn of_answer(status: u16, body: &[u8]) -> Self {
        let read = serde_json::from_slice(body).ok();
        let problem: Value = read
            .filter(Value::is_object)
            .unwrap_or_else(|| json!({ "title": format!("the answer has status {status} and cannot be read") }));
        let code = problem["code"].as_str().unwrap_or_default();
        let exit = match (status, code) {
            (_, "plan-stale" | "plan-over" | "reconnect-required" | "connection-exists") => Exit::NeedsPerson,
            (400 | 405 | 413 | 415 | 422, _) => Exit::WrongUse,
            (404, _) => Exit::NotFound,
            (401 | 403, _) => Exit::NotAllowed,
            (408 | 429 | 503, _) => Exit::TryLater,
            _ => Exit::Failed,
        };
        let next = match code {
            "space-not-found" => Some("see `valetkey spaces list`, or make it with `valetkey spaces create`"),
            "provider-not-found" => Some("name a built-in profile, or `oidc` or `oauth2`"),
            "connector-not-found" => Some("see `valetkey connectors list`"),
            "key-not-found" => Some("see `valetkey keys list`"),
            "connection-not-found" => Some("see `valetkey connections list`"),
            "plan-stale" | "plan-over" => Some("look at what would be revoked again, without --confirm"),
            "internal-error" => Some("the log of the server names the cause under this request id"),
            _ => None,
        };
        Self { exit, problem, next: next.map(ToOwned::to_owned) }
    }

    /// The failure as people read it.
    pub(crate) fn to_text(&self) -> String {
        let part = |name: &str| self.problem[name].as_str().unwrap_or_default();
        let mut text = format!("error: {}", part("title"));
        if !part("detail").is_empty() {
            let _ = write!(text, "\n  {}", part("detail"));
        }
        for fault in self.problem["faults"].as_array().into_iter().flatten() {
            let field = fault["field"].as_str().unwrap_or_default();
            let _ = write!(text, "\n  {field}: {}", fault["message"].as_str().unwrap_or_default());
        }
        if let Some(seconds) = self.problem["retry_after"].as_u64() {
            let _ = write!(text, "\n  try again in {seconds} s");
        }
        if let Some(id) = self.problem["request_id"].as_str() {
            let _ = write!(text, "\n  request id: {id}");
        }
        if let Some(next) = &self.next {
            let _ = write!(text, "\n  next: {next}");
        }
        text
    }
}

impl From<ConfigFaults> for Failure {
    fn from(faults: ConfigFaults) -> Self {
        let list: Vec<Value> = faults
            .0
            .iter()
            .map(|fault| {
                json!({ "field": fault.setting, "place": fault.place, "message": fault.what, "mend": fault.mend })
            })
            .collect();
        let mut failure = Self::local(Exit::Failed, "configuration-invalid", faults.to_string());
        failure.problem["faults_of_configuration"] = list.into();
        failure
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit = if error.may_pass() { Exit::TryLater } else { Exit::Failed };
        let failure = Self::local(exit, "start-refused", chain(&error));
        match error {
            StartError::Database(error) if error.is_unavailable() => failure
                .with_next("see that the database server runs, and that database.url or database.url_file names it"),
            _ => failure,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::local(Exit::Failed, "input-output-failed", error.to_string())
    }
}
