//! Connections: listed and shown, never with token values.

use valetkey_core::{Caller, Connection, ConnectionId, Operation, Owner, Revocation, RevocationId, Role};
use valetkey_store::{ConnectionFilter, RevocationFilter};

use crate::{Broker, BrokerError, Fault, Resource, broker::require};

impl Broker {
    /// The connections that exist for the caller and match. An application sees its users' one user at a time.
    pub async fn list_connections(
        &self,
        caller: &Caller,
        filter: &ConnectionFilter,
        after: Option<ConnectionId>,
        limit: i64,
    ) -> Result<Vec<Connection>, BrokerError> {
        require(caller, Operation::ConnectionList)?;
        if !sees_everyone(caller) {
            match filter.owner {
                Some(Owner::User(_)) => {}
                Some(Owner::Shared) if caller.has(Role::Shared) => {}
                Some(Owner::Shared) => return Err(BrokerError::SharedRoleRequired),
                None => {
                    let message = "is required for the role app: your application lists one user at a time";
                    return Err(BrokerError::Invalid(vec![Fault::new("user_id", message)]));
                }
            }
        }
        let only = caller.connectors.as_deref();
        Ok(self.store().list_connections(&caller.space, filter, only, after, limit).await?)
    }

    /// One connection.
    pub async fn show_connection(&self, caller: &Caller, id: ConnectionId) -> Result<Connection, BrokerError> {
        require(caller, Operation::ConnectionShow)?;
        let connection = self.visible_connection(caller, id).await?;
        let is_shared = connection.owner == Owner::Shared;
        if is_shared && !sees_everyone(caller) && !caller.has(Role::Shared) {
            return Err(BrokerError::NotFound(Resource::Connection));
        }
        Ok(connection)
    }

    pub(crate) async fn visible_connection(
        &self,
        caller: &Caller,
        id: ConnectionId,
    ) -> Result<Connection, BrokerError> {
        let found = self.store().find_connection(&caller.space, id).await?;
        found
            .filter(|connection| caller.sees(connection.connector_id))
            .ok_or(BrokerError::NotFound(Resource::Connection))
    }

    /// Revocations of the caller's connectors, oldest first.
    pub async fn list_revocations(
        &self,
        caller: &Caller,
        filter: &RevocationFilter,
        after: Option<RevocationId>,
        limit: i64,
    ) -> Result<Vec<Revocation>, BrokerError> {
        require(caller, Operation::RevocationList)?;
        let filter = RevocationFilter { only: caller.connectors.clone(), ..filter.clone() };
        Ok(self.store().list_revocations(&caller.space, &filter, after, limit).await?)
    }
}

fn sees_everyone(caller: &Caller) -> bool {
    caller.has(Role::Operator) || caller.has(Role::Admin)
}
