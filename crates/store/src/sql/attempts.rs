//! Statements about attempts.

pub(crate) const FIND: &str = "SELECT connection_id, generation, id, state, send_no, holder, lease_until, next_try_at, \
     first_sent_at, fingerprint, outcome, created_at, updated_at FROM attempts \
     WHERE connection_id = $1 AND generation = $2";

/// The provider has answered, but for nobody: the generation is over.
pub(crate) const SETTLE_LATE: &str = "UPDATE attempts SET state = 'settled', outcome = 'late', lease_until = $3, updated_at = $3 \
     WHERE connection_id = $1 AND generation = $2";

/// Sent, the lease is over, nobody said how it ended.
pub(crate) const ABANDONED: &str = "SELECT a.connection_id, a.generation, a.id, a.state, a.send_no, a.holder, \
     a.lease_until, a.next_try_at, a.first_sent_at, a.fingerprint, a.outcome, a.created_at, a.updated_at \
     FROM attempts a JOIN connections x ON x.id = a.connection_id AND x.generation = a.generation \
     WHERE a.state = 'sent' AND a.lease_until <= $1 AND a.updated_at > $2 ORDER BY a.updated_at LIMIT $3";

pub(crate) const RESOLVE: &str = "UPDATE attempts SET state = $4, outcome = $5, next_try_at = $6, updated_at = $7 \
     WHERE connection_id = $1 AND generation = $2 AND state = 'sent' AND send_no = $3 AND lease_until <= $7";

/// The holder of an attempt that others have stopped says that nothing was sent.
pub(crate) const TAKE_BACK_STOP: &str = "UPDATE attempts SET state = 'unsent', outcome = $4, next_try_at = $5, \
     lease_until = $6, updated_at = $6 \
     WHERE connection_id = $1 AND generation = $2 AND holder = $3 AND state = 'stopped'";

/// The same of the grant that was stopped with it.
pub(crate) const TAKE_BACK_DEATH: &str = "UPDATE connections SET status = 'active', reauth_reason = NULL, \
     reauth_since = NULL, refresh_due_at = $3, last_outcome = $4, last_attempt_at = $5, updated_at = $5 \
     WHERE id = $1 AND generation = $2 AND status = 'needs_reauth' AND reauth_reason = $6";

#[cfg(test)]
pub(crate) const ALL: &[(&str, &str)] = &[
    ("attempts::FIND", FIND),
    ("attempts::SETTLE_LATE", SETTLE_LATE),
    ("attempts::ABANDONED", ABANDONED),
    ("attempts::RESOLVE", RESOLVE),
    ("attempts::TAKE_BACK_STOP", TAKE_BACK_STOP),
    ("attempts::TAKE_BACK_DEATH", TAKE_BACK_DEATH),
];
