//! The HTTP authorization server against raw servers on loopback that say exactly what a test wants.

#![expect(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

mod authorization;
mod calls;
mod catalogue;
mod confinement;
mod discovery;
mod exchange;
mod outcomes;
mod redirects;
mod requests;
mod revocation;
mod support;
mod transit;
mod trust;
mod validation;
