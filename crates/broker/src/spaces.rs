//! Spaces: made by an explicit verb at the command line, never by a key.

use valetkey_core::{Action, Caller, CallerKind, Operation, SpaceId, Subject, Timestamp};

use crate::{Broker, BrokerError};

impl Broker {
    /// Makes a space.
    pub async fn create_space(&self, caller: &Caller, space: &SpaceId) -> Result<(), BrokerError> {
        only_command_line(caller)?;
        let event = self.event(space, caller.actor(), Action::SpaceCreated, Subject::default());
        if self.store().create_space(space, self.now(), &event).await? { Ok(()) } else { Err(BrokerError::SpaceExists) }
    }

    /// All spaces.
    pub async fn list_spaces(&self, caller: &Caller) -> Result<Vec<(SpaceId, Timestamp)>, BrokerError> {
        only_command_line(caller)?;
        Ok(self.store().list_spaces().await?)
    }

    /// Whether there is such a space.
    pub async fn has_space(&self, space: &SpaceId) -> Result<bool, BrokerError> {
        Ok(self.store().space_exists(space).await?)
    }
}

/// Keys live inside a space and cannot see the others.
fn only_command_line(caller: &Caller) -> Result<(), BrokerError> {
    match caller.kind {
        CallerKind::CommandLine => Ok(()),
        CallerKind::Key(_) => Err(BrokerError::Forbidden(Operation::KeyCreate)),
    }
}
