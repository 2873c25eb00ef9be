//! Statements about flows.

/// The columns of a flow without what is sealed.
macro_rules! columns {
    () => {
        "id, space_id, connector_id, started_by, owner, actor, user_display, label, mode, return_url, origin, scopes, \
         login_hint, binding_challenge, allow_account_change, status, failure, connection_id, browser_hash, \
         handle_hash, handle_expires_at, confirm_hash, created_at, expires_at"
    };
}

pub(crate) const COUNT_OPEN: &str = "SELECT \
     (SELECT CAST(COUNT(*) AS BIGINT) FROM flows WHERE started_by = $1 AND expires_at > $4 AND ended_at IS NULL), \
     (SELECT CAST(COUNT(*) AS BIGINT) FROM flows WHERE space_id = $2 AND owner = $3 AND expires_at > $4 AND ended_at IS NULL), \
     (SELECT CAST(COUNT(*) AS BIGINT) FROM flows WHERE expires_at > $4 AND ended_at IS NULL)";

pub(crate) const INSERT: &str = "INSERT INTO flows (id, space_id, connector_id, started_by, owner, actor, user_display, \
     label, mode, return_url, origin, scopes, login_hint, binding_challenge, allow_account_change, status, \
     ticket_hash, created_at, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 'pending', $16, $17, $18)";

pub(crate) const FIND: &str = concat!("SELECT ", columns!(), " FROM flows WHERE id = $1");
pub(crate) const FIND_BY_TICKET: &str = concat!("SELECT ", columns!(), " FROM flows WHERE ticket_hash = $1");
pub(crate) const FIND_BY_STATE: &str = concat!("SELECT ", columns!(), " FROM flows WHERE state_hash = $1");

/// The first browser is bound; the bound one may come again; another changes nothing.
pub(crate) const BIND: &str = "UPDATE flows SET browser_hash = $2, state_hash = $3, verifier = $4, nonce = $5 \
     WHERE id = $1 AND status = 'pending' AND expires_at > $6 AND (browser_hash IS NULL OR browser_hash = $7)";

/// Consumes the state: of many callbacks at once, one changes the row. The hash stays, so that a reload is told that
/// the answer was used already.
pub(crate) const ACCEPT_CALLBACK: &str = "UPDATE flows SET status = $3, code = $4, kept = $5, handle_hash = $6, \
     handle_expires_at = $7, confirm_hash = $8 \
     WHERE id = $1 AND state_hash = $2 AND status = 'pending' AND expires_at > $9";

pub(crate) const FAIL: &str = "UPDATE flows SET status = 'failed', failure = $3, ended_at = $4, \
     verifier = NULL, nonce = NULL, code = NULL, confirm_hash = NULL WHERE id = $1 AND status = $2";

pub(crate) const BEGIN_FINISH: &str = "UPDATE flows SET status = 'finishing', lease_until = $4, confirm_hash = NULL \
     WHERE id = $1 AND status = $2 AND expires_at > $3 AND handle_hash = $5 AND handle_expires_at > $3 \
     RETURNING code, verifier, nonce, kept";

pub(crate) const BEGIN_CONFIRM: &str = "UPDATE flows SET status = 'finishing', lease_until = $4, confirm_hash = NULL \
     WHERE id = $1 AND status = $2 AND expires_at > $3 AND confirm_hash = $5 \
     RETURNING code, verifier, nonce, kept";

pub(crate) const CONNECTED: &str = "UPDATE flows SET status = 'connected', connection_id = $2, ended_at = $3, \
     verifier = NULL, nonce = NULL, code = NULL WHERE id = $1 AND status = 'finishing'";

pub(crate) const CANCEL: &str = "UPDATE flows SET status = 'cancelled', ended_at = $2, \
     verifier = NULL, nonce = NULL, code = NULL, handle_hash = NULL, confirm_hash = NULL \
     WHERE id = $1 AND status IN ('pending', 'awaiting_confirm', 'awaiting_finish') AND expires_at > $2";

/// The process that redeemed the code is gone.
pub(crate) const INTERRUPTED: &str = "UPDATE flows SET status = 'failed', failure = 'interrupted', ended_at = $1, \
     verifier = NULL, nonce = NULL, code = NULL WHERE status = 'finishing' AND lease_until <= $1 AND expires_at > $2";

#[cfg(test)]
pub(crate) const ALL: &[(&str, &str)] = &[
    ("flows::COUNT_OPEN", COUNT_OPEN),
    ("flows::INSERT", INSERT),
    ("flows::FIND", FIND),
    ("flows::FIND_BY_TICKET", FIND_BY_TICKET),
    ("flows::FIND_BY_STATE", FIND_BY_STATE),
    ("flows::BIND", BIND),
    ("flows::ACCEPT_CALLBACK", ACCEPT_CALLBACK),
    ("flows::FAIL", FAIL),
    ("flows::BEGIN_FINISH", BEGIN_FINISH),
    ("flows::BEGIN_CONFIRM", BEGIN_CONFIRM),
    ("flows::CONNECTED", CONNECTED),
    ("flows::CANCEL", CANCEL),
    ("flows::INTERRUPTED", INTERRUPTED),
];
