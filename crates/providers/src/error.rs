//! Why nothing can be asked of a provider.

use crate::AddressFault;

/// A fault in what we know of a provider or were told of a connector; never the provider's own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// No profile has this name.
    #[error("there is no provider named `{provider}`")]
    UnknownProvider {
        /// The name.
        provider: String,
    },
    /// A placeholder of the profile has no value.
    #[error("the provider needs the setting `{setting}`")]
    MissingSetting {
        /// The setting.
        setting: String,
    },
    /// A setting's value does not fit its pattern.
    #[error("the setting `{setting}` must be {expected}")]
    BadSetting {
        /// The setting.
        setting: String,
        /// What fits.
        expected: String,
    },
    /// The profile knows no such setting.
    #[error("the provider has no setting `{setting}`")]
    UnknownSetting {
        /// The setting.
        setting: String,
    },
    /// Discovery needs an issuer.
    #[error("the provider needs an `issuer`")]
    MissingIssuer,
    /// The profile fixes the issuer.
    #[error("the provider's issuer is fixed: leave `issuer` out")]
    IssuerNotWanted,
    /// The profile fixes this endpoint.
    #[error("the provider's {which} endpoint is fixed: leave `endpoints.{which}` out")]
    EndpointNotWanted {
        /// Which endpoint.
        which: &'static str,
    },
    /// Neither profile, connector nor discovery names this endpoint.
    #[error("the provider has no {which} endpoint")]
    NoEndpoint {
        /// Which endpoint.
        which: &'static str,
    },
    /// An address that we do not speak to.
    #[error("the {which} address cannot be used: {fault}")]
    AddressRefused {
        /// Which address.
        which: &'static str,
        /// What is wrong with it.
        fault: AddressFault,
    },
    /// The issuer's metadata could not be got or trusted.
    #[error("discovery at the issuer failed: {cause}")]
    Discovery {
        /// What went wrong.
        cause: DiscoveryFault,
    },
    /// The grant type is not offered.
    #[error("the provider does not offer the grant `{grant}`")]
    GrantNotOffered {
        /// The grant type.
        grant: &'static str,
    },
    /// A value of the request itself is out of bounds.
    #[error("the {which} of the request is out of bounds")]
    BadRequest {
        /// Which value.
        which: &'static str,
    },
}

impl ProviderError {
    /// The field of a connector that the fault is about, dotted.
    pub fn field(&self) -> String {
        match self {
            Self::UnknownProvider { .. } => "provider".to_owned(),
            Self::MissingSetting { setting } | Self::BadSetting { setting, .. } | Self::UnknownSetting { setting } => {
                format!("settings.{setting}")
            }
            Self::MissingIssuer
            | Self::IssuerNotWanted
            | Self::Discovery { .. }
            | Self::AddressRefused { which: "issuer", .. } => "issuer".to_owned(),
            Self::EndpointNotWanted { which } | Self::NoEndpoint { which } | Self::AddressRefused { which, .. } => {
                format!("endpoints.{which}")
            }
            Self::GrantNotOffered { .. } => "grant".to_owned(),
            Self::BadRequest { which } => (*which).to_owned(),
        }
    }
}

/// Why an issuer's metadata is of no use (OIDC Discovery, section 4.3; RFC 8414, section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryFault {
    /// Could not be reached.
    #[error("the issuer could not be reached")]
    Unreachable,
    /// Answered with another status than 200.
    #[error("the issuer answered with status {status}")]
    Status {
        /// The status.
        status: u16,
    },
    /// Not a metadata document.
    #[error("the answer is not a metadata document")]
    Unreadable,
    /// The document names another issuer.
    #[error("the metadata names another issuer, byte for byte")]
    OtherIssuer,
    /// An endpoint of the document cannot be used.
    #[error("the metadata names an address that cannot be used")]
    BadEndpoint,
}
