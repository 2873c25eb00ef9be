//! The store's behaviour, on SQLite and, where `VALETKEY_TEST_POSTGRES_URL` names a server, on PostgreSQL.

mod audit;
mod connectors;
mod edits;
mod groups;
mod guard;
mod instance;
mod keys;
mod lists;
mod migrations;
mod notices;
mod plans;
mod purge;
mod revocations;
mod rows;
mod sealing;
mod shared;
mod statements;
mod support;
mod tokens;
