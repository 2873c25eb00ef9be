//! Statements about data keys and about everything that is sealed with them.
//!
//! Bytes 3 to 6 of a record name its data key (1-based, as SQL counts).

use super::admin::statements;

/// The end of the next $2 rows of a table after $1.
macro_rules! window {
    ($table:literal) => {
        concat!("SELECT MAX(w.id) FROM (SELECT id FROM ", $table, " WHERE id > $1 ORDER BY id LIMIT $2) w")
    };
}

/// How many fields of a column each data key has sealed.
macro_rules! count {
    ($table:literal, $column:literal) => {
        concat!(
            "SELECT '",
            $table,
            "', '",
            $column,
            "', substr(",
            $column,
            ", 3, 4), CAST(COUNT(*) AS BIGINT) FROM ",
            $table,
            " WHERE length(",
            $column,
            ") > 0 GROUP BY substr(",
            $column,
            ", 3, 4)"
        )
    };
}

/// A row that somebody else changes now is left for the next pass: whoever holds many rows must wait for none.
macro_rules! unless_held {
    ($table:literal) => {
        concat!(" AND id = (SELECT l.id FROM ", $table, " l WHERE l.id = $1 FOR UPDATE SKIP LOCKED)")
    };
}

macro_rules! put_connection {
    ($more:expr) => {
        concat!(
            "UPDATE connections SET access_token = $2, refresh_token = $3 WHERE id = $1
               AND access_token IS NOT DISTINCT FROM $4 AND refresh_token IS NOT DISTINCT FROM $5 AND generation = $6",
            $more
        )
    };
}

macro_rules! put_flow {
    ($more:expr) => {
        concat!(
            "UPDATE flows SET verifier = $2, nonce = $3, code = $4 WHERE id = $1 AND verifier IS NOT DISTINCT FROM $5
               AND nonce IS NOT DISTINCT FROM $6 AND code IS NOT DISTINCT FROM $7",
            $more
        )
    };
}

macro_rules! put_connector {
    ($more:expr) => {
        concat!("UPDATE connectors SET secrets = $2 WHERE id = $1 AND secrets = $3 AND secrets_no = $4", $more)
    };
}

macro_rules! put_revocation {
    ($more:expr) => {
        concat!("UPDATE revocations SET token = $2 WHERE id = $1 AND token = $3", $more)
    };
}

statements! {
    "sealed"
    both {
        /// Does nothing while another key waits: then that one is the new one.
        INSERT_PENDING = "INSERT INTO data_keys (id, state, wrapper, wrapped, canary, created_at)
            VALUES ($1, 'pending', $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        DEMOTE = "UPDATE data_keys SET state = 'decrypt_only' WHERE state = 'active'
            AND EXISTS (SELECT 1 FROM data_keys p WHERE p.id = $1 AND p.state = 'pending')";
        PROMOTE = "UPDATE data_keys SET state = 'active' WHERE id = $1 AND state = 'pending'";
        RETIRE = "UPDATE data_keys SET state = 'retired' WHERE id = $1 AND state = 'decrypt_only'";
        REWRAP = "UPDATE data_keys SET wrapper = $2, wrapped = $3 WHERE id = $1 AND wrapped = $4";

        NOTE_READER = "INSERT INTO data_key_readers (holder, newest_key, active_key, seen_at) VALUES ($1, $2, $3, $4)
            ON CONFLICT (holder) DO UPDATE SET newest_key = excluded.newest_key, active_key = excluded.active_key,
                seen_at = excluded.seen_at";
        LIST_READERS = "SELECT holder, newest_key, active_key FROM data_key_readers WHERE seen_at >= $1 ORDER BY holder";
        DROP_READER = "DELETE FROM data_key_readers WHERE holder = $1";
        SWEEP_READERS = "DELETE FROM data_key_readers WHERE seen_at < $1";

        COUNT_FIELDS = concat!(
            count!("connectors", "secrets"), " UNION ALL ",
            count!("connections", "access_token"), " UNION ALL ",
            count!("connections", "refresh_token"), " UNION ALL ",
            count!("flows", "verifier"), " UNION ALL ",
            count!("flows", "nonce"), " UNION ALL ",
            count!("flows", "code"), " UNION ALL ",
            count!("revocations", "token")
        );

        WINDOW_OF_CONNECTORS = window!("connectors");
        WINDOW_OF_CONNECTIONS = window!("connections");
        WINDOW_OF_FLOWS = window!("flows");
        WINDOW_OF_REVOCATIONS = window!("revocations");

        /// $1 and $2 bound the window; what $3 has sealed is left out.
        CONNECTORS = "SELECT id, space_id, secrets_no, secrets FROM connectors
            WHERE id > $1 AND id <= $2 AND length(secrets) > 0 AND substr(secrets, 3, 4) <> $3 ORDER BY id";
        CONNECTIONS = "SELECT id, space_id, owner, label, connector_id, generation, access_token, refresh_token
            FROM connections WHERE id > $1 AND id <= $2
              AND (substr(access_token, 3, 4) <> $3 OR substr(refresh_token, 3, 4) <> $3) ORDER BY id";
        FLOWS = "SELECT id, space_id, owner, connector_id, verifier, nonce, code FROM flows
            WHERE id > $1 AND id <= $2
              AND (substr(verifier, 3, 4) <> $3 OR substr(nonce, 3, 4) <> $3 OR substr(code, 3, 4) <> $3) ORDER BY id";
        REVOCATIONS = "SELECT id, space_id, connection_id, connector_id, owner, label, generation, token_kind, sealed_in,
                token FROM revocations WHERE id > $1 AND id <= $2 AND substr(token, 3, 4) <> $3 ORDER BY id";
    }
    sqlite {
        PUT_CONNECTOR_SQLITE = put_connector!("");
        PUT_CONNECTION_SQLITE = put_connection!("");
        PUT_FLOW_SQLITE = put_flow!("");
        PUT_REVOCATION_SQLITE = put_revocation!("");
    }
    postgres {
        PUT_CONNECTOR_POSTGRES = put_connector!(unless_held!("connectors"));
        PUT_CONNECTION_POSTGRES = put_connection!(unless_held!("connections"));
        PUT_FLOW_POSTGRES = put_flow!(unless_held!("flows"));
        PUT_REVOCATION_POSTGRES = put_revocation!(unless_held!("revocations"));
    }
}
