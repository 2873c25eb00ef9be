"""Real values for generated requests, by operation: without them nearly every answer would be a 404 or a 422.

Each function gives what one request to its operation could hold so that it succeeds: the id of the path, members of the
body, parameters of the query. `ABSENT` takes an optional member away. What a request would end is new.
"""

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any

import world

ABSENT = object()


@dataclass
class Real:
    """Real values of one request."""

    path: str | None = None
    body: dict[str, Any] = field(default_factory=dict)
    query: dict[str, Any] = field(default_factory=dict)


def _challenge(verifier):
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _page(here, draw, path, **filters):
    return Real(query={"limit": draw.randint(1, 200), "after": here.any_id(path, draw) or ABSENT, **filters})


def list_audit(here, draw):
    action = draw.choice(["token.issued", "connection.imported", "connector.created", "flow.started"])
    return _page(
        here,
        draw,
        "/v1/audit",
        action=action,
        connector_id=here.connectors["per_user"],
        connection_id=here.any_id("/v1/connections", draw) or ABSENT,
        key_id=draw.choice(sorted(here.protected)),
        flow_id=ABSENT,
        user_id=draw.choice(here.people),
        to="2100-01-01T00:00:00Z",
        **{"from": "2020-01-01T00:00:00Z"},
    )


def list_connections(here, draw):
    status = draw.choice(["active", "needs_reauth", "revoking", "revoked"])
    return _page(
        here,
        draw,
        "/v1/connections",
        connector_id=here.connectors["per_user"],
        user_id=draw.choice(here.people),
        owner=ABSENT,
        provider="oidc",
        label="",
        reason="grant_revoked" if status == "needs_reauth" else ABSENT,
        status=status,
    )


def list_connectors(here, draw):
    return _page(here, draw, "/v1/connectors")


def list_keys(here, draw):
    return _page(here, draw, "/v1/keys")


def list_revocations(here, draw):
    return _page(
        here,
        draw,
        "/v1/revocations",
        state=draw.choice(["queued", "confirmed", "unsupported", "superseded", "failed"]),
        connector_id=here.connectors["per_user"],
        connection_id=here.any_id("/v1/connections", draw) or ABSENT,
    )


def show_connection(here, draw):
    return Real(path=here.any_id("/v1/connections", draw))


def revoke_connection(here, draw):
    return Real(path=here.connection(draw.choice(here.people)))


def disconnect_connection(here, draw):
    if draw.random() < 0.2:
        here.connection(None, kind="shared")
        return Real(here.connectors["shared"], {"actor": "administrator", "user_id": ABSENT, "label": ABSENT})
    person = draw.choice(here.people)
    here.connection(person)
    return Real(here.connectors["per_user"], {"user_id": person, "actor": ABSENT, "label": ABSENT})


def revoke_connections(here, draw):
    if draw.random() < 0.5:
        person = f"leaving-{draw.randint(1, 9)}"
        here.connection(person)
        plan = here.plan(person)
        body = {"plan_id": plan["plan_id"], "expected_count": plan["count"]}
        return Real(body={**body, "dry_run": False, "filter": ABSENT})
    filters = [
        {},
        {"user_id": draw.choice(here.people)},
        {"owner": "shared"},
        {"provider": "oidc"},
        {"status": "active", "label": ""},
        {"connector_id": here.connectors["per_user"], "reason": "grant_revoked"},
    ]
    return Real(body={"dry_run": True, "filter": draw.choice(filters), "plan_id": ABSENT, "expected_count": ABSENT})


def import_connections(here, draw):
    person = draw.choice([*here.people, f"new-{draw.randint(1, 99)}"])
    line = here.import_line(person, life=draw.choice([-60, 600, 86400]))
    return Real(body={**line, "replace": True, "label": draw.choice([ABSENT, "", "second"])})


def create_connector(here, draw):
    kind = draw.choice(["per_user", "shared", "machine"])
    body = {"endpoints": ABSENT, "settings": ABSENT, "binding": "finish", "return_urls": [], "origins": []}
    return Real(body={**body, **world.connector(here.provider_address, kind)})


def show_connector(here, draw):
    return Real(path=here.any_id("/v1/connectors", draw))


def update_connector(here, draw):
    made = here.new_connector(draw.choice(["per_user", "shared", "machine"]))
    body = {name: made[name] for name in ("provider", "auth_mode", "grant", "issuer", "binding", "client_id")}
    return Real(
        made["id"],
        {**body, "version": 1, "endpoints": ABSENT, "settings": ABSENT, "client_secrets": ["sandbox-secret"]}
        | {"rotation": made["rotation"], "return_urls": made["return_urls"], "origins": made["origins"]},
    )


def delete_connector(here, draw):
    return Real(path=here.new_connector()["id"])


def start_flow(here, draw):
    mode = draw.choice(["popup", "redirect"])
    body = {
        "mode": mode,
        "return_url": world.RETURN_URL,
        "origin": world.ORIGIN if mode == "popup" else ABSENT,
        "scopes": draw.choice([ABSENT, ["openid"], ["openid", "read", "write"]]),
        "binding_challenge": draw.choice([ABSENT, _challenge("v" * 43)]),
        "label": draw.choice([ABSENT, "second"]),
    }
    if draw.random() < 0.2:
        return Real(here.connectors["shared"], {**body, "actor": "administrator", "user_id": ABSENT})
    return Real(here.connectors["per_user"], {**body, "user_id": draw.choice(here.people), "actor": ABSENT})


def fetch_token(here, draw):
    kind = draw.choice(["per_user", "per_user", "per_user", "shared", "machine"])
    person = draw.choice(here.people) if kind == "per_user" else ABSENT
    wanted = {
        "min_ttl": draw.choice([ABSENT, 0, 60, 3600]),
        "scopes": draw.choice([[], ["read"], ["openid", "read"]]) if kind != "machine" else [],
        "rejected": ABSENT,
        "start": ABSENT,
    }
    if kind == "per_user" and draw.random() < 0.3:
        # A token is rejected once: whoever says it again within a second has to wait (503, with Retry-After).
        person = here.newcomer()
        wanted["rejected"] = here.rejectable(person)
    return Real(here.connectors[kind], {"user_id": person, "label": ABSENT, **wanted})


def show_flow(here, draw):
    return Real(path=here.flow(draw.choice(here.people))["flow_id"])


def cancel_flow(here, draw):
    return Real(path=here.flow(draw.choice(here.people))["flow_id"])


def finish_flow(here, draw):
    person = draw.choice(here.people)
    flow, handle = here.finishable(person)
    return Real(flow, {"handle": handle, "user_id": person, "actor": ABSENT, "binding_verifier": ABSENT})


def create_key(here, draw):
    roles = draw.choice([["app"], ["app", "shared"], ["operator"], ["admin"], ["connector"]])
    connectors = [here.connectors["per_user"]] if roles == ["connector"] else ABSENT
    return Real(body={"roles": roles, "connectors": connectors, "expires_at": draw.choice([ABSENT, "2100-01-01T00:00:00Z"])})


def revoke_key(here, draw):
    return Real(path=here.new_key())


def show_provider(here, draw):
    return Real(path=draw.choice(["github", "oidc", "oauth2", "google"]))


OPERATIONS = {
    function.__name__: function
    for function in (
        list_audit,
        list_connections,
        list_connectors,
        list_keys,
        list_revocations,
        show_connection,
        revoke_connection,
        disconnect_connection,
        revoke_connections,
        import_connections,
        create_connector,
        show_connector,
        update_connector,
        delete_connector,
        start_flow,
        fetch_token,
        show_flow,
        cancel_flow,
        finish_flow,
        create_key,
        revoke_key,
        show_provider,
    )
}

# Operations after which the rest of the run would find something missing, were they to meet what it needs.
ENDING = {"delete_connector", "update_connector", "revoke_key"}
