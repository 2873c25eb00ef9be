//! Statements of instance, spaces, keys, connectors, circuits, quotas, leases, usage and audit.

/// Makes each statement a constant and lists it, so that none escapes the test that prepares them. The lists are those
/// of `$module` for both engines, for SQLite and for PostgreSQL.
macro_rules! statements {
    (
        $module:literal
        both { $($(#[$doc:meta])* $name:ident = $text:expr;)+ }
        sqlite { $($(#[$sqlite_doc:meta])* $sqlite:ident = $sqlite_text:expr;)+ }
        postgres { $($(#[$postgres_doc:meta])* $postgres:ident = $postgres_text:expr;)+ }
    ) => {
        $($(#[$doc])* pub(crate) const $name: &str = $text;)+
        $($(#[$sqlite_doc])* pub(crate) const $sqlite: &str = $sqlite_text;)+
        $($(#[$postgres_doc])* pub(crate) const $postgres: &str = $postgres_text;)+

        #[cfg(test)]
        pub(crate) const ALL: &[(&str, &str)] = &[$((concat!($module, "::", stringify!($name)), $name)),+];
        #[cfg(test)]
        pub(crate) const SQLITE: &[(&str, &str)] = &[$((concat!($module, "::", stringify!($sqlite)), $sqlite)),+];
        #[cfg(test)]
        pub(crate) const POSTGRES: &[(&str, &str)] =
            &[$((concat!($module, "::", stringify!($postgres)), $postgres)),+];
    };
}
pub(crate) use statements;

macro_rules! key_columns {
    () => {
        "id, space_id, name, roles, connectors, secret_hash, created_at, expires_at, revoked_at, last_used_at"
    };
}

macro_rules! connector_columns {
    () => {
        "id, space_id, name, provider, auth_mode, grant_type, client_id, details, secret_count, rotated, \
         unrotated_in_a_row, version, created_at, updated_at, deleted_at"
    };
}

/// The body of the bulk upsert: $1 is a JSON array of pairs of id and time. A use that arrives after its connection was
/// purged leaves nothing behind.
macro_rules! record_uses {
    ($rows:literal) => {
        concat!(
            "INSERT INTO connection_usage (connection_id, last_used_at)
             SELECT e.value ->> 0, CAST(e.value ->> 1 AS BIGINT) FROM ",
            $rows,
            " AS e WHERE EXISTS (SELECT 1 FROM connections c WHERE c.id = e.value ->> 0)
             ON CONFLICT (connection_id) DO UPDATE SET last_used_at = excluded.last_used_at
             WHERE connection_usage.last_used_at < excluded.last_used_at"
        )
    };
}

macro_rules! audit_columns {
    () => {
        "id, space_id, at, actor_kind, actor_id, action, connector_id, connection_id, flow_id, key_id, owner, detail, \
         request_id"
    };
}

/// The body of the bulk insert. Both engines read members of a JSON object with `->>`.
macro_rules! append_audit {
    ($rows:literal) => {
        concat!(
            "INSERT INTO audit (", audit_columns!(), ")
             SELECT e.value ->> 'id', e.value ->> 'space_id', CAST(e.value ->> 'at' AS BIGINT), e.value ->> 'actor_kind',
                    e.value ->> 'actor_id', e.value ->> 'action', e.value ->> 'connector_id', e.value ->> 'connection_id',
                    e.value ->> 'flow_id', e.value ->> 'key_id', e.value ->> 'owner', e.value ->> 'detail',
                    e.value ->> 'request_id'
             FROM ", $rows, " AS e WHERE true"
        )
    };
}

statements! {
    "admin"
    both {
        FIND_INSTANCE = "SELECT value FROM instance WHERE name = $1";
        INSERT_INSTANCE = "INSERT INTO instance (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
        INSERT_GUARD = "INSERT INTO guard (name, epoch) VALUES ('instance', 0)";
        RAISE_EPOCH = "UPDATE guard SET epoch = epoch + 1 WHERE name = 'instance' RETURNING epoch";
        LIFT_EPOCH = "UPDATE guard SET epoch = $1 WHERE name = 'instance'";
        FIND_HOLD = "SELECT hold_reason, hold_note, held_since FROM guard WHERE name = 'instance'";
        BEGIN_HOLD = "UPDATE guard SET hold_reason = $1, hold_note = $2, held_since = $3
            WHERE name = 'instance' AND held_since IS NULL";
        RELEASE_HOLD = "UPDATE guard SET hold_reason = NULL, hold_note = NULL, held_since = NULL, epoch = epoch + $1
            WHERE name = 'instance' AND held_since IS NOT NULL";
        /// What was put off by the hold: due long since, and with nothing wrong. A failing one keeps its own pause.
        WAKE_DUE = "UPDATE due SET due_at = $1 WHERE due_at > $1 AND EXISTS (SELECT 1 FROM connections x
            WHERE x.id = due.connection_id AND x.status = 'active' AND x.refreshing = 'ok' AND x.refresh_due_at <= $1)";
        REFRESH_LOAD = "SELECT x.connector_id, CAST(COUNT(*) AS BIGINT) AS connections,
                CAST(COUNT(*) FILTER (WHERE x.refresh_due_at <= $1) AS BIGINT) AS due
            FROM connections x WHERE x.status = 'active' AND x.refresh_due_at IS NOT NULL GROUP BY x.connector_id";

        LIST_DATA_KEYS = "SELECT id, state, wrapper, wrapped, canary, created_at FROM data_keys ORDER BY id";
        INSERT_DATA_KEY = "INSERT INTO data_keys (id, state, wrapper, wrapped, canary, created_at)
            VALUES ($1, $2, $3, $4, $5, $6)";

        INSERT_SPACE = "INSERT INTO spaces (id, created_at) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";
        LIST_SPACES = "SELECT id, created_at FROM spaces ORDER BY id";
        FIND_SPACE = "SELECT id FROM spaces WHERE id = $1";

        INSERT_KEY = "INSERT INTO api_keys (id, space_id, name, roles, connectors, secret_hash, created_at, expires_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        FIND_KEY = concat!("SELECT ", key_columns!(), " FROM api_keys WHERE id = $1");
        LIST_KEYS = concat!(
            "SELECT ", key_columns!(), " FROM api_keys
             WHERE space_id = $1 AND (CAST($2 AS TEXT) IS NULL OR id > $2) ORDER BY id LIMIT $3"
        );
        REVOKE_KEY = concat!(
            "UPDATE api_keys SET revoked_at = $3 WHERE space_id = $1 AND id = $2 AND revoked_at IS NULL
             RETURNING ", key_columns!()
        );

        INSERT_CONNECTOR = "INSERT INTO connectors (id, space_id, name, provider, auth_mode, grant_type, client_id, details,
                secrets, secrets_no, secret_count, rotated, unrotated_in_a_row, version, created_at, updated_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";
        FIND_CONNECTOR = concat!(
            "SELECT ", connector_columns!(), " FROM connectors WHERE space_id = $1 AND id = $2 AND deleted_at IS NULL"
        );
        FIND_CONNECTOR_ANY = concat!("SELECT ", connector_columns!(), " FROM connectors WHERE id = $1");
        /// $2 holds the ids that exist for the caller in one text: an id is in it if taking the id out changes it.
        LIST_CONNECTORS = concat!(
            "SELECT ", connector_columns!(), " FROM connectors
             WHERE space_id = $1 AND deleted_at IS NULL AND (CAST($2 AS TEXT) IS NULL OR replace($2, id, '') <> $2)
               AND (CAST($3 AS TEXT) IS NULL OR id > $3)
             ORDER BY id LIMIT $4"
        );
        UPDATE_CONNECTOR = "UPDATE connectors SET name = $4, provider = $5, auth_mode = $6, grant_type = $7, client_id = $8,
                details = $9, version = version + 1, updated_at = $10
            WHERE space_id = $1 AND id = $2 AND version = $3 AND deleted_at IS NULL";
        REPLACE_CONNECTOR_SECRETS =
            "UPDATE connectors SET secrets = $2, secrets_no = $3, secret_count = $4 WHERE id = $1";
        FIND_CONNECTOR_SECRETS = "SELECT space_id, secrets, secrets_no FROM connectors WHERE id = $1";
        DELETE_CONNECTOR = "UPDATE connectors SET deleted_at = $3, updated_at = $3, version = version + 1
            WHERE space_id = $1 AND id = $2 AND deleted_at IS NULL";
        END_CONNECTOR_FLOWS = "UPDATE flows SET status = 'failed', failure = 'connector_changed', ended_at = $2,
                verifier = NULL, nonce = NULL, code = NULL, confirm_hash = NULL
            WHERE connector_id = $1 AND status IN ('pending', 'awaiting_confirm', 'awaiting_finish', 'finishing')";
        CONNECTOR_IN_USE = "SELECT EXISTS (SELECT 1 FROM flows WHERE connector_id = $1)
            OR EXISTS (SELECT 1 FROM connections WHERE connector_id = $1)";
        /// Writes only what will be read: after the first rotation nothing more, and no count beyond $3.
        OBSERVE_ROTATION = "UPDATE connectors SET rotated = (rotated OR $2),
                unrotated_in_a_row = CASE WHEN $2 THEN 0 ELSE unrotated_in_a_row + 1 END
            WHERE id = $1 AND CASE WHEN $2 THEN NOT rotated OR unrotated_in_a_row > 0 ELSE unrotated_in_a_row < $3 END";
        ERASE_CONNECTOR_SECRETS = "UPDATE connectors SET secrets = $2, secret_count = 0
            WHERE deleted_at <= $1 AND secret_count > 0
              AND NOT EXISTS (SELECT 1 FROM revocations r WHERE r.connector_id = connectors.id AND r.state = 'queued')
              AND NOT EXISTS (SELECT 1 FROM connections c WHERE c.connector_id = connectors.id
                              AND c.status IN ('active', 'needs_reauth', 'revoking'))
            RETURNING id";

        OPEN_CIRCUIT = "INSERT INTO circuits (connector_id, code, failures, opened_at, next_probe_at)
            VALUES ($1, $2, 1, $3, $4)
            ON CONFLICT (connector_id) DO UPDATE
            SET code = excluded.code, failures = circuits.failures + 1, next_probe_at = excluded.next_probe_at
            RETURNING failures";
        CLOSE_CIRCUIT = "DELETE FROM circuits WHERE connector_id = $1";
        HASTEN_UNSENT = "UPDATE attempts SET next_try_at = $2, updated_at = $2
            WHERE state = 'unsent' AND next_try_at > $2
              AND connection_id IN (SELECT id FROM connections WHERE connector_id = $1)";
        FIND_CIRCUIT = "SELECT connector_id, code, failures, opened_at, next_probe_at FROM circuits WHERE connector_id = $1";
        LIST_CIRCUITS = "SELECT i.connector_id, i.code, i.failures, i.opened_at, i.next_probe_at
            FROM circuits i JOIN connectors k ON k.id = i.connector_id WHERE k.space_id = $1 ORDER BY i.connector_id";
        CLAIM_PROBE = "UPDATE circuits SET next_probe_at = $3 WHERE connector_id = $1 AND next_probe_at <= $2";

        /// $1 name, $2 now, $3 interval, $4 tolerance, $5 name of the pause. No row: refused.
        TAKE_QUOTA = "INSERT INTO quotas (name, ready_at)
            SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT) + CAST($3 AS BIGINT)
            WHERE NOT EXISTS (SELECT 1 FROM quotas p WHERE p.name = $5 AND p.ready_at > $2)
            ON CONFLICT (name) DO UPDATE
            SET ready_at = CASE WHEN quotas.ready_at > $2 THEN quotas.ready_at ELSE $2 END + $3
            WHERE quotas.ready_at <= CAST($2 AS BIGINT) + CAST($4 AS BIGINT)
            RETURNING ready_at";
        FIND_QUOTA = "SELECT (SELECT ready_at FROM quotas WHERE name = $1), (SELECT ready_at FROM quotas WHERE name = $2)";
        PAUSE_QUOTA = "INSERT INTO quotas (name, ready_at) VALUES ($1, $2)
            ON CONFLICT (name) DO UPDATE SET ready_at = excluded.ready_at WHERE quotas.ready_at < excluded.ready_at";
        SWEEP_QUOTAS = "DELETE FROM quotas WHERE ready_at <= $1";

        TAKE_LEASE = "INSERT INTO leases (name, holder, held_until) VALUES ($1, $2, $3)
            ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
            WHERE leases.holder = excluded.holder OR leases.held_until <= $4
            RETURNING name";
        DROP_LEASE = "DELETE FROM leases WHERE name = $1 AND holder = $2";

        RECORD_KEY_USE =
            "UPDATE api_keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)";

        INSERT_AUDIT = concat!(
            "INSERT INTO audit (", audit_columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
        );
        LIST_AUDIT = concat!(
            "SELECT ", audit_columns!(), " FROM audit
             WHERE space_id = $1 AND (CAST($2 AS TEXT) IS NULL OR id < $2)
               AND (CAST($3 AS TEXT) IS NULL OR action = $3) AND (CAST($4 AS TEXT) IS NULL OR connector_id = $4)
               AND (CAST($5 AS TEXT) IS NULL OR connection_id = $5) AND (CAST($6 AS TEXT) IS NULL OR flow_id = $6)
               AND (CAST($7 AS TEXT) IS NULL OR key_id = $7) AND (CAST($8 AS TEXT) IS NULL OR owner = $8)
               AND (CAST($9 AS BIGINT) IS NULL OR at >= $9) AND (CAST($10 AS BIGINT) IS NULL OR at < $10)
               AND (CAST($11 AS TEXT) IS NULL OR replace($11, connector_id, '') <> $11)
             ORDER BY id DESC LIMIT $12"
        );
    }
    sqlite {
        /// The only writer is nobody's rival.
        VERSION_SQLITE = "SELECT version FROM connectors WHERE id = $1 AND deleted_at IS NULL";
        EDITED_CONNECTOR_SQLITE = concat!(
            "SELECT ", connector_columns!(), " FROM connectors WHERE space_id = $1 AND id = $2 AND deleted_at IS NULL"
        );
        RECORD_USES_SQLITE = record_uses!("json_each($1)");
        /// $1: a JSON array of objects named like the columns.
        APPEND_AUDIT_SQLITE = append_audit!("json_each($1)");
    }
    postgres {
        /// What begins at a connector waits for an edit of it, and an edit for what begins.
        VERSION_POSTGRES = "SELECT version FROM connectors WHERE id = $1 AND deleted_at IS NULL FOR SHARE";
        EDITED_CONNECTOR_POSTGRES = concat!(
            "SELECT ", connector_columns!(), " FROM connectors WHERE space_id = $1 AND id = $2 AND deleted_at IS NULL
             FOR UPDATE"
        );
        /// A standby answers, but takes no writes.
        TAKES_WRITES_POSTGRES = "SELECT NOT pg_is_in_recovery()";
        RECORD_USES_POSTGRES = record_uses!("json_array_elements(CAST($1 AS JSON))");
        APPEND_AUDIT_POSTGRES = append_audit!("json_array_elements(CAST($1 AS JSON))");
    }
}
