//! Statements that carry many rows: $1 is a JSON array with one object, or one array, for each.
//!
//! A row whose condition does not hold is left out of `RETURNING` and hinders no other. No statement may name one
//! connection twice. `status || substr(…, 1, 0)` is the status, and so with a state: tied to the row of $1 it cannot be
//! looked for on its own, and a planner without statistics does not begin with the few rows that it believes to have it,
//! but looks each up by its key.

use super::{admin::statements, connections::columns};

/// The one way to an attempt: a new row for this generation, or the next send of one that may be repeated. A hold that
/// is in force keeps it back, unless presenting the token twice would harm nothing.
macro_rules! record {
    ($rows:literal) => {
        concat!(
            "INSERT INTO attempts (connection_id, generation, id, state, send_no, holder, lease_until, next_try_at,
                    first_sent_at, fingerprint, created_at, updated_at)
             SELECT x.id, x.generation, e.value ->> 'id', e.value ->> 'state', 1, e.value ->> 'holder',
                    CAST(e.value ->> 'lease_until' AS BIGINT), 0, CAST(e.value ->> 'sent_at' AS BIGINT),
                    e.value ->> 'fingerprint', CAST(e.value ->> 'now' AS BIGINT), CAST(e.value ->> 'now' AS BIGINT)
             FROM ",
            $rows,
            " AS e JOIN connections x ON x.id = e.value ->> 'connection'
             WHERE x.generation = CAST(e.value ->> 'generation' AS BIGINT)
               AND x.status || substr(e.value ->> 'id', 1, 0) = 'active'
               AND (CAST(e.value ->> 'despite_hold' AS BIGINT) = 1
                    OR NOT EXISTS (SELECT 1 FROM guard g WHERE g.held_since IS NOT NULL))
             ON CONFLICT (connection_id, generation) DO UPDATE SET send_no = attempts.send_no + 1,
                    state = excluded.state, holder = excluded.holder, lease_until = excluded.lease_until,
                    updated_at = excluded.updated_at,
                    first_sent_at = CASE WHEN attempts.state = 'unsent' THEN excluded.first_sent_at
                        ELSE COALESCE(attempts.first_sent_at, excluded.first_sent_at) END
             WHERE attempts.state IN ('unsent', 'repeat_allowed') AND attempts.lease_until <= excluded.updated_at
               AND attempts.next_try_at <= excluded.updated_at
             RETURNING connection_id, send_no, id, first_sent_at"
        )
    };
}

macro_rules! mark_sent {
    ($rows:literal) => {
        concat!(
            "UPDATE attempts SET state = 'sent', first_sent_at = COALESCE(first_sent_at, r.now), updated_at = r.now
             FROM (SELECT e.value ->> 'connection' AS connection, CAST(e.value ->> 'generation' AS BIGINT) AS seen,
                    e.value ->> 'holder' AS by_holder, CAST(e.value ->> 'now' AS BIGINT) AS now FROM ",
            $rows,
            " AS e) AS r
             WHERE connection_id = r.connection AND generation = r.seen AND holder = r.by_holder
               AND state || substr(r.connection, 1, 0) = 'unsent'
             RETURNING connection_id"
        )
    };
}

/// Whoever holds the attempt ends this send of it; a holder whose lease was taken over changes nothing.
macro_rules! end {
    ($rows:literal) => {
        concat!(
            "UPDATE attempts SET state = r.new_state, outcome = r.new_outcome, lease_until = r.now,
                    next_try_at = r.new_try_at, updated_at = r.now
             FROM (SELECT e.value ->> 'connection' AS connection, CAST(e.value ->> 'generation' AS BIGINT) AS seen,
                    e.value ->> 'holder' AS by_holder, e.value ->> 'state' AS new_state,
                    e.value ->> 'outcome' AS new_outcome, CAST(e.value ->> 'next_try_at' AS BIGINT) AS new_try_at,
                    CAST(e.value ->> 'now' AS BIGINT) AS now FROM ",
            $rows,
            " AS e) AS r
             WHERE connection_id = r.connection AND generation = r.seen AND holder = r.by_holder
               AND state || substr(r.connection, 1, 0) IN ('unsent', 'sent')
             RETURNING connection_id"
        )
    };
}

/// A late answer brings `needs_reauth` back; a revoked connection stays revoked. Tokens are sealed, and in hexadecimal
/// digits.
macro_rules! settle {
    ($rows:literal, $access:literal, $refresh:literal) => {
        concat!(
            "UPDATE connections SET status = 'active', reauth_reason = NULL, reauth_since = NULL,
                    granted_scopes = r.new_scopes, generation = generation + 1, token_type = r.new_type,
                    access_token = r.new_access, refresh_token = r.new_refresh, access_fingerprint = r.new_fingerprint,
                    issued_at = r.new_issued_at, expires_at = r.new_expires_at,
                    refresh_expires_at = r.new_refresh_expires_at, refresh_due_at = r.new_due_at, refreshing = 'ok',
                    last_outcome = 'settled', last_attempt_at = r.now, updated_at = r.now
             FROM (SELECT e.value ->> 'connection' AS connection, CAST(e.value ->> 'generation' AS BIGINT) AS seen,
                    e.value ->> 'scopes' AS new_scopes, e.value ->> 'token_type' AS new_type, ",
            $access,
            " AS new_access, ",
            $refresh,
            " AS new_refresh, e.value ->> 'fingerprint' AS new_fingerprint,
                    CAST(e.value ->> 'issued_at' AS BIGINT) AS new_issued_at,
                    CAST(e.value ->> 'expires_at' AS BIGINT) AS new_expires_at,
                    CAST(e.value ->> 'refresh_expires_at' AS BIGINT) AS new_refresh_expires_at,
                    CAST(e.value ->> 'due_at' AS BIGINT) AS new_due_at, CAST(e.value ->> 'now' AS BIGINT) AS now FROM ",
            $rows,
            " AS e) AS r
             WHERE id = r.connection AND generation = r.seen
               AND status || substr(r.connection, 1, 0) IN ('active', 'needs_reauth') RETURNING id"
        )
    };
}

/// A settle wins over everything else: the provider has answered. Rows are connection, generation, now.
macro_rules! settle_attempts {
    ($rows:literal) => {
        concat!(
            "UPDATE attempts SET state = 'settled', outcome = 'settled', lease_until = r.now, updated_at = r.now
             FROM (SELECT e.value ->> 0 AS connection, CAST(e.value ->> 1 AS BIGINT) AS seen,
                    CAST(e.value ->> 2 AS BIGINT) AS now FROM ",
            $rows,
            " AS e) AS r WHERE connection_id = r.connection AND generation = r.seen"
        )
    };
}

macro_rules! mark_failing {
    ($rows:literal) => {
        concat!(
            "UPDATE connections SET refreshing = 'failing', last_outcome = r.outcome, last_attempt_at = r.now,
                    updated_at = r.now
             FROM (SELECT e.value ->> 'connection' AS connection, CAST(e.value ->> 'generation' AS BIGINT) AS seen,
                    e.value ->> 'outcome' AS outcome, CAST(e.value ->> 'now' AS BIGINT) AS now FROM ",
            $rows,
            " AS e) AS r WHERE id = r.connection AND generation = r.seen
               AND status || substr(r.connection, 1, 0) = 'active' RETURNING id"
        )
    };
}

/// Rows are connection, due point.
macro_rules! put_due {
    ($rows:literal) => {
        concat!(
            "INSERT INTO due (connection_id, due_at) SELECT e.value ->> 0, CAST(e.value ->> 1 AS BIGINT) FROM ",
            $rows,
            " AS e WHERE true ON CONFLICT (connection_id) DO UPDATE SET due_at = excluded.due_at"
        )
    };
}

macro_rules! delete_due {
    ($rows:literal) => {
        concat!("DELETE FROM due WHERE connection_id IN (SELECT e.value ->> 0 FROM ", $rows, " AS e)")
    };
}

/// Everything a refresh works with, but connector and secrets: these are kept under the revision. Rows are texts.
macro_rules! to_refresh {
    ($rows:literal) => {
        concat!(
            "SELECT v.revision, i.code AS circuit_code, i.failures AS circuit_failures,
                    i.opened_at AS circuit_opened_at, i.next_probe_at AS circuit_next_probe_at,
                    x.refresh_token, u.last_used_at, ",
            columns!(),
            " FROM ",
            $rows,
            " AS e JOIN connections x ON x.id = e.value ->> 0
             LEFT JOIN connection_usage u ON u.connection_id = x.id
             LEFT JOIN circuits i ON i.connector_id = x.connector_id
             JOIN revisions v ON v.name = 'access'"
        )
    };
}

statements! { "groups"
    both {
        /// Whether a settle whose commit was in doubt took place.
        FIND_SETTLED = "SELECT generation, access_fingerprint FROM connections WHERE id = $1";
    }
    sqlite {
        RECORD_SQLITE = record!("json_each($1)");
        MARK_SENT_SQLITE = mark_sent!("json_each($1)");
        END_SQLITE = end!("json_each($1)");
        SETTLE_SQLITE = settle!("json_each($1)", "unhex(e.value ->> 'access')", "unhex(e.value ->> 'refresh')");
        SETTLE_ATTEMPTS_SQLITE = settle_attempts!("json_each($1)");
        MARK_FAILING_SQLITE = mark_failing!("json_each($1)");
        PUT_DUE_SQLITE = put_due!("json_each($1)");
        DELETE_DUE_SQLITE = delete_due!("json_each($1)");
        TO_REFRESH_SQLITE = to_refresh!("json_each($1)");
    }
    postgres {
        RECORD_POSTGRES = record!("jsonb_array_elements(CAST($1 AS JSONB))");
        MARK_SENT_POSTGRES = mark_sent!("jsonb_array_elements(CAST($1 AS JSONB))");
        END_POSTGRES = end!("jsonb_array_elements(CAST($1 AS JSONB))");
        SETTLE_POSTGRES = settle!(
            "jsonb_array_elements(CAST($1 AS JSONB))",
            "decode(e.value ->> 'access', 'hex')",
            "decode(e.value ->> 'refresh', 'hex')"
        );
        SETTLE_ATTEMPTS_POSTGRES = settle_attempts!("jsonb_array_elements(CAST($1 AS JSONB))");
        MARK_FAILING_POSTGRES = mark_failing!("jsonb_array_elements(CAST($1 AS JSONB))");
        PUT_DUE_POSTGRES = put_due!("jsonb_array_elements(CAST($1 AS JSONB))");
        DELETE_DUE_POSTGRES = delete_due!("jsonb_array_elements(CAST($1 AS JSONB))");
        TO_REFRESH_POSTGRES = to_refresh!("jsonb_array_elements(CAST($1 AS JSONB))");
    }
}
