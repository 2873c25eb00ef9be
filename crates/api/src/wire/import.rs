//! Imported connections over the wire: one JSON object a line.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use valetkey_broker::{ImportLine, ImportReport};
use valetkey_core::{ConnectionId, ConnectorId, Label, Secret, Timestamp, UserId};

use crate::problem::Problem;

/// One connection to import.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportLine)]
pub(crate) struct ImportLineIn {
    /// The connector.
    #[schema(value_type = String, example = "ctr_06bc4jn7tg1hf0c9q2m8r5vk3o")]
    connector_id: ConnectorId,
    /// Whose, on a `per_user` connector.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "u-17")]
    user_id: Option<UserId>,
    /// Which of the owner's accounts.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    label: Option<Label>,
    /// The access token.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    access_token: Option<Secret>,
    /// The refresh token.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    refresh_token: Option<Secret>,
    /// When the access token ends.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// When the refresh token ends.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    refresh_expires_at: Option<Timestamp>,
    /// The scopes granted.
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// Take the place of an active connection.
    #[serde(default)]
    replace: bool,
}

impl From<ImportLineIn> for ImportLine {
    fn from(line: ImportLineIn) -> Self {
        Self {
            connector_id: line.connector_id,
            user_id: line.user_id,
            label: line.label.unwrap_or_else(Label::none),
            access_token: line.access_token,
            refresh_token: line.refresh_token,
            expires_at: line.expires_at,
            refresh_expires_at: line.refresh_expires_at,
            scopes: line.scopes,
            replace: line.replace,
        }
    }
}

/// What became of one line.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ImportReport)]
pub(crate) struct ImportLineOut {
    /// The line's number, from 1.
    line: u64,
    /// The connection it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>)]
    connection_id: Option<ConnectionId>,
    /// The generation it has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    generation: Option<i64>,
    /// Why it was refused: `code`, `title` and more, as in a problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Object>)]
    problem: Option<Value>,
}

impl ImportLineOut {
    /// The report of a line.
    pub(crate) fn of(line: u64, result: Result<ImportReport, Problem>) -> Self {
        match result {
            Ok(report) => Self {
                line,
                connection_id: Some(report.connection_id),
                generation: Some(report.generation),
                problem: None,
            },
            Err(problem) => Self { line, connection_id: None, generation: None, problem: Some(problem.summary()) },
        }
    }
}
