//! The store's behaviour, on SQLite and, where `VALETKEY_TEST_POSTGRES_URL` names a server, on PostgreSQL.

mod audit;
mod connectors;
mod instance;
mod keys;
mod lists;
mod migrations;
mod plans;
mod purge;
mod revocations;
mod rows;
mod shared;
mod statements;
mod support;
mod tokens;
