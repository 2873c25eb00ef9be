//! The behaviour of the service over real HTTP, on SQLite and on PostgreSQL.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails, fails its test")]

mod access;
mod access_keys;
mod audit;
mod bulk;
mod faults_table;
mod flow_account;
mod flow_browser;
mod flow_callback;
mod flow_cancel;
mod flow_confirm;
mod flow_connect;
mod flow_connector;
mod flow_finish;
mod flow_pages;
mod flow_start;
mod hold;
mod hostile;
mod imports;
mod jobs;
mod limits;
mod model;
mod operators_view;
mod peers;
mod problems;
mod recovery;
mod recovery_table;
mod refresh_classes;
mod refresh_clients;
mod refresh_faults;
mod refresh_flight;
mod refresh_lives;
mod refresh_observed;
mod refresh_open;
mod refresh_pacing;
mod replicas;
mod restart;
mod revoke;
mod roles;
mod rotation;
mod standing_docs;
mod standing_openapi;
mod standing_secrets;
