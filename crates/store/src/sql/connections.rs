//! Statements about connections and their due points.

/// The columns of a connection without its tokens; the connection is `x`.
macro_rules! columns {
    () => {
        "x.id, x.space_id, x.connector_id, x.provider, x.owner, x.label, x.status, x.reauth_reason, x.reauth_since, \
         x.requested_scopes, x.granted_scopes, x.account_issuer, x.account_subject, x.account_name, x.generation, \
         x.token_type, x.refresh_token IS NOT NULL AS has_refresh_token, x.access_fingerprint, x.issued_at, \
         x.expires_at, x.refresh_expires_at, x.reconnect_by, x.refresh_due_at, x.refreshing, x.last_outcome, \
         x.last_attempt_at, x.rejected_at, x.weakly_bound, x.created_at, x.updated_at"
    };
}
pub(crate) use columns;

/// What a token call reads: the connection, and the revision that says whether key and connector are still what this
/// process has in memory.
pub(crate) const ACCESS: &str = "SELECT r.revision, x.id, x.status, x.reauth_reason, x.reauth_since, \
     x.requested_scopes, x.granted_scopes, x.generation, x.token_type, x.access_token, \
     x.refresh_token IS NOT NULL AS has_refresh_token, x.access_fingerprint, x.issued_at, x.expires_at, \
     x.refresh_due_at, x.refreshing, x.rejected_at, x.created_at, x.updated_at \
     FROM revisions r LEFT JOIN connections x ON x.connector_id = $1 AND x.owner = $2 AND x.label = $3 \
     WHERE r.name = 'access'";

/// Key or connector changed: every process reads them anew.
pub(crate) const NEXT_REVISION: &str = "UPDATE revisions SET revision = revision + 1 WHERE name = 'access'";

pub(crate) const FIND_AT: &str = concat!(
    "SELECT x.access_token, u.last_used_at, ",
    columns!(),
    " FROM connections x LEFT JOIN connection_usage u ON u.connection_id = x.id \
     WHERE x.connector_id = $1 AND x.owner = $2 AND x.label = $3 AND x.space_id = $4"
);

pub(crate) const FIND: &str = concat!(
    "SELECT x.access_token, u.last_used_at, ",
    columns!(),
    " FROM connections x LEFT JOIN connection_usage u ON u.connection_id = x.id WHERE x.id = $1"
);

pub(crate) const REFRESH_TOKEN: &str = "SELECT refresh_token FROM connections WHERE id = $1 AND generation = $2";

pub(crate) const EXISTING: &str = "SELECT id, generation, status, refresh_token, account_issuer, account_subject, \
     created_at FROM connections WHERE connector_id = $1 AND owner = $2 AND label = $3";

pub(crate) const INSERT: &str = "INSERT INTO connections (id, space_id, connector_id, provider, owner, label, status, \
     requested_scopes, granted_scopes, account_issuer, account_subject, account_name, generation, token_type, \
     access_token, refresh_token, access_fingerprint, issued_at, expires_at, refresh_expires_at, reconnect_by, \
     refresh_due_at, refreshing, weakly_bound, created_at, updated_at) \
     VALUES ($1, $2, $3, $4, $5, $6, 'active', $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, \
     'ok', $22, $23, $23) ON CONFLICT (connector_id, owner, label) DO NOTHING";

pub(crate) const MAKE_EMPTY: &str = "INSERT INTO connections (id, space_id, connector_id, provider, owner, label, \
     status, requested_scopes, granted_scopes, generation, token_type, issued_at, refreshing, weakly_bound, \
     created_at, updated_at) VALUES ($1, $2, $3, $4, $5, '', 'active', $6, $6, 0, 'Bearer', $7, 'ok', FALSE, $7, $7) \
     ON CONFLICT (connector_id, owner, label) DO UPDATE SET status = 'active', generation = connections.generation + 1, \
     updated_at = excluded.updated_at WHERE connections.status IN ('revoking', 'revoked')";

pub(crate) const REPLACE: &str = "UPDATE connections SET status = 'active', reauth_reason = NULL, reauth_since = NULL, \
     requested_scopes = $3, granted_scopes = $4, account_issuer = $5, account_subject = $6, account_name = $7, \
     generation = generation + 1, token_type = $8, access_token = $9, refresh_token = $10, access_fingerprint = $11, \
     issued_at = $12, expires_at = $13, refresh_expires_at = $14, reconnect_by = $15, refresh_due_at = $16, \
     refreshing = 'ok', rejected_at = NULL, weakly_bound = $17, updated_at = $18 \
     WHERE id = $1 AND generation = $2";

pub(crate) const MARK_DEAD: &str = "UPDATE connections SET status = 'needs_reauth', reauth_reason = $3, \
     reauth_since = $4, refresh_due_at = NULL, refreshing = 'failing', last_outcome = $5, last_attempt_at = $4, \
     updated_at = $4 WHERE id = $1 AND generation = $2 AND status = 'active'";

pub(crate) const CLAIM_REJECTED: &str = "UPDATE connections SET rejected_at = $3 WHERE id = $1 AND generation = $2 \
     AND status = 'active' AND (rejected_at IS NULL OR rejected_at <= $4)";

pub(crate) const SET_DUE_POINT: &str =
    "UPDATE connections SET refresh_due_at = $3 WHERE id = $1 AND generation = $2 AND status = 'active'";

pub(crate) const PUT_DUE: &str = "INSERT INTO due (connection_id, due_at) VALUES ($1, $2) \
     ON CONFLICT (connection_id) DO UPDATE SET due_at = excluded.due_at";

/// What was claimed, unless it was given another due point since.
pub(crate) const DROP_DUE: &str = "DELETE FROM due WHERE connection_id = $1 AND due_at = $2";

pub(crate) const DELETE_DUE: &str = "DELETE FROM due WHERE connection_id = $1";

pub(crate) const CLAIM_DUE_SQLITE: &str = "UPDATE due SET due_at = $2 WHERE connection_id IN \
     (SELECT connection_id FROM due WHERE due_at <= $1 ORDER BY due_at LIMIT $3) RETURNING connection_id";

pub(crate) const CLAIM_DUE_POSTGRES: &str = "UPDATE due SET due_at = $2 WHERE connection_id IN \
     (SELECT connection_id FROM due WHERE due_at <= $1 ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED) \
     RETURNING connection_id";

/// Live connections of the same client and account, or of the same client and owner where no account is known.
pub(crate) const COUNT_SIBLINGS: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM connections x \
     JOIN connectors c ON c.id = x.connector_id \
     WHERE c.client_id = $1 AND c.provider = $2 AND x.id <> $3 AND x.status IN ('active', 'needs_reauth') \
     AND x.account_issuer = $4 AND x.account_subject = $5";

pub(crate) const COUNT_SIBLINGS_OF_OWNER: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM connections x \
     JOIN connectors c ON c.id = x.connector_id \
     WHERE c.client_id = $1 AND c.provider = $2 AND x.id <> $3 AND x.status IN ('active', 'needs_reauth') \
     AND x.space_id = $4 AND x.owner = $5";

#[cfg(test)]
pub(crate) const ALL: &[(&str, &str)] = &[
    ("connections::ACCESS", ACCESS),
    ("connections::NEXT_REVISION", NEXT_REVISION),
    ("connections::FIND_AT", FIND_AT),
    ("connections::FIND", FIND),
    ("connections::REFRESH_TOKEN", REFRESH_TOKEN),
    ("connections::EXISTING", EXISTING),
    ("connections::INSERT", INSERT),
    ("connections::MAKE_EMPTY", MAKE_EMPTY),
    ("connections::REPLACE", REPLACE),
    ("connections::MARK_DEAD", MARK_DEAD),
    ("connections::CLAIM_REJECTED", CLAIM_REJECTED),
    ("connections::SET_DUE_POINT", SET_DUE_POINT),
    ("connections::PUT_DUE", PUT_DUE),
    ("connections::DROP_DUE", DROP_DUE),
    ("connections::DELETE_DUE", DELETE_DUE),
    ("connections::COUNT_SIBLINGS", COUNT_SIBLINGS),
    ("connections::COUNT_SIBLINGS_OF_OWNER", COUNT_SIBLINGS_OF_OWNER),
];

/// `SKIP LOCKED` exists on one engine only.
#[cfg(test)]
pub(crate) const SQLITE: &[(&str, &str)] = &[("connections::CLAIM_DUE_SQLITE", CLAIM_DUE_SQLITE)];
/// `SKIP LOCKED` exists on one engine only.
#[cfg(test)]
pub(crate) const POSTGRES: &[(&str, &str)] = &[("connections::CLAIM_DUE_POSTGRES", CLAIM_DUE_POSTGRES)];
