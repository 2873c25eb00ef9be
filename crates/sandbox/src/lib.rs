//! An OAuth 2.0 and OpenID Connect provider on loopback whose rotation class and faults are scripted
//! and whose ledger can be read.
//!
//! It plays the foreign party in tests, proofs, load runs and the demonstration: it forgives nothing
//! that its class does not forgive, and writes down every token that it was shown. It knows nothing of the
//! broker. [`Sandbox::start`] runs it inside a test; [`Control`] moves its clock, scripts its faults and
//! reads its [`Event`]s. The same control is served below `/control/` for other processes.

mod answer;
mod authorization;
mod authorize;
mod client;
mod clock;
mod connection;
mod control;
mod control_http;
mod fault;
mod fault_layer;
mod gate;
mod grants;
mod id_token;
mod ledger;
mod metadata;
mod page;
mod request;
mod resource;
mod revoke;
mod server;
mod settings;
mod show;
mod state;
mod token;
mod token_endpoint;
mod view;

pub use client::{AnswerShape, ClientAuth, ClientSettings, ExpiresIn, IdToken, RevocationReach, Rotation, ScopeAnswer};
pub use control::{Control, ControlError};
pub use fault::{Commit, Endpoint, Fault, FaultRule, RetryAfter};
pub use ledger::{AuthMethod, Committed, Counters, Event, EventKind};
pub use server::Sandbox;
pub use settings::{
    Account, AuthorizeSettings, Coop, DiscoverySettings, IssParameter, LedgerSettings, SandboxSettings,
};
pub use token::fingerprint;
pub use view::{AccessView, GrantEnd, GrantView, Outage, SeededGrant};
