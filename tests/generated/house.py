"""What is tested and what stands behind it: the sandbox provider, the broker, and what an operator makes in it first.

Everything listens on a free port of 127.0.0.1 and ends with the block that started it.
"""

import base64
import contextlib
import json
import os
import pathlib
import secrets
import subprocess
import threading

import world

# Who asks. What is not `narrowed` sees all connectors of the space.
IDENTITIES = {
    "everything": {"roles": ["admin", "app", "shared", "operator"]},
    "connector": {"roles": ["connector"], "narrowed": True},
    "operator": {"roles": ["operator"]},
    "application": {"roles": ["app"], "narrowed": True},
}

# Limits out of the way: a 429 says nothing about the request behind it.
CONFIGURATION = """
[server]
listen = "127.0.0.1:0"
[outbound]
allow_networks = ["127.0.0.0/8"]
allow_http_hosts = ["127.0.0.1"]
[limits]
starts_per_hour_and_user = 1000000
starts_per_minute_and_user = 1000000
pending_flows_per_user = 1000000000
pending_flows_per_key = 1000000000
pending_flows = 1000000000
token_calls_per_second_and_key = 10000000
failing_callbacks_per_minute = 1000000
[refresh]
per_second_and_connector = 100000
rejected_interval_s = 1
[log]
format = "json"
"""


class Failed(Exception):
    """Something did not start, or is not as it should be."""


@contextlib.contextmanager
def sandbox(program):
    """The provider; gives its address."""
    command = [program, "--until-eof", "--settings", json.dumps({"auto_consent": True, "ledger": "off"})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            if not address:
                raise Failed("the sandbox did not start")
            yield address
        finally:
            process.stdin.close()


class Broker:
    """A running broker."""

    def __init__(self, program, common, folder, process):
        self.program, self.folder, self.process = program, folder, process
        self.common = common
        self.address = self.reader = None
        # What it could not do and why, as its log says; no answer says that.
        self.errors = []

    def listen(self):
        """Reads the log: up to the line that says where the broker is, and then on in a thread."""
        for line in self.process.stderr:
            self._look_at(line)
            if self.address:
                self.reader = threading.Thread(target=self._follow, daemon=True)
                self.reader.start()
                return
        raise Failed(f"the broker did not start: {self.errors}")

    def _follow(self):
        for line in self.process.stderr:
            self._look_at(line)

    def _look_at(self, line):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            # A panic is told in plain text.
            self.errors.append(line.strip())
            return
        fields = entry.get("fields", entry)
        if "public_url" in fields:
            self.address = fields["public_url"].rstrip("/")
        if entry.get("level") == "ERROR":
            self.errors.append(line.strip())

    def command(self, *arguments):
        """A verb of the command line, through the socket; gives its JSON."""
        command = [self.program, *self.common, "--json", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"{arguments}: {done.stderr}")
        return json.loads(done.stdout)


@contextlib.contextmanager
def broker(program, folder, database=None):
    """A broker with its data in a new folder; on SQLite, or on a database of PostgreSQL."""
    folder.mkdir(mode=0o700)
    configuration = CONFIGURATION
    if database:
        key = folder / "key"
        key.touch(mode=0o600)
        key.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
        url = folder / "url"
        url.touch(mode=0o600)
        url.write_text(database)
        configuration += f"[database]\nurl_file = {json.dumps(str(url))}\n[keyring]\nkey_file = {json.dumps(str(key))}\n"
    (folder / "valetkey.toml").write_text(configuration)
    common = ["--config", folder / "valetkey.toml", "--data-dir", folder / "data"]
    with subprocess.Popen([program, *common, "serve"], stderr=subprocess.PIPE, text=True) as process:
        running = Broker(program, common, folder, process)
        try:
            running.listen()
            yield running
        finally:
            process.terminate()
            process.wait()
            if running.reader:
                running.reader.join()


@contextlib.contextmanager
def postgres_database(url):
    """A database of its own on a server; gives its address."""
    name = f"valetkey_generated_{secrets.token_hex(6)}"

    def sql(statement):
        command = ["psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--command={statement}", url]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    sql(f"CREATE DATABASE {name}")
    try:
        address, _, parameters = url.partition("?")
        yield address[: address.rindex("/") + 1] + name + ("?" + parameters if parameters else "")
    finally:
        sql(f"DROP DATABASE {name} WITH (FORCE)")


def furnish(running, provider):
    """Makes keys and connectors, and writes down what there is: the file that `world.World` reads."""
    admin = running.command("keys", "create", "--name", "setup", "--role", "admin", "--role", "app", "--role", "shared")
    http = world.Http(running.address, admin["key"])
    connectors = {}
    for kind in ("per_user", "shared", "machine"):
        connectors[kind] = http.call("POST", "/v1/connectors", world.connector(provider, kind))["id"]
    keys, protected = {}, [admin["id"]]
    for name, identity in IDENTITIES.items():
        new = {"name": name, "roles": identity["roles"]}
        if identity.get("narrowed"):
            new["connectors"] = list(connectors.values())
        made = http.call("POST", "/v1/keys", new)
        keys[name] = made["key"]
        protected.append(made["id"])
    about = {
        "broker": running.address,
        "provider": provider,
        "setup": admin["key"],
        "keys": keys,
        "protected": protected,
        "connectors": connectors,
    }
    file = running.folder / "world.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(about))
    return about, file


def find(name, folder):
    """A program that was built."""
    program = pathlib.Path(folder) / name
    if not os.access(program, os.X_OK):
        raise Failed(f"{program} is not there: cargo build -p valetkey-server -p valetkey-sandbox")
    return program.resolve()
