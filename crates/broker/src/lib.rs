//! The use cases of Valetkey, one per file.
//!
//! [`Broker`] is what handlers, jobs and the command line call. It owns the tasks that must outlive their callers
//! (redemptions and refreshes); [`Broker::drain`] waits for them at shutdown.

mod access;
mod attempt;
mod attempt_end;
mod attempt_record;
mod audit;
mod boundary;
mod broker;
mod callback;
mod cancel;
mod confirm;
mod connections;
mod connectors;
mod deliver;
mod disconnect;
mod due;
mod elsewhere;
mod error;
mod finish;
mod flights;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hold;
mod import;
mod issues;
mod keyring;
mod keys;
mod metrics;
mod open;
mod outage;
mod plan;
mod providers;
mod purge;
mod receive;
mod recovery;
mod refresh;
mod refusals;
mod revoke;
mod schedule;
mod settings;
mod spaces;
mod start;
mod targets;

pub use access::{Admit, IssuedToken, StartForToken, TokenRequest};
pub use audit::{AuditPage, with_request_id};
pub use boundary::{Boundaries, Boundary};
pub use broker::{Broker, BrokerParts};
pub use callback::{CallbackEnd, CallbackQuery, Homecoming, Outcome};
pub use confirm::{ConfirmEnd, ConfirmView};
pub use connectors::{ConnectorPatch, NewConnector};
pub use deliver::DeliveryReport;
pub use disconnect::{Disconnect, Disconnected};
pub use due::DueReport;
pub use error::{BrokerError, Fault, Resource, StartOffer};
pub use finish::Finish;
pub use hold::{ClassLoad, HoldReport};
pub use import::{ImportLine, ImportReport};
pub use keyring::{
    DataKeyStatus, KeyringStatus, ReplicaStatus, RewrapReport, RotationPace, RotationPhase, RotationStep, SealedReport,
};
pub use keys::{CreatedKey, NewKey};
pub use metrics::Metrics;
pub use open::{ConnectView, Cookies, OpenedFlow, PageFailure};
pub use plan::{BulkRevoked, RevokePlan};
pub use purge::PurgeReport;
pub use settings::{BrokerSettings, KeyringSettings, Limits, RefreshSettings, Retention};
pub use start::{StartFlow, StartedFlow};

pub use valetkey_providers::ProviderSummary;
pub use valetkey_store::{AuditFilter, ConnectionFilter, Raised, RevocationFilter, Testimony, Witnessed};
