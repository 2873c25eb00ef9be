//! Each proof with a small count.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod crash;
mod power_cut;
mod replicas;
mod restarts;
mod revoke;
mod run;
