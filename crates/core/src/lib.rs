//! The domain of Valetkey, without I/O and without a framework.
//!
//! Words are the glossary's (`docs/architecture.md`): space, provider, connector, owner, connection, flow, caller,
//! attempt, generation, revocation. Time and chance come in through [`Clock`] and [`Entropy`].

mod api_key;
mod attempt;
mod audit;
mod caller;
mod clock;
mod connection;
mod connector;
mod entropy;
mod flow;
mod hold;
mod ids;
mod names;
mod owner;
mod permission;
mod revocation;
mod rotation;
mod secret;
mod tokens;
mod wrapper;

pub use api_key::{ApiKey, PresentedKey, SecretHash};
pub use attempt::{Attempt, AttemptState, Trigger};
pub use audit::{Action, Actor, AuditEvent, Subject};
pub use caller::{Caller, CallerKind};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use connection::{Account, Connection, LastAttempt, NeedsReauth, ReauthReason, Refreshing, Status};
pub use connector::{AuthMode, Binding, Connector, Endpoints, Grant, ObservedRotation, RotationSetting};
pub use entropy::{Entropy, SystemEntropy};
pub use flow::{Flow, FlowFailure, FlowMode, FlowStatus};
pub use hold::{Hold, HoldReason};
pub use ids::{AttemptId, ConnectionId, ConnectorId, EventId, FlowId, IdError, KeyId, PlanId, RevocationId};
pub use names::{Label, NameError, ProviderName, SpaceId, UserId};
pub use owner::Owner;
pub use permission::{Operation, Role, allowed_roles};
pub use revocation::{Reach, Revocation, RevocationReason, RevocationState, TokenKind};
pub use rotation::RotationClass;
pub use secret::{Fingerprint, Secret, constant_time_eq, sha256};
pub use tokens::{Lives, TokenSet};
pub use wrapper::{KeyWrapper, WrapContext, WrapError};
