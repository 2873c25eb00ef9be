//! Disconnect: a user's application takes the grant back for its user.

use valetkey_core::{Caller, Connection, ConnectorId, Label, Operation, Revocation, RevocationReason, UserId};

use crate::{Broker, BrokerError, broker::require, start::owner_of};

/// Whose grant is taken back.
#[derive(Debug, Clone)]
pub struct Disconnect {
    /// The user, on a `per_user` connector.
    pub user_id: Option<UserId>,
    /// The administrator, on a `shared` connector.
    pub actor: Option<UserId>,
    /// Which of the owner's accounts.
    pub label: Label,
}

/// A connection that is gone here, and how it stands with its provider.
#[derive(Debug)]
pub struct Disconnected {
    /// The connection.
    pub connection: Connection,
    /// Its revocations.
    pub revocations: Vec<Revocation>,
    /// Where the user can remove access at the provider, if a profile knows.
    pub manual_url: Option<String>,
}

impl Broker {
    /// Takes a grant back for its user. Saying it again answers with how it stands now.
    pub async fn disconnect(
        &self,
        caller: &Caller,
        connector: ConnectorId,
        disconnect: &Disconnect,
    ) -> Result<Disconnected, BrokerError> {
        require(caller, Operation::Disconnect)?;
        let connector = self.visible_connector(caller, connector).await?;
        let owner = owner_of(caller, &connector, disconnect.user_id.as_ref(), disconnect.actor.as_ref())?;
        let tokens = match owner.user_id() {
            Some(user) => self.store().user(&caller.space, connector.id, user),
            None => self.store().shared(&caller.space, connector.id),
        };
        let Some(stored) = tokens.find(&disconnect.label).await? else {
            return Err(BrokerError::ConnectionNotFound(None));
        };
        self.revoke_listed(caller, &stored.connection, RevocationReason::Disconnect).await
    }
}
