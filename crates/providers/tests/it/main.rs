//! The HTTP authorization server against raw servers on loopback that say exactly what a test wants.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

mod authorization;
mod catalogue;
mod discovery;
mod exchange;
mod outcomes;
mod requests;
mod revocation;
mod support;
mod transit;
mod validation;
