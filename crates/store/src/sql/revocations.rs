//! Statements about revocations. A list of ids travels as one JSON text; the table function that reads it differs.

/// Local first: from this statement's commit on no token of these connections is served.
pub(crate) const BEGIN_SQLITE: &str = "UPDATE connections SET status = 'revoking', reauth_reason = NULL, \
     reauth_since = NULL, refresh_due_at = NULL, updated_at = $2 WHERE status IN ('active', 'needs_reauth') \
     AND space_id = $3 AND id IN (SELECT value ->> 'c' FROM json_each($1)) \
     RETURNING id, connector_id, owner";
pub(crate) const BEGIN_POSTGRES: &str = "UPDATE connections SET status = 'revoking', reauth_reason = NULL, \
     reauth_since = NULL, refresh_due_at = NULL, updated_at = $2 WHERE status IN ('active', 'needs_reauth') \
     AND space_id = $3 AND id IN (SELECT value ->> 'c' FROM json_array_elements(CAST($1 AS json))) \
     RETURNING id, connector_id, owner";

/// The sealed bytes move as they are: they stay bound to the connection and the generation they were sealed for.
pub(crate) const QUEUE_REFRESH_SQLITE: &str = "INSERT INTO revocations (id, space_id, connection_id, connector_id, \
     owner, label, generation, token_kind, token, sealed_in, reason, state, tries, next_try_at, created_at, updated_at) \
     SELECT e.value ->> 'r', x.space_id, x.id, x.connector_id, x.owner, x.label, x.generation, 'refresh', \
     x.refresh_token, 'connections', $2, 'queued', 0, $3, $3, $3 \
     FROM json_each($1) e JOIN connections x ON x.id = e.value ->> 'c' WHERE x.refresh_token IS NOT NULL";
pub(crate) const QUEUE_REFRESH_POSTGRES: &str = "INSERT INTO revocations (id, space_id, connection_id, connector_id, \
     owner, label, generation, token_kind, token, sealed_in, reason, state, tries, next_try_at, created_at, updated_at) \
     SELECT e.value ->> 'r', x.space_id, x.id, x.connector_id, x.owner, x.label, x.generation, 'refresh', \
     x.refresh_token, 'connections', $2, 'queued', 0, $3, $3, $3 \
     FROM json_array_elements(CAST($1 AS json)) e JOIN connections x ON x.id = e.value ->> 'c' \
     WHERE x.refresh_token IS NOT NULL";
pub(crate) const QUEUE_ACCESS_SQLITE: &str = "INSERT INTO revocations (id, space_id, connection_id, connector_id, \
     owner, label, generation, token_kind, token, sealed_in, reason, state, tries, next_try_at, created_at, updated_at) \
     SELECT e.value ->> 'a', x.space_id, x.id, x.connector_id, x.owner, x.label, x.generation, 'access', \
     x.access_token, 'connections', $2, 'queued', 0, $3, $3, $3 \
     FROM json_each($1) e JOIN connections x ON x.id = e.value ->> 'c' WHERE x.access_token IS NOT NULL";
pub(crate) const QUEUE_ACCESS_POSTGRES: &str = "INSERT INTO revocations (id, space_id, connection_id, connector_id, \
     owner, label, generation, token_kind, token, sealed_in, reason, state, tries, next_try_at, created_at, updated_at) \
     SELECT e.value ->> 'a', x.space_id, x.id, x.connector_id, x.owner, x.label, x.generation, 'access', \
     x.access_token, 'connections', $2, 'queued', 0, $3, $3, $3 \
     FROM json_array_elements(CAST($1 AS json)) e JOIN connections x ON x.id = e.value ->> 'c' \
     WHERE x.access_token IS NOT NULL";

pub(crate) const ERASE_TOKENS_SQLITE: &str = "UPDATE connections SET access_token = NULL, refresh_token = NULL, \
     access_fingerprint = NULL, expires_at = NULL, \
     status = CASE WHEN EXISTS (SELECT 1 FROM revocations r WHERE r.connection_id = connections.id \
     AND r.state = 'queued') THEN 'revoking' ELSE 'revoked' END \
     WHERE id IN (SELECT value ->> 'c' FROM json_each($1))";
pub(crate) const ERASE_TOKENS_POSTGRES: &str = "UPDATE connections SET access_token = NULL, refresh_token = NULL, \
     access_fingerprint = NULL, expires_at = NULL, \
     status = CASE WHEN EXISTS (SELECT 1 FROM revocations r WHERE r.connection_id = connections.id \
     AND r.state = 'queued') THEN 'revoking' ELSE 'revoked' END \
     WHERE id IN (SELECT value ->> 'c' FROM json_array_elements(CAST($1 AS json)))";

pub(crate) const DELETE_DUE_SQLITE: &str =
    "DELETE FROM due WHERE connection_id IN (SELECT value ->> 'c' FROM json_each($1))";
pub(crate) const DELETE_DUE_POSTGRES: &str =
    "DELETE FROM due WHERE connection_id IN (SELECT value ->> 'c' FROM json_array_elements(CAST($1 AS json)))";

pub(crate) const INSERT: &str = "INSERT INTO revocations (id, space_id, connection_id, connector_id, owner, label, \
     generation, token_kind, token, sealed_in, reason, state, tries, next_try_at, created_at, updated_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'queued', 0, $12, $12, $12) ON CONFLICT (id) DO NOTHING";

/// The access token waits for the refresh token of the same grant.
pub(crate) const CLAIM_SQLITE: &str = "UPDATE revocations SET next_try_at = $2, tries = tries + 1, updated_at = $1 \
     WHERE id IN (SELECT r.id FROM revocations r WHERE r.state = 'queued' AND r.next_try_at <= $1 \
     AND NOT (r.token_kind = 'access' AND EXISTS (SELECT 1 FROM revocations f WHERE f.connection_id = r.connection_id \
     AND f.generation = r.generation AND f.token_kind = 'refresh' AND f.state = 'queued')) \
     ORDER BY r.next_try_at LIMIT $3) \
     RETURNING id, space_id, connection_id, connector_id, owner, label, generation, token_kind, token, sealed_in, \
     reason, state, outcome, tries, next_try_at, created_at, updated_at";
pub(crate) const CLAIM_POSTGRES: &str = "UPDATE revocations SET next_try_at = $2, tries = tries + 1, updated_at = $1 \
     WHERE id IN (SELECT r.id FROM revocations r WHERE r.state = 'queued' AND r.next_try_at <= $1 \
     AND NOT (r.token_kind = 'access' AND EXISTS (SELECT 1 FROM revocations f WHERE f.connection_id = r.connection_id \
     AND f.generation = r.generation AND f.token_kind = 'refresh' AND f.state = 'queued')) \
     ORDER BY r.next_try_at LIMIT $3 FOR UPDATE SKIP LOCKED) \
     RETURNING id, space_id, connection_id, connector_id, owner, label, generation, token_kind, token, sealed_in, \
     reason, state, outcome, tries, next_try_at, created_at, updated_at";

/// Two revocations of one connection that end at once must see each other's end: the second waits here for the first.
pub(crate) const LOCK_CONNECTION: &str =
    "UPDATE connections SET updated_at = updated_at WHERE id = $1 AND status = 'revoking'";

pub(crate) const END: &str = "UPDATE revocations SET state = $2, outcome = $3, next_try_at = NULL, token = NULL, \
     updated_at = $4 WHERE id = $1 AND state = 'queued'";

pub(crate) const RETRY: &str =
    "UPDATE revocations SET outcome = $2, next_try_at = $3, updated_at = $4 WHERE id = $1 AND state = 'queued'";

pub(crate) const CONNECTION_OVER: &str = "UPDATE connections SET status = 'revoked', updated_at = $2 \
     WHERE id = $1 AND status = 'revoking' AND NOT EXISTS \
     (SELECT 1 FROM revocations r WHERE r.connection_id = $1 AND r.state = 'queued')";

pub(crate) const LIVE_OF_CONNECTOR: &str = "SELECT id FROM connections WHERE connector_id = $1 \
     AND status IN ('active', 'needs_reauth') ORDER BY id LIMIT $2";

#[cfg(test)]
pub(crate) const ALL: &[(&str, &str)] = &[
    ("revocations::INSERT", INSERT),
    ("revocations::LOCK_CONNECTION", LOCK_CONNECTION),
    ("revocations::END", END),
    ("revocations::RETRY", RETRY),
    ("revocations::CONNECTION_OVER", CONNECTION_OVER),
    ("revocations::LIVE_OF_CONNECTOR", LIVE_OF_CONNECTOR),
];

/// Statements with `json_each`, or without `SKIP LOCKED`.
#[cfg(test)]
pub(crate) const SQLITE: &[(&str, &str)] = &[
    ("revocations::BEGIN_SQLITE", BEGIN_SQLITE),
    ("revocations::QUEUE_REFRESH_SQLITE", QUEUE_REFRESH_SQLITE),
    ("revocations::QUEUE_ACCESS_SQLITE", QUEUE_ACCESS_SQLITE),
    ("revocations::ERASE_TOKENS_SQLITE", ERASE_TOKENS_SQLITE),
    ("revocations::DELETE_DUE_SQLITE", DELETE_DUE_SQLITE),
    ("revocations::CLAIM_SQLITE", CLAIM_SQLITE),
];
/// Statements with `json_array_elements`, or with `SKIP LOCKED`.
#[cfg(test)]
pub(crate) const POSTGRES: &[(&str, &str)] = &[
    ("revocations::BEGIN_POSTGRES", BEGIN_POSTGRES),
    ("revocations::QUEUE_REFRESH_POSTGRES", QUEUE_REFRESH_POSTGRES),
    ("revocations::QUEUE_ACCESS_POSTGRES", QUEUE_ACCESS_POSTGRES),
    ("revocations::ERASE_TOKENS_POSTGRES", ERASE_TOKENS_POSTGRES),
    ("revocations::DELETE_DUE_POSTGRES", DELETE_DUE_POSTGRES),
    ("revocations::CLAIM_POSTGRES", CLAIM_POSTGRES),
];
