//! Statements about attempts.

/// The one way to an attempt: a new row for this generation, or the next send of one that may be repeated.
pub(crate) const RECORD: &str = "INSERT INTO attempts (connection_id, generation, id, state, send_no, holder, \
     lease_until, next_try_at, first_sent_at, fingerprint, created_at, updated_at) \
     SELECT x.id, x.generation, $3, $4, 1, $5, $6, 0, $7, $8, $9, $9 FROM connections x \
     WHERE x.id = $1 AND x.generation = $2 AND x.status = 'active' \
     ON CONFLICT (connection_id, generation) DO UPDATE SET send_no = attempts.send_no + 1, state = excluded.state, \
     holder = excluded.holder, lease_until = excluded.lease_until, updated_at = excluded.updated_at, \
     first_sent_at = COALESCE(attempts.first_sent_at, excluded.first_sent_at) \
     WHERE attempts.state IN ('unsent', 'repeat_allowed') AND attempts.lease_until <= excluded.updated_at \
     AND attempts.next_try_at <= excluded.updated_at \
     RETURNING send_no, id, first_sent_at";

pub(crate) const MARK_SENT: &str = "UPDATE attempts SET state = 'sent', \
     first_sent_at = COALESCE(first_sent_at, $4), updated_at = $4 \
     WHERE connection_id = $1 AND generation = $2 AND holder = $3 AND state = 'unsent'";

pub(crate) const FIND: &str = "SELECT connection_id, generation, id, state, send_no, holder, lease_until, next_try_at, \
     first_sent_at, fingerprint, outcome, created_at, updated_at FROM attempts \
     WHERE connection_id = $1 AND generation = $2";

/// Whoever holds the attempt ends this send of it; a holder whose lease was taken over changes nothing.
pub(crate) const END: &str = "UPDATE attempts SET state = $4, outcome = $5, lease_until = $6, next_try_at = $7, \
     updated_at = $8 WHERE connection_id = $1 AND generation = $2 AND holder = $3 AND state IN ('unsent', 'sent')";

/// A settle wins over everything else: the provider has answered.
pub(crate) const SETTLE: &str = "UPDATE attempts SET state = 'settled', outcome = $3, lease_until = $4, updated_at = $4 \
     WHERE connection_id = $1 AND generation = $2";

/// Sent, the lease is over, nobody said how it ended.
pub(crate) const ABANDONED: &str = "SELECT a.connection_id, a.generation, a.id, a.state, a.send_no, a.holder, \
     a.lease_until, a.next_try_at, a.first_sent_at, a.fingerprint, a.outcome, a.created_at, a.updated_at \
     FROM attempts a JOIN connections x ON x.id = a.connection_id AND x.generation = a.generation \
     WHERE a.state = 'sent' AND a.lease_until <= $1 AND a.updated_at > $2 ORDER BY a.updated_at LIMIT $3";

pub(crate) const RESOLVE: &str = "UPDATE attempts SET state = $4, outcome = $5, next_try_at = $6, updated_at = $7 \
     WHERE connection_id = $1 AND generation = $2 AND state = 'sent' AND send_no = $3 AND lease_until <= $7";

#[cfg(test)]
pub(crate) const ALL: &[(&str, &str)] = &[
    ("attempts::RECORD", RECORD),
    ("attempts::MARK_SENT", MARK_SENT),
    ("attempts::FIND", FIND),
    ("attempts::END", END),
    ("attempts::SETTLE", SETTLE),
    ("attempts::ABANDONED", ABANDONED),
    ("attempts::RESOLVE", RESOLVE),
];
