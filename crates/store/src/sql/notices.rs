//! Statements about notices between replicas, which PostgreSQL alone has.

/// The channel; every database has channels of its own.
pub(crate) const CHANNEL: &str = "valetkey_attempts";

/// Told at once, by a transaction that writes nothing else: no commit of tokens waits for PostgreSQL's one queue.
pub(crate) const ANNOUNCE_POSTGRES: &str = "SELECT pg_notify($1, id) FROM unnest(CAST($2 AS text[])) AS ended (id)";

/// Statements that SQLite does not have.
#[cfg(test)]
pub(crate) const POSTGRES: &[(&str, &str)] = &[("notices::ANNOUNCE_POSTGRES", ANNOUNCE_POSTGRES)];
