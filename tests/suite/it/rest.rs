//! The behaviour of the service over real HTTP, on SQLite and on PostgreSQL.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails, fails its test")]

mod audit;
mod bulk;
mod imports;
mod jobs;
mod limits;
mod peers;
mod problems;
mod recovery;
mod restart;
mod roles;
mod refresh_classes;
mod refresh_clients;
mod refresh_faults;
mod refresh_flight;
mod refresh_lives;
mod refresh_observed;
mod revoke;
