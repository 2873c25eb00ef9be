//! Audit: who did what to which, when and with what result.

use serde::{Deserialize, Serialize};

use crate::{ConnectionId, ConnectorId, EventId, FlowId, KeyId, Owner, SpaceId, Timestamp, connection::text_enum};

text_enum!(
    /// What happened. The texts are part of the API.
    Action {
        /// A space was made.
        SpaceCreated => "space.created",
        /// A key was made.
        KeyCreated => "key.created",
        /// A key was revoked.
        KeyRevoked => "key.revoked",
        /// A connector was made.
        ConnectorCreated => "connector.created",
        /// A connector was edited.
        ConnectorUpdated => "connector.updated",
        /// A connector was deleted.
        ConnectorDeleted => "connector.deleted",
        /// A flow was started.
        FlowStarted => "flow.started",
        /// A start was refused because it named a target that is not registered.
        FlowStartRefused => "flow.start_refused",
        /// A browser was bound to a flow.
        FlowOpened => "flow.opened",
        /// A callback was refused before anything was consumed.
        FlowCallbackRefused => "flow.callback_refused",
        /// A callback was accepted.
        FlowCallback => "flow.callback",
        /// An application's call to finish a flow was refused; nothing was redeemed by it.
        FlowFinishRefused => "flow.finish_refused",
        /// A flow failed.
        FlowFailed => "flow.failed",
        /// A flow was cancelled.
        FlowCancelled => "flow.cancelled",
        /// A connection was stored by a flow.
        ConnectionConnected => "connection.connected",
        /// A connection was imported.
        ConnectionImported => "connection.imported",
        /// A token set was refreshed.
        ConnectionRefreshed => "connection.refreshed",
        /// A connection needs its owner again.
        ConnectionNeedsReauth => "connection.needs_reauth",
        /// A connection does not need its owner after all: its refresh token never left.
        ConnectionRecovered => "connection.recovered",
        /// A connection was revoked here.
        ConnectionRevoked => "connection.revoked",
        /// A connection was purged.
        ConnectionPurged => "connection.purged",
        /// A revocation reached its end.
        RevocationEnded => "revocation.ended",
        /// Tokens were handed out.
        TokenIssued => "token.issued",
        /// A plan to revoke many was made.
        RevokePlanned => "revoke.planned",
        /// A hold began, in all spaces.
        HoldBegun => "hold.begun",
        /// An operator ended the hold.
        HoldReleased => "hold.released",
        /// A data key was made, in all spaces.
        DataKeyCreated => "data_key.created",
        /// A data key seals from now on.
        DataKeyActivated => "data_key.activated",
        /// Nothing is left that a data key sealed.
        DataKeyRetired => "data_key.retired",
        /// Data keys were wrapped by another key-encryption key.
        DataKeysRewrapped => "data_keys.rewrapped",
    }
);

/// Who acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Actor {
    /// An API key.
    Key {
        /// Which.
        key_id: KeyId,
    },
    /// The operator at the command line, on this machine.
    CommandLine,
    /// A person's browser.
    Browser,
    /// Valetkey itself.
    System,
}

/// What an event is about; absent parts do not apply.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// The connector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connector_id: Option<ConnectorId>,
    /// The connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<ConnectionId>,
    /// The flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_id: Option<FlowId>,
    /// The key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

/// One audit event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEvent {
    /// Its id; sorts by time.
    pub id: EventId,
    /// The space.
    #[serde(rename = "space_id")]
    pub space: SpaceId,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: Action,
    /// To which.
    #[serde(flatten)]
    pub subject: Subject,
    /// More, never a secret: reasons, counts, fingerprints, the actor that an application named.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
    /// The request that caused it, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}
