//! Audit events over the wire.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use valetkey_broker::AuditFilter;
use valetkey_core::{
    Action, Actor, AuditEvent, ConnectionId, ConnectorId, EventId, FlowId, KeyId, Owner, Timestamp, UserId,
};

use super::{Page, PageParams, connection::OwnerOut};
use crate::extract::{FromPairs, Pairs};

/// A page of them.
pub(crate) type AuditEventPage = Page<AuditEventOut>;

/// Who acted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Actor)]
pub(crate) struct ActorOut {
    /// `key`, `command_line`, `browser` or `system`.
    #[schema(example = "key")]
    kind: &'static str,
    /// Which key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>, example = "key_06bc4jm2cg1hf0c9q2m8r5vk3o")]
    key_id: Option<KeyId>,
}

impl From<Actor> for ActorOut {
    fn from(actor: Actor) -> Self {
        let (kind, key_id) = match actor {
            Actor::Key { key_id } => ("key", Some(key_id)),
            Actor::CommandLine => ("command_line", None),
            Actor::Browser => ("browser", None),
            Actor::System => ("system", None),
        };
        Self { kind, key_id }
    }
}

/// Who did what to which, and when. Absent parts do not apply.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEvent)]
pub(crate) struct AuditEventOut {
    /// Its id.
    #[schema(value_type = String, example = "evt_06bc4jq1v91hf0c9q2m8r5vk3o")]
    id: EventId,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Who.
    actor: ActorOut,
    /// What.
    #[schema(value_type = String, example = "connection.connected")]
    action: Action,
    /// The connector.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>)]
    connector_id: Option<ConnectorId>,
    /// The connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>)]
    connection_id: Option<ConnectionId>,
    /// The flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>)]
    flow_id: Option<FlowId>,
    /// The key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>)]
    key_id: Option<KeyId>,
    /// The owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    owner: Option<OwnerOut>,
    /// More, never a secret.
    #[serde(skip_serializing_if = "Value::is_null")]
    #[schema(value_type = Object)]
    detail: Value,
    /// The request that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    request_id: Option<String>,
}

impl From<AuditEvent> for AuditEventOut {
    fn from(event: AuditEvent) -> Self {
        Self {
            id: event.id,
            at: event.at,
            actor: event.actor.into(),
            action: event.action,
            connector_id: event.subject.connector_id,
            connection_id: event.subject.connection_id,
            flow_id: event.subject.flow_id,
            key_id: event.subject.key_id,
            owner: event.subject.owner.map(OwnerOut::from),
            detail: event.detail,
            request_id: event.request_id,
        }
    }
}

/// Which events to list.
#[derive(Debug)]
pub(crate) struct AuditParams {
    /// The filter.
    pub(crate) filter: AuditFilter,
    /// The page.
    pub(crate) page: PageParams<EventId>,
}

impl FromPairs for AuditParams {
    fn from_pairs(pairs: &mut Pairs) -> Self {
        let actions: Vec<_> = Action::ALL.iter().map(|action| action.as_str()).collect();
        let time = |pairs: &mut Pairs, name: &str| {
            let text: String = pairs.take(name)?;
            let instant = Timestamp::from_rfc3339(&text);
            if instant.is_none() {
                pairs.fault(name, "is an RFC 3339 time, its + written as %2B");
            }
            instant
        };
        let filter = AuditFilter {
            action: pairs.take_one_of("action", &actions),
            connector_id: pairs.take("connector_id"),
            connection_id: pairs.take("connection_id"),
            flow_id: pairs.take("flow_id"),
            key_id: pairs.take("key_id"),
            owner: pairs.take::<UserId>("user_id").map(Owner::User),
            from: time(pairs, "from"),
            to: time(pairs, "to"),
            only: None,
        };
        Self { filter, page: PageParams::from_pairs(pairs) }
    }
}
