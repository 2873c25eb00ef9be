//! Revoke connections: gone here with this call's answer, the provider told through the queue.

use serde_json::json;
use valetkey_core::{
    Action, Actor, AuditEvent, Caller, Connection, ConnectionId, Operation, RevocationId, RevocationReason, SpaceId,
};
use valetkey_store::{RevocationFilter, ToRevoke};

use crate::{Broker, BrokerError, Disconnected, Resource, broker::require};

/// Revocations listed with an answer.
const LISTED: i64 = 50;

impl Broker {
    /// Revokes one connection.
    pub async fn revoke_connection(&self, caller: &Caller, id: ConnectionId) -> Result<Disconnected, BrokerError> {
        require(caller, Operation::ConnectionRevoke)?;
        let connection = self.visible_connection(caller, id).await?;
        self.revoke_listed(caller, &connection, RevocationReason::Operator).await
    }

    /// Revokes, and says how it stands with the provider. A connection that is revoked already stays so.
    pub(crate) async fn revoke_listed(
        &self,
        caller: &Caller,
        connection: &Connection,
        reason: RevocationReason,
    ) -> Result<Disconnected, BrokerError> {
        self.revoke_all(&connection.space, &[connection.id], reason, caller.actor()).await?;
        let current = self.reread(connection.id).await?.ok_or(BrokerError::NotFound(Resource::Connection))?;
        let filter = RevocationFilter { connection_id: Some(connection.id), ..RevocationFilter::default() };
        let revocations = self.store().list_revocations(&connection.space, &filter, None, LISTED).await?;
        let connector = self.store().find_connector_any(connection.connector_id).await?;
        let manual_url = match connector {
            Some(connector) => self.provider().facts(&connector).await.ok().and_then(|facts| facts.manual_url),
            None => None,
        };
        Ok(Disconnected { connection: current.connection.clone(), revocations, manual_url })
    }

    /// Revokes connections of one space in one transaction; answers with those that were live.
    pub(crate) async fn revoke_all(
        &self,
        space: &SpaceId,
        ids: &[ConnectionId],
        reason: RevocationReason,
        actor: Actor,
    ) -> Result<Vec<ConnectionId>, BrokerError> {
        let now = self.now();
        let revoke: Vec<ToRevoke> = ids
            .iter()
            .map(|connection| ToRevoke {
                connection: *connection,
                refresh: RevocationId::new(now, self.entropy()),
                access: RevocationId::new(now, self.entropy()),
            })
            .collect();
        let events: Vec<AuditEvent> = ids.iter().map(|id| self.revoke_event(space, *id, reason, &actor)).collect();
        let revoked = self.store().revoke_connections(space, &revoke, reason, now, &events).await?;
        if !revoked.is_empty() {
            tracing::info!(space = %space, count = revoked.len(), reason = reason.as_str(), "revoked {} connections: {reason}", revoked.len());
        }
        Ok(revoked)
    }

    fn revoke_event(&self, space: &SpaceId, id: ConnectionId, reason: RevocationReason, actor: &Actor) -> AuditEvent {
        let subject = valetkey_core::Subject { connection_id: Some(id), ..valetkey_core::Subject::default() };
        let mut event = self.event(space, actor.clone(), Action::ConnectionRevoked, subject);
        event.detail = json!({ "reason": reason });
        event
    }
}
