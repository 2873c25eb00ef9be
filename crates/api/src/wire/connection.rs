//! Connections over the wire: everything but token values.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use valetkey_broker::{ConnectionFilter, Disconnect, Disconnected};
use valetkey_core::{
    Connection, ConnectionId, ConnectorId, Label, Owner, ProviderName, ReauthReason, Refreshing, Status, Timestamp,
    UserId,
};

use super::{Page, PageParams, RevocationOut};
use crate::extract::{FromPairs, Pairs};

/// A page of them.
pub(crate) type ConnectionPage = Page<ConnectionOut>;

/// Whose grant it is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Owner)]
pub(crate) struct OwnerOut {
    /// `shared` or `user`.
    #[schema(example = "user")]
    kind: &'static str,
    /// The application's id of the user, if it is one user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>, example = "u-17")]
    user_id: Option<UserId>,
}

impl From<Owner> for OwnerOut {
    fn from(owner: Owner) -> Self {
        match owner {
            Owner::Shared => Self { kind: "shared", user_id: None },
            Owner::User(user_id) => Self { kind: "user", user_id: Some(user_id) },
        }
    }
}

/// Why and since when a connection needs its owner.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NeedsReauth)]
pub(crate) struct NeedsReauthOut {
    /// Why.
    #[schema(value_type = String, example = "grant_revoked")]
    reason: ReauthReason,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
}

/// Scopes of a connection.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConnectionScopes)]
pub(crate) struct ScopesOut {
    /// Asked for.
    #[schema(example = json!(["repo"]))]
    requested: Vec<String>,
    /// Granted.
    #[schema(example = json!(["repo"]))]
    granted: Vec<String>,
}

/// The account at the provider.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Account)]
pub(crate) struct AccountOut {
    /// Who vouches for the subject.
    issuer: String,
    /// The account's stable id there.
    subject: String,
    /// What it is called, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    name: Option<String>,
}

/// The last attempt to refresh.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LastAttempt)]
pub(crate) struct LastAttemptOut {
    /// `settled`, `dead`, or a short code of what was seen.
    #[schema(example = "settled")]
    outcome: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

/// The stored grant of one owner for one connector; never its tokens.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Connection)]
pub(crate) struct ConnectionOut {
    /// Its id.
    #[schema(value_type = String, example = "cxn_06bc4jq1v81hf0c9q2m8r5vk3o")]
    id: ConnectionId,
    /// Its connector.
    #[schema(value_type = String, example = "ctr_06bc4jn7tg1hf0c9q2m8r5vk3o")]
    connector_id: ConnectorId,
    /// The connector's provider.
    #[schema(example = "github")]
    provider: String,
    /// Whose grant it is.
    owner: OwnerOut,
    /// Which of the owner's accounts.
    #[schema(value_type = String)]
    label: Label,
    /// `active`, `needs_reauth`, `revoking` or `revoked`.
    #[schema(value_type = String, example = "active")]
    status: Status,
    /// Why it needs its owner, if it does.
    #[schema(required)]
    needs_reauth: Option<NeedsReauthOut>,
    /// Its scopes.
    scopes: ScopesOut,
    /// The account at the provider, if known.
    #[schema(required)]
    account: Option<AccountOut>,
    /// +1 for each token set stored.
    #[schema(example = 4)]
    generation: i64,
    /// When the access token ends, if known.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    expires_at: Option<Timestamp>,
    /// When the refresh token ends unless it is used, if known.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    refresh_expires_at: Option<Timestamp>,
    /// An end that no refresh moves.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    reconnect_by: Option<Timestamp>,
    /// When the next refresh is due.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    refresh_due_at: Option<Timestamp>,
    /// When a refresh is tried next: at the due point, or after the pause that the last try led to. Absent where nothing
    /// is to be refreshed.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    next_try_at: Option<Timestamp>,
    /// `ok` or `failing`.
    #[schema(value_type = String, example = "ok")]
    refreshing: Refreshing,
    /// The last attempt to refresh.
    #[schema(required)]
    last_attempt: Option<LastAttemptOut>,
    /// Bound by the confirm page instead of by the application's backend.
    weakly_bound: bool,
    /// When it was first connected.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// When its token was last handed out, to the minute.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_used_at: Option<Timestamp>,
}

impl From<Connection> for ConnectionOut {
    fn from(connection: Connection) -> Self {
        let needs = connection.needs_reauth;
        Self {
            id: connection.id,
            connector_id: connection.connector_id,
            provider: connection.provider,
            owner: connection.owner.into(),
            label: connection.label,
            status: connection.status,
            needs_reauth: needs.map(|needs| NeedsReauthOut { reason: needs.reason, since: needs.since }),
            scopes: ScopesOut { requested: connection.requested_scopes, granted: connection.granted_scopes },
            account: connection.account.map(|account| AccountOut {
                issuer: account.issuer,
                subject: account.subject,
                name: account.name,
            }),
            generation: connection.generation,
            expires_at: connection.expires_at,
            refresh_expires_at: connection.refresh_expires_at,
            reconnect_by: connection.reconnect_by,
            refresh_due_at: connection.refresh_due_at,
            next_try_at: connection.next_try_at,
            refreshing: connection.refreshing,
            last_attempt: connection.last_attempt.map(|last| LastAttemptOut { outcome: last.outcome, at: last.at }),
            weakly_bound: connection.weakly_bound,
            created_at: connection.created_at,
            updated_at: connection.updated_at,
            last_used_at: connection.last_used_at,
        }
    }
}

/// Which connections to list.
#[derive(Debug)]
pub(crate) struct ConnectionParams {
    /// The filter.
    pub(crate) filter: ConnectionFilter,
    /// The page.
    pub(crate) page: PageParams<ConnectionId>,
}

impl FromPairs for ConnectionParams {
    fn from_pairs(pairs: &mut Pairs) -> Self {
        let user: Option<UserId> = pairs.take("user_id");
        let owner = match pairs.take::<String>("owner").as_deref() {
            None => user.map(Owner::User),
            Some("shared") if user.is_none() => Some(Owner::Shared),
            Some("shared") => {
                pairs.fault("owner", "goes without user_id");
                None
            }
            Some(_) => {
                pairs.fault("owner", "expected one of: shared");
                None
            }
        };
        let statuses: Vec<_> = Status::ALL.iter().map(|status| status.as_str()).collect();
        let reasons: Vec<_> = ReauthReason::ALL.iter().map(|reason| reason.as_str()).collect();
        let filter = ConnectionFilter {
            connector_id: pairs.take("connector_id"),
            owner,
            status: pairs.take_one_of("status", &statuses),
            provider: pairs.take::<ProviderName>("provider").map(|name| name.to_string()),
            label: pairs.take("label"),
            reason: pairs.take_one_of("reason", &reasons),
        };
        Self { filter, page: PageParams::from_pairs(pairs) }
    }
}

/// Whose grant is taken back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Disconnect)]
pub(crate) struct DisconnectIn {
    /// The signed-in user, on a `per_user` connector.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "u-17")]
    user_id: Option<UserId>,
    /// The signed-in administrator, on a `shared` connector.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    actor: Option<UserId>,
    /// Which of the owner's accounts.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    label: Option<Label>,
}

impl From<DisconnectIn> for Disconnect {
    fn from(disconnect: DisconnectIn) -> Self {
        Self {
            user_id: disconnect.user_id,
            actor: disconnect.actor,
            label: disconnect.label.unwrap_or_else(Label::none),
        }
    }
}

/// A connection that was taken back: gone here, and what becomes of it at the provider.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Disconnected)]
pub(crate) struct DisconnectedOut {
    /// The connection; its tokens are no longer given to anybody.
    connection: ConnectionOut,
    /// What the provider is told, one for each token.
    revocations: Vec<RevocationOut>,
    /// Where the user removes access at the provider, if the provider cannot be told.
    #[schema(required)]
    manual_url: Option<String>,
}

impl From<Disconnected> for DisconnectedOut {
    fn from(disconnected: Disconnected) -> Self {
        Self {
            connection: disconnected.connection.into(),
            revocations: disconnected.revocations.into_iter().map(RevocationOut::from).collect(),
            manual_url: disconnected.manual_url,
        }
    }
}
