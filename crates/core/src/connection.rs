//! A connection: the stored grant of one owner for one connector.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ConnectionId, ConnectorId, Label, Owner, SpaceId, Timestamp};

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The text in the API, the database and the metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::connection::UnknownText;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(crate::connection::UnknownText),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(|_| {
                    let known: Vec<_> = Self::ALL.iter().map(|value| value.as_str()).collect();
                    serde::de::Error::custom(format!("expected one of: {}", known.join(", ")))
                })
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use text_enum;

/// A text that names none of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one of the known values")]
pub struct UnknownText;

text_enum!(
    /// What can be done with a connection.
    Status {
        /// Tokens are served and refreshed.
        Active => "active",
        /// The grant is dead: only its owner can bring it back.
        NeedsReauth => "needs_reauth",
        /// Gone here; the provider is being told.
        Revoking => "revoking",
        /// Gone, and nothing more will be tried.
        Revoked => "revoked",
    }
);

text_enum!(
    /// Why a connection needs its owner again.
    ReauthReason {
        /// The provider says that the grant is dead.
        GrantRevoked => "grant_revoked",
        /// A refresh was sent, its outcome is unknown, and repeating it would endanger sibling grants.
        UnknownOutcome => "unknown_outcome",
        /// The access token ended and there is no refresh token.
        NoRefreshToken => "no_refresh_token",
        /// The refresh token, or the grant, reached its stated end.
        RefreshTokenExpired => "refresh_token_expired",
        /// The provider wants its user to act: sign in again, pass a second factor, accept terms.
        InteractionRequired => "interaction_required",
    }
);

text_enum!(
    /// Whether refreshes work.
    Refreshing {
        /// The last one worked, or none was needed.
        Ok => "ok",
        /// The last one failed; the next try is planned.
        Failing => "failing",
    }
);

/// Why and since when a connection needs its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeedsReauth {
    /// Why.
    pub reason: ReauthReason,
    /// Since when.
    pub since: Timestamp,
}

/// The account at the provider.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The issuer that vouches for the subject.
    pub issuer: String,
    /// The account's stable id at the issuer.
    pub subject: String,
    /// What the account is called, for people; never compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Account {
    /// Whether both name the same account.
    pub fn is_same(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.subject == other.subject
    }
}

/// The last attempt, as a person wants to see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastAttempt {
    /// `settled`, `dead`, `unknown`, …: the attempt's state or outcome.
    pub outcome: String,
    /// When.
    pub at: Timestamp,
}

/// The stored grant of one owner for one connector. Its tokens are kept apart, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// The space it belongs to.
    pub space: SpaceId,
    /// Its connector.
    pub connector_id: ConnectorId,
    /// The connector's provider.
    pub provider: String,
    /// Whose grant it is.
    pub owner: Owner,
    /// Which of the owner's accounts.
    pub label: Label,
    /// What can be done with it.
    pub status: Status,
    /// Why it needs its owner, if it does.
    pub needs_reauth: Option<NeedsReauth>,
    /// Scopes that were asked for.
    pub requested_scopes: Vec<String>,
    /// Scopes that were granted.
    pub granted_scopes: Vec<String>,
    /// The account at the provider, if known.
    pub account: Option<Account>,
    /// +1 for each token set stored.
    pub generation: i64,
    /// The access token's type, `Bearer` where the provider says nothing.
    pub token_type: String,
    /// When the token set was asked for: lives are counted from here.
    pub issued_at: Timestamp,
    /// When the access token ends, if known.
    pub expires_at: Option<Timestamp>,
    /// Whether a refresh token is stored.
    pub has_refresh_token: bool,
    /// When the refresh token ends unless it is used, if known.
    pub refresh_expires_at: Option<Timestamp>,
    /// An end that no refresh moves.
    pub reconnect_by: Option<Timestamp>,
    /// When the next refresh is due.
    pub refresh_due_at: Option<Timestamp>,
    /// When a refresh is tried next: at the due point, or after the pause that the last try led to. Known in lists alone.
    pub next_try_at: Option<Timestamp>,
    /// Whether refreshes work.
    pub refreshing: Refreshing,
    /// The last attempt.
    pub last_attempt: Option<LastAttempt>,
    /// When a caller's `rejected` last started a refresh.
    pub rejected_at: Option<Timestamp>,
    /// Bound by the confirm page instead of by the application's backend.
    pub weakly_bound: bool,
    /// When it was first connected.
    pub created_at: Timestamp,
    /// When its row last changed.
    pub updated_at: Timestamp,
    /// When its token was last handed out, to the minute.
    pub last_used_at: Option<Timestamp>,
}

impl Connection {
    /// Whether the access token ends at or before `now`; one without a stated end never does.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether a refresh is due.
    pub fn needs_refresh(&self, now: Timestamp) -> bool {
        self.refresh_due_at.is_some_and(|due| due <= now)
    }

    /// Whether the refresh token, or the grant itself, has reached its stated end: nothing can be presented any more.
    pub fn refresh_has_ended(&self, now: Timestamp) -> bool {
        self.refresh_expires_at.is_some_and(|at| at <= now) || self.reconnect_by.is_some_and(|at| at <= now)
    }

    /// The life that the access token had when it was issued.
    pub fn life(&self) -> Option<std::time::Duration> {
        self.expires_at.map(|at| at.since(self.issued_at))
    }

    /// The life that is left, if an end is known.
    pub fn remaining(&self, now: Timestamp) -> Option<std::time::Duration> {
        self.expires_at.map(|at| at.since(now))
    }

    /// Whether tokens may be served and refreshed.
    pub fn is_live(&self) -> bool {
        self.status == Status::Active
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.subject, self.issuer)
    }
}
