//! What Valetkey knows of authorization servers, and the HTTP client that speaks to them.
//!
//! A [`Profile`](profile::Profile) is a data file that describes one provider; the [`Catalogue`] holds them. The broker
//! speaks to all of them through [`AuthorizationServer`]; [`HttpAuthorizationServer`] is the implementation that really
//! calls. Every call leaves through one guarded client: HTTPS, public addresses, one deadline, a size cap, no redirects.

mod account;
mod answer;
mod catalogue;
mod check;
mod classify;
mod discovery;
mod embedded;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guard;
mod http_server;
mod id_token;
mod outbound;
pub mod pattern;
pub mod profile;
mod request;
mod resolve;
mod resolver;
mod revoke;
mod server;
mod shape;
mod skew;
mod transit;
mod trust;
mod validate;

pub use catalogue::{Catalogue, CatalogueError, ProfileFault, ProviderSummary, RevocationSummary, SettingSummary};
pub use error::{DiscoveryFault, ProviderError};
pub use guard::{AddressFault, Guard, is_public};
pub use http_server::HttpAuthorizationServer;
pub use outbound::{ANSWER_LIMIT, DEADLINE, OutboundError, OutboundSettings};
pub use server::{
    AuthorizationRequest, AuthorizationServer, CodeExchange, KeptParam, NotSent, ProviderFacts, RefreshRequest,
    RevokeOutcome, TokenOutcome, UnknownOutcome,
};
pub use skew::ClockSkew;
pub use transit::{TransitError, TransitKeyWrapper, TransitSettings, TransitToken};
pub use trust::CaFile;
