//! The sandbox over real HTTP.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod classes;
mod consent;
mod control_http;
mod faults;
mod late_faults;
mod ledger;
mod metadata;
mod process;
mod redeem;
mod revocation;
mod support;
