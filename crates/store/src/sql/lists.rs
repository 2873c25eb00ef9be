//! Statements of lists, counts, plans and the purge.

use super::{admin::statements, connections::columns};

/// Which connections of a space: $1 space, $2 ids of the connectors that exist for the caller in one text (an id is in
/// it if taking the id out changes it), $3 connector, $4 owner, $5 status, $6 provider, $7 label, $8 reason.
macro_rules! filter {
    ($owner:literal) => {
        concat!(
            "x.space_id = $1 AND (CAST($2 AS TEXT) IS NULL OR replace($2, x.connector_id, '') <> $2)
             AND (CAST($3 AS TEXT) IS NULL OR x.connector_id = $3) AND ",
            $owner,
            " AND (CAST($5 AS TEXT) IS NULL OR x.status = $5) AND (CAST($6 AS TEXT) IS NULL OR x.provider = $6)
             AND (CAST($7 AS TEXT) IS NULL OR x.label = $7) AND (CAST($8 AS TEXT) IS NULL OR x.reauth_reason = $8)"
        )
    };
}

/// Any owner, or the given one.
macro_rules! filter_any {
    () => {
        filter!("(CAST($4 AS TEXT) IS NULL OR x.owner = $4)")
    };
}

/// The given owner, so that the index by owner serves on SQLite too, which plans without knowing the values.
macro_rules! filter_owner {
    () => {
        filter!("x.owner = $4")
    };
}

macro_rules! list_connections {
    ($matches:expr) => {
        concat!(
            "SELECT u.last_used_at, d.due_at AS next_try_at, ",
            columns!(),
            " FROM connections x LEFT JOIN connection_usage u ON u.connection_id = x.id
              LEFT JOIN due d ON d.connection_id = x.id WHERE ",
            $matches,
            " AND (CAST($9 AS TEXT) IS NULL OR x.id > $9) ORDER BY x.id LIMIT $10"
        )
    };
}

macro_rules! count_connections {
    ($matches:expr) => {
        concat!("SELECT CAST(COUNT(*) AS BIGINT) FROM connections x WHERE ", $matches)
    };
}

macro_rules! insert_members {
    ($matches:expr) => {
        concat!(
            "INSERT INTO revoke_plan_members (plan_id, connection_id) SELECT $9, x.id FROM connections x WHERE ",
            $matches,
            " AND x.status IN ('active', 'needs_reauth')"
        )
    };
}

macro_rules! count_growth {
    ($matches:expr) => {
        concat!(
            "SELECT CAST(COUNT(*) AS BIGINT) FROM connections x WHERE ",
            $matches,
            " AND x.status IN ('active', 'needs_reauth') AND NOT EXISTS
              (SELECT 1 FROM revoke_plan_members m WHERE m.plan_id = $9 AND m.connection_id = x.id)"
        )
    };
}

/// Ended for so long. The second bound is one of the index: a flow ends within its life, or shortly after.
macro_rules! old_flows {
    () => {
        "expires_at < $1 AND ended_at < $1"
    };
}

macro_rules! lapsed_flows {
    () => {
        "expires_at <= $1 AND status IN ('pending', 'awaiting_confirm', 'awaiting_finish')"
    };
}

/// $2: no id made at or after $1 sorts before it, so that the primary key bounds the search.
macro_rules! old_revoked {
    () => {
        "x.status = 'revoked' AND x.updated_at < $1 AND x.id < $2
         AND NOT EXISTS (SELECT 1 FROM revocations r WHERE r.connection_id = x.id AND r.state = 'queued')"
    };
}

/// The row of the current generation stays: without it, the refresh token could be presented a second time.
macro_rules! old_attempts {
    () => {
        "a.updated_at < $1 AND NOT EXISTS
         (SELECT 1 FROM connections x WHERE x.id = a.connection_id AND x.generation = a.generation)"
    };
}

macro_rules! old_audit {
    () => {
        "at < $1 AND id < $2"
    };
}

macro_rules! old_revocations {
    () => {
        "state <> 'queued' AND updated_at < $1 AND id < $2"
    };
}

macro_rules! count {
    ($from:literal, $matches:expr) => {
        concat!("SELECT CAST(COUNT(*) AS BIGINT) FROM ", $from, " WHERE ", $matches)
    };
}

/// What hangs on purged connections; the ids come as a JSON array of texts.
macro_rules! delete_of_connections {
    ($table:literal, $ids:literal) => {
        concat!("DELETE FROM ", $table, " WHERE connection_id IN (SELECT e.value ", $ids, " AS e)")
    };
}

statements! {
    "lists"
    both {
        LIST_CONNECTIONS = list_connections!(filter_any!());
        LIST_CONNECTIONS_OF_OWNER = list_connections!(filter_owner!());
        COUNT_CONNECTIONS = count_connections!(filter_any!());
        COUNT_CONNECTIONS_OF_OWNER = count_connections!(filter_owner!());
        FIND_CONNECTION = concat!(
            "SELECT u.last_used_at, d.due_at AS next_try_at, ", columns!(),
            " FROM connections x LEFT JOIN connection_usage u ON u.connection_id = x.id
             LEFT JOIN due d ON d.connection_id = x.id
             WHERE x.space_id = $1 AND x.id = $2"
        );
        CONNECTION_COUNTS = "SELECT provider, status, CAST(COUNT(*) AS BIGINT) FROM connections
            GROUP BY provider, status ORDER BY provider, status";
        LIST_REVOCATIONS = "SELECT id, space_id, connection_id, connector_id, token_kind, reason, state, outcome, tries,
                next_try_at, created_at, updated_at
            FROM revocations
            WHERE space_id = $1 AND (CAST($2 AS TEXT) IS NULL OR state = $2)
              AND (CAST($3 AS TEXT) IS NULL OR connector_id = $3) AND (CAST($4 AS TEXT) IS NULL OR connection_id = $4)
              AND (CAST($5 AS TEXT) IS NULL OR id > $5)
              AND (CAST($6 AS TEXT) IS NULL OR replace($6, connector_id, '') <> $6)
            ORDER BY id LIMIT $7";
        REVOCATION_COUNTS = "SELECT state, CAST(COUNT(*) AS BIGINT) FROM revocations GROUP BY state ORDER BY state";
        DUE_COUNTS = "SELECT CAST(COUNT(*) AS BIGINT) AS due,
                CAST(COUNT(*) FILTER (WHERE due_at <= $2) AS BIGINT) AS overdue, MIN(due_at) AS oldest
            FROM due WHERE due_at <= $1";

        INSERT_PLAN = "INSERT INTO revoke_plans (id, space_id, filter, planned, created_at, expires_at)
            VALUES ($1, $2, $3, $4, $5, $6)";
        INSERT_MEMBERS = insert_members!(filter_any!());
        INSERT_MEMBERS_OF_OWNER = insert_members!(filter_owner!());
        FIND_PLAN = "SELECT id, space_id, filter, planned, expires_at FROM revoke_plans WHERE space_id = $1 AND id = $2";
        PLAN_PROVIDERS = "SELECT x.provider, CAST(COUNT(*) AS BIGINT)
            FROM revoke_plan_members m JOIN connections x ON x.id = m.connection_id
            WHERE m.plan_id = $1 GROUP BY x.provider ORDER BY x.provider";
        PLAN_SAMPLE = "SELECT connection_id FROM revoke_plan_members WHERE plan_id = $1 ORDER BY connection_id LIMIT $2";
        PLAN_GROWTH = count_growth!(filter_any!());
        PLAN_GROWTH_OF_OWNER = count_growth!(filter_owner!());
        TAKE_PLAN = "UPDATE revoke_plans SET used_at = $2 WHERE id = $1 AND used_at IS NULL AND expires_at > $2";
        PLAN_MEMBERS = "SELECT connection_id FROM revoke_plan_members WHERE plan_id = $1 ORDER BY connection_id";

        COUNT_OLD_FLOWS = count!("flows", old_flows!());
        PURGE_FLOWS = concat!(
            "DELETE FROM flows WHERE id IN (SELECT id FROM flows WHERE ", old_flows!(), " LIMIT $2)"
        );
        COUNT_LAPSED_FLOWS = count!("flows", lapsed_flows!());
        /// The state's hash stays, so that who comes back late is told that the time is over.
        EXPIRE_FLOWS = concat!(
            "UPDATE flows SET status = 'expired', ended_at = expires_at, verifier = NULL, nonce = NULL, code = NULL,
                 handle_hash = NULL, confirm_hash = NULL
             WHERE id IN (SELECT id FROM flows WHERE ", lapsed_flows!(), " LIMIT $2)
               AND status IN ('pending', 'awaiting_confirm', 'awaiting_finish')"
        );
        COUNT_OLD_REVOKED = count!("connections x", old_revoked!());
        PURGE_REVOKED = concat!(
            "DELETE FROM connections WHERE status = 'revoked' AND id IN (SELECT x.id FROM connections x WHERE ",
            old_revoked!(), " ORDER BY x.id LIMIT $3) RETURNING id, space_id, connector_id, owner"
        );
        /// Nothing has happened to them since $1, and nothing but their owner can renew them.
        UNUSED_CONNECTIONS = "SELECT x.id FROM connections x LEFT JOIN connection_usage u ON u.connection_id = x.id
            WHERE x.id < $2 AND x.updated_at < $1 AND COALESCE(u.last_used_at, 0) < $1
              AND (x.status = 'needs_reauth' OR (x.status = 'active' AND x.refresh_token IS NULL))
            ORDER BY x.id LIMIT $3";
        COUNT_OLD_ATTEMPTS = count!("attempts a", old_attempts!());
        PURGE_ATTEMPTS = concat!(
            "DELETE FROM attempts WHERE (connection_id, generation) IN
             (SELECT a.connection_id, a.generation FROM attempts a WHERE ", old_attempts!(),
            " ORDER BY a.updated_at LIMIT $2)"
        );
        COUNT_OLD_AUDIT = count!("audit", old_audit!());
        PURGE_AUDIT = concat!(
            "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE ", old_audit!(), " ORDER BY id LIMIT $3)"
        );
        COUNT_OLD_REVOCATIONS = count!("revocations", old_revocations!());
        PURGE_REVOCATIONS = concat!(
            "DELETE FROM revocations WHERE id IN
             (SELECT id FROM revocations WHERE ", old_revocations!(), " ORDER BY id LIMIT $3)"
        );
        COUNT_OLD_PLANS = "SELECT CAST(COUNT(*) AS BIGINT) FROM revoke_plans WHERE expires_at <= $1";
        PURGE_MEMBERS = "DELETE FROM revoke_plan_members WHERE (plan_id, connection_id) IN
            (SELECT m.plan_id, m.connection_id FROM revoke_plan_members m JOIN revoke_plans p ON p.id = m.plan_id
             WHERE p.expires_at <= $1 LIMIT $2)";
        PURGE_PLANS = "DELETE FROM revoke_plans WHERE expires_at <= $1 AND NOT EXISTS
            (SELECT 1 FROM revoke_plan_members m WHERE m.plan_id = revoke_plans.id)";
    }
    sqlite {
        DELETE_DUE_SQLITE = delete_of_connections!("due", "FROM json_each($1)");
        DELETE_USAGE_SQLITE = delete_of_connections!("connection_usage", "FROM json_each($1)");
        DELETE_ATTEMPTS_SQLITE = delete_of_connections!("attempts", "FROM json_each($1)");
    }
    postgres {
        DELETE_DUE_POSTGRES = delete_of_connections!("due", "FROM json_array_elements_text(CAST($1 AS JSON))");
        DELETE_USAGE_POSTGRES =
            delete_of_connections!("connection_usage", "FROM json_array_elements_text(CAST($1 AS JSON))");
        DELETE_ATTEMPTS_POSTGRES =
            delete_of_connections!("attempts", "FROM json_array_elements_text(CAST($1 AS JSON))");
    }
}
