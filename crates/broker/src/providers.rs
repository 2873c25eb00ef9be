//! The provider catalogue, for those who make connectors.

use valetkey_core::{Caller, Operation};
use valetkey_providers::ProviderSummary;

use crate::{Broker, BrokerError, Resource, broker::require};

impl Broker {
    /// All profiles.
    pub fn list_providers(&self, caller: &Caller) -> Result<Vec<ProviderSummary>, BrokerError> {
        require(caller, Operation::ProviderRead)?;
        Ok(self.inner.parts.catalogue.summaries())
    }

    /// What people call a provider.
    pub(crate) fn provider_title(&self, name: &str) -> String {
        self.inner.parts.catalogue.summary(name).map_or_else(|| name.to_owned(), |summary| summary.title)
    }

    /// One profile.
    pub fn show_provider(&self, caller: &Caller, name: &str) -> Result<ProviderSummary, BrokerError> {
        require(caller, Operation::ProviderRead)?;
        self.inner.parts.catalogue.summary(name).ok_or(BrokerError::NotFound(Resource::Provider))
    }
}
