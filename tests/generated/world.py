"""What requests can name: connectors, connections, flows, keys and plans that exist, made when they are needed.

What a request would end is made for it alone, so that ten thousand requests leave the next one something to find.
"""

import base64
import datetime
import hashlib
import itertools
import json
import re
import urllib.parse

import requests

ORIGIN = "https://app.example"
RETURN_URL = "https://app.example/connected"
SCOPES = ["openid", "read"]
PEOPLE = [f"person-{number}" for number in range(12)]


def connector(provider, kind):
    """The body that makes a connector of this kind at the sandbox."""
    body = {
        "name": f"Generated, {kind}",
        "provider": "oidc",
        "issuer": provider,
        "auth_mode": "per_user" if kind == "per_user" else "shared",
        "client_id": "sandbox-client",
        "client_secrets": ["sandbox-secret"],
        "scopes": SCOPES,
        "optional_scopes": ["write"],
        "rotation": {"class": "strict"},
    }
    if kind == "machine":
        return {**body, "grant": "client_credentials"}
    return {**body, "return_urls": [RETURN_URL], "origins": [ORIGIN]}


class Http:
    """Calls for the test itself, which have to succeed."""

    def __init__(self, address, key=None):
        self.address = address
        self.session = requests.Session()
        self.session.trust_env = False
        if key:
            self.session.headers["Authorization"] = f"Bearer {key}"

    def send(self, method, path, **arguments):
        """Sends and gives the whole answer."""
        url = urllib.parse.urljoin(self.address, path)
        answer = self.session.request(method, url, allow_redirects=False, timeout=30, **arguments)
        if answer.status_code >= 400:
            raise RuntimeError(f"{method} {urllib.parse.urlsplit(url).path}: {answer.status_code} {answer.text}")
        return answer

    def call(self, method, path, body=None):
        """Sends JSON and gives the JSON that comes back."""
        return self.send(method, path, json=body).json()


class World:
    """A broker with something in it."""

    def __init__(self, file, identity):
        with open(file, encoding="utf-8") as text:
            about = json.load(text)
        self.identity = identity
        self.protected = set(about["protected"])
        self.connectors = about["connectors"]
        self.provider_address = about["provider"]
        self.broker = Http(about["broker"], about["setup"])
        self.provider = Http(about["provider"])
        self.people = list(PEOPLE)
        self.newcomers = itertools.count(1)
        # A process of Schemathesis finds what the one before has left; this one's people are connected anew.
        for person in self.people:
            self.connection(person)

    def connection(self, person, life=600, kind="per_user"):
        """Connects somebody by import; gives the connection's id."""
        return self.import_one(self.import_line(person, life, kind))

    def import_one(self, line):
        """Imports a line; gives the connection's id."""
        answer = self.broker.send(
            "POST",
            "/v1/connections/import",
            data=json.dumps(line) + "\n",
            headers={"Content-Type": "application/x-ndjson"},
        )
        report = json.loads(answer.text)
        if "connection_id" not in report:
            raise RuntimeError(f"an import was refused: {report}")
        return report["connection_id"]

    def import_line(self, person, life=600, kind="per_user"):
        """A line that imports a grant of the sandbox."""
        wanted = {"client_id": "sandbox-client", "user": person or "everybody", "scopes": SCOPES}
        grant = self.provider.call("POST", "/control/grants", wanted)[0]
        expires_at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=life)
        line = {
            "connector_id": self.connectors[kind],
            "access_token": grant["access_token"],
            "refresh_token": grant["refresh_token"],
            "expires_at": expires_at.isoformat(),
            "scopes": grant["scopes"],
            "replace": True,
        }
        return line if person is None else {**line, "user_id": person}

    def newcomer(self):
        """Somebody whom no request has named."""
        return f"{self.identity}-{next(self.newcomers)}"

    def rejectable(self, person):
        """Connects somebody; gives the fingerprint of the access token."""
        line = self.import_line(person)
        self.import_one(line)
        digest = hashlib.sha256(line["access_token"].encode()).digest()
        return base64.b64encode(digest).decode()

    def new_connector(self, kind="per_user"):
        """A connector to edit or to delete."""
        return self.broker.call("POST", "/v1/connectors", connector(self.provider_address, kind))

    def new_key(self):
        """A key to revoke."""
        return self.broker.call("POST", "/v1/keys", {"name": "to revoke", "roles": ["operator"]})["id"]

    def flow(self, person):
        """A started flow."""
        wanted = {"user_id": person, "mode": "redirect", "return_url": RETURN_URL, "allow_account_change": True}
        return self.broker.call("POST", f"/v1/connectors/{self.connectors['per_user']}/flows", wanted)

    def finishable(self, person):
        """A flow whose browser has come home; gives its id and the handle."""
        flow = self.flow(person)
        browser = Http(self.broker.address)
        headers = {"Accept": "application/json", "Origin": self.broker.address}
        location = browser.send("POST", flow["start_url"], headers=headers).json()["location"]
        callback = browser.send("GET", location).headers["Location"]
        home = browser.send("GET", callback)
        target = home.headers.get("Location") or home.headers["Refresh"]
        return flow["flow_id"], urllib.parse.unquote(re.search(r"handle=([^&]+)", target)[1])

    def plan(self, person):
        """A plan to revoke somebody's connections."""
        return self.broker.call("POST", "/v1/connections/revoke", {"dry_run": True, "filter": {"user_id": person}})

    def any_id(self, path, draw):
        """The id of something on a list; none if the list is empty."""
        items = self.broker.call("GET", f"{path}?limit=20")["items"]
        return draw.choice(items)["id"] if items else None
