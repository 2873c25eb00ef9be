//! The part of a profile that says how answers look, and what their errors mean.

use serde::Deserialize;

use crate::profile::Source;

/// The answers of the token endpoint. Paths are member names with dots between them; the first that leads somewhere wins.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnswerShape {
    /// Where this was read.
    pub source: Option<Source>,
    /// What makes an answer with status 200 a failure, besides an `error` in it.
    pub failure: Option<FailureRule>,
    /// The access token.
    pub access_token: Vec<String>,
    /// The refresh token.
    pub refresh_token: Vec<String>,
    /// The granted scopes.
    pub scope: Vec<String>,
    /// What stands between them, where it is not the request's separator.
    pub scope_separator: Option<String>,
    /// The token's type, where the answer's own word is not meant for the `Authorization` header.
    pub token_type: Option<String>,
    /// When the access token ends.
    pub expires: Expiry,
    /// When the refresh token ends.
    pub refresh_expires: Option<Expiry>,
}

impl Default for AnswerShape {
    fn default() -> Self {
        Self {
            source: None,
            failure: None,
            access_token: vec!["access_token".to_owned()],
            refresh_token: vec!["refresh_token".to_owned()],
            scope: vec!["scope".to_owned()],
            scope_separator: None,
            token_type: None,
            expires: Expiry { path: vec!["expires_in".to_owned()], kind: ExpiryKind::Seconds, zero_is_never: false },
            refresh_expires: None,
        }
    }
}

/// What makes an answer with status 200 a failure.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailureRule {
    /// The member to look at.
    pub path: String,
    /// Its value in a failure.
    pub equals: Scalar,
}

/// A value to compare with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Number(i64),
    /// A text.
    Text(String),
}

/// A member that says when something ends.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expiry {
    /// The member, or several of which the first that is there counts.
    #[serde(deserialize_with = "one_or_many")]
    pub path: Vec<String>,
    /// How to read it.
    #[serde(default)]
    pub kind: ExpiryKind,
    /// Zero means that it never ends.
    #[serde(default)]
    pub zero_is_never: bool,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Source::deserialize(deserializer).map(|found| found.addresses().to_vec())
}

/// How an end is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpiryKind {
    /// Seconds from now, as a number or as text.
    #[default]
    Seconds,
    /// Milliseconds from now.
    Ms,
    /// Seconds since 1970.
    Epoch,
    /// RFC 3339 text.
    Rfc3339,
}

/// What an error means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// The grant, or the code, is dead.
    Dead,
    /// The provider wants its user to act.
    Interaction,
    /// Our client registration is at fault.
    Client,
    /// Our client's secret is at fault: the next one is tried.
    ClientSecret,
    /// Nothing was processed; it passes.
    Transient,
    /// Part of the work may be done.
    Unknown,
    /// Too many requests; nothing was processed.
    Limited,
    /// A policy of the account's administrators; nothing was processed.
    Admin,
    /// Another fault of the request; nothing was processed.
    Refused,
}

/// Which call a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// The redemption of a code.
    Exchange,
    /// A refresh.
    Refresh,
    /// Client credentials.
    ClientCredentials,
}

/// What an error means at this provider. Every condition that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorRule {
    /// Where this was read.
    pub source: Source,
    /// The answer's status.
    pub status: Option<u16>,
    /// Which call it is for; every call if absent.
    pub at: Option<Call>,
    /// The member that holds the code.
    #[serde(default = "default_error_field")]
    pub field: String,
    /// The code: the member equals it, or is a list that holds it.
    pub code: Option<Scalar>,
    /// The member's text contains this, whatever the case.
    pub contains: Option<String>,
    /// What it means.
    pub means: Means,
}

fn default_error_field() -> String {
    "error".to_owned()
}
