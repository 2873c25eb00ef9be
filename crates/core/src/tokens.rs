//! A token set as a provider gave it, and how long its parts live.

use crate::{Account, Secret, Timestamp};

/// What a token endpoint answered, normalised.
#[derive(Debug, Clone)]
pub struct TokenSet {
    /// The access token.
    pub access_token: Secret,
    /// Its type; `Bearer` where the provider says nothing.
    pub token_type: String,
    /// The refresh token, if the answer holds one.
    pub refresh_token: Option<Secret>,
    /// The scopes that were granted, if the answer says so.
    pub scopes: Option<Vec<String>>,
    /// When the request left: lives are counted from here.
    pub issued_at: Timestamp,
    /// When the access token ends, if known.
    pub expires_at: Option<Timestamp>,
    /// When the refresh token ends unless it is used, if known.
    pub refresh_expires_at: Option<Timestamp>,
    /// An end that no refresh moves, if known.
    pub reconnect_by: Option<Timestamp>,
    /// The account behind the grant, if the answer proves it.
    pub account: Option<Account>,
}

/// How long things live at a provider where its answers are silent, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lives {
    /// The access token.
    pub access_s: Option<u64>,
    /// A refresh token that nobody uses.
    pub refresh_idle_s: Option<u64>,
    /// The grant, whatever is done.
    pub refresh_absolute_s: Option<u64>,
}
