-- The first schema: spaces, keys, connectors, connections, flows, attempts, revocations, quotas, leases, audit.

CREATE TABLE instance (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- One row, made with the instance. The epoch rises while a server runs; a witness outside of the database repeats it,
-- so that a restored database is recognised. A hold is in force while held_since is set.
CREATE TABLE guard (
    name TEXT NOT NULL PRIMARY KEY,
    epoch BIGINT NOT NULL,
    hold_reason TEXT,
    hold_note TEXT,
    held_since BIGINT
);

CREATE TABLE data_keys (
    id BIGINT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    wrapper TEXT NOT NULL,
    wrapped BYTEA NOT NULL,
    canary BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);

-- At most one key seals, and at most one waits for its turn.
CREATE UNIQUE INDEX data_keys_in_turn ON data_keys (state) WHERE state IN ('active', 'pending');

-- What each replica knew of the data keys when it last said so: a new one seals only once all of them can open it.
CREATE TABLE data_key_readers (
    holder TEXT NOT NULL PRIMARY KEY,
    newest_key BIGINT NOT NULL,
    active_key BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);

CREATE TABLE spaces (
    id TEXT NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    space_id TEXT NOT NULL REFERENCES spaces (id),
    name TEXT NOT NULL,
    roles TEXT NOT NULL,
    connectors TEXT,
    secret_hash BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    last_used_at BIGINT
);
CREATE INDEX api_keys_by_space ON api_keys (space_id, id);

CREATE TABLE connectors (
    id TEXT NOT NULL PRIMARY KEY,
    space_id TEXT NOT NULL REFERENCES spaces (id),
    name TEXT NOT NULL,
    provider TEXT NOT NULL,
    auth_mode TEXT NOT NULL,
    grant_type TEXT NOT NULL,
    client_id TEXT NOT NULL,
    details TEXT NOT NULL,
    secrets BYTEA NOT NULL,
    secrets_no BIGINT NOT NULL,
    secret_count BIGINT NOT NULL,
    rotated BOOLEAN NOT NULL,
    unrotated_in_a_row BIGINT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE INDEX connectors_by_space ON connectors (space_id, id);

-- +1 in the transaction that revokes a key or changes a connector: what replicas keep of them in memory holds only
-- while the number that each token call reads is the one they were read under.
CREATE TABLE revisions (
    name TEXT NOT NULL PRIMARY KEY,
    revision BIGINT NOT NULL
);
INSERT INTO revisions (name, revision) VALUES ('access', 1);

CREATE TABLE circuits (
    connector_id TEXT NOT NULL PRIMARY KEY,
    code TEXT NOT NULL,
    failures BIGINT NOT NULL,
    opened_at BIGINT NOT NULL,
    next_probe_at BIGINT NOT NULL
);

CREATE TABLE connections (
    id TEXT NOT NULL PRIMARY KEY,
    space_id TEXT NOT NULL,
    connector_id TEXT NOT NULL REFERENCES connectors (id),
    provider TEXT NOT NULL,
    owner TEXT NOT NULL,
    label TEXT NOT NULL,
    status TEXT NOT NULL,
    reauth_reason TEXT,
    reauth_since BIGINT,
    requested_scopes TEXT NOT NULL,
    granted_scopes TEXT NOT NULL,
    account_issuer TEXT,
    account_subject TEXT,
    account_name TEXT,
    generation BIGINT NOT NULL,
    token_type TEXT NOT NULL,
    access_token BYTEA,
    refresh_token BYTEA,
    access_fingerprint TEXT,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT,
    refresh_expires_at BIGINT,
    reconnect_by BIGINT,
    refresh_due_at BIGINT,
    refreshing TEXT NOT NULL,
    last_outcome TEXT,
    last_attempt_at BIGINT,
    rejected_at BIGINT,
    weakly_bound BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (connector_id, owner, label)
);
CREATE INDEX connections_by_space ON connections (space_id, id);
CREATE INDEX connections_by_owner ON connections (space_id, owner, id);
CREATE INDEX connections_by_account ON connections (account_subject);
CREATE INDEX connections_by_status ON connections (status, provider);

CREATE TABLE due (
    connection_id TEXT NOT NULL PRIMARY KEY,
    due_at BIGINT NOT NULL
);
CREATE INDEX due_by_time ON due (due_at);

CREATE TABLE connection_usage (
    connection_id TEXT NOT NULL PRIMARY KEY,
    last_used_at BIGINT NOT NULL
);

CREATE TABLE attempts (
    connection_id TEXT NOT NULL,
    generation BIGINT NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    send_no BIGINT NOT NULL,
    holder TEXT NOT NULL,
    lease_until BIGINT NOT NULL,
    next_try_at BIGINT NOT NULL,
    first_sent_at BIGINT,
    fingerprint TEXT NOT NULL,
    outcome TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (connection_id, generation)
);
CREATE INDEX attempts_by_change ON attempts (updated_at);

CREATE TABLE flows (
    id TEXT NOT NULL PRIMARY KEY,
    space_id TEXT NOT NULL,
    connector_id TEXT NOT NULL,
    started_by TEXT NOT NULL,
    owner TEXT NOT NULL,
    actor TEXT,
    user_display TEXT,
    label TEXT NOT NULL,
    mode TEXT NOT NULL,
    return_url TEXT NOT NULL,
    origin TEXT,
    scopes TEXT NOT NULL,
    login_hint TEXT,
    binding_challenge TEXT,
    allow_account_change BOOLEAN NOT NULL,
    status TEXT NOT NULL,
    failure TEXT,
    connection_id TEXT,
    ticket_hash BYTEA NOT NULL UNIQUE,
    browser_hash BYTEA,
    state_hash BYTEA UNIQUE,
    verifier BYTEA,
    nonce BYTEA,
    code BYTEA,
    kept TEXT,
    handle_hash BYTEA,
    handle_expires_at BIGINT,
    confirm_hash BYTEA,
    lease_until BIGINT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX flows_by_starter ON flows (started_by, expires_at);
CREATE INDEX flows_by_owner ON flows (space_id, owner, expires_at);
CREATE INDEX flows_by_end ON flows (expires_at);

CREATE TABLE revocations (
    id TEXT NOT NULL PRIMARY KEY,
    space_id TEXT NOT NULL,
    connection_id TEXT NOT NULL,
    connector_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    label TEXT NOT NULL,
    generation BIGINT NOT NULL,
    token_kind TEXT NOT NULL,
    token BYTEA,
    sealed_in TEXT NOT NULL,
    reason TEXT NOT NULL,
    state TEXT NOT NULL,
    outcome TEXT,
    tries BIGINT NOT NULL,
    next_try_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX revocations_by_space ON revocations (space_id, id);
CREATE INDEX revocations_by_due ON revocations (next_try_at);
CREATE INDEX revocations_by_connection ON revocations (connection_id);
CREATE INDEX revocations_by_connector ON revocations (connector_id);

CREATE TABLE revoke_plans (
    id TEXT NOT NULL PRIMARY KEY,
    space_id TEXT NOT NULL,
    filter TEXT NOT NULL,
    planned BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT
);

CREATE TABLE revoke_plan_members (
    plan_id TEXT NOT NULL,
    connection_id TEXT NOT NULL,
    PRIMARY KEY (plan_id, connection_id)
);

CREATE TABLE quotas (
    name TEXT NOT NULL PRIMARY KEY,
    ready_at BIGINT NOT NULL
);

CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    held_until BIGINT NOT NULL
);

CREATE TABLE audit (
    id TEXT NOT NULL PRIMARY KEY,
    space_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    actor_kind TEXT NOT NULL,
    actor_id TEXT,
    action TEXT NOT NULL,
    connector_id TEXT,
    connection_id TEXT,
    flow_id TEXT,
    key_id TEXT,
    owner TEXT,
    detail TEXT,
    request_id TEXT
);
CREATE INDEX audit_by_space ON audit (space_id, id);

-- Refresh tokens are random bytes that the token call never reads: out of line on purpose, so that the main rows stay
-- small; the TOAST table then carries the garbage and needs its own vacuum settings. Access tokens are read by every
-- call and stay in line.
ALTER TABLE connections
    ALTER COLUMN access_token SET STORAGE MAIN,
    ALTER COLUMN refresh_token SET STORAGE EXTERNAL,
    SET (fillfactor = 80, toast_tuple_target = 128,
         toast.autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_cost_delay = 0);
ALTER TABLE due SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE connection_usage SET (fillfactor = 70);
ALTER TABLE attempts SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
