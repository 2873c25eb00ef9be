//! The encrypted token store, on SQLite and on PostgreSQL through one SQL text.
//!
//! [`TokenStore`] is the facade; [`TokenStore::shared`] and [`TokenStore::user`] are its two clients for the tokens of
//! one owner. Secrets are sealed before they reach a statement and opened after they left it; rows of other crates'
//! types never leave this crate. It is the only room that names sqlx.

mod access;
mod attempts;
mod audit;
mod bounded;
mod cache;
mod circuits;
mod connect;
mod connections;
mod connectors;
mod data_keys;
mod db;
mod due;
mod error;
mod flows;
mod group;
mod group_rows;
mod guard;
mod instance;
mod keys;
mod leases;
mod lists;
mod migrations;
mod notices;
mod plans;
mod prepare;
mod purge;
mod quotas;
mod reseal;
mod revocations;
mod rows;
mod settle;
mod spaces;
mod sql;
mod store;
#[cfg(test)]
mod tests;
mod usage;

pub use attempts::{EndAttempt, HeldAttempt, NewAttempt, Stopped};
pub use audit::AuditFilter;
pub use bounded::Patience;
pub use circuits::Circuit;
pub use connect::{Connect, Connected};
pub use connections::{Access, OwnerTokens};
pub use data_keys::{DataKeyReader, SealedFields};
pub use db::{Database, DatabaseSettings, Engine};
pub use error::StoreError;
pub use flows::{AcceptedCallback, Begun, Bind, FlowCaps, FlowRecord, Proof, Redemption, Unstored};
pub use guard::{ConnectorLoad, HoldEvent, Raised, Testimony, Witnessed};
pub use instance::Unlock;
pub use lists::{ConnectionCount, ConnectionFilter, DueCounts, RevocationFilter};
pub use notices::Notices;
pub use plans::Plan;
pub use prepare::Prepared;
pub use purge::{PURGE_BATCH, PurgeEvent};
pub use quotas::Slots;
pub use reseal::{Checked, Resealed, SealedTable};
pub use revocations::{ClaimedRevocation, ToRevoke};
pub use rows::StoredConnection;
pub use settle::{Settle, Settled};
pub use store::TokenStore;
pub use usage::Use;
pub use valetkey_sealing::{DataKeyRow, DataKeyState};
