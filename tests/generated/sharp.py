"""Requests that are good but for one text, which is one that has hurt somebody: each such text at each place that takes one.

Chance alone would seldom put a sharp text into a request that is right in everything else.
"""

import os
from dataclasses import dataclass

import real

# What a database, a path, a header or a log line takes for something else; the sharpest first.
TEXTS = [
    "a\0b",
    "x" * 5000,
    "",
    "a\r\nb: c",
    "\uffff",
    "%00",
    "\U0010ffff",
    "9223372036854775808",
    "' OR '1'='1",
    " ",
    "..",
    "\x85",
    "\u202e",
    "*",
    "-1",
    "9999-12-31T23:59:60Z",
    "http://[::1]:0/",
    "javascript:alert(1)",
    "\x1b[31m",
    "\x7f",
    "\ufeff",
    "e\u0301",
    "../../v1/keys",
    "%2e%2e%2f",
    "$1",
    "{{1}}",
    "null",
    "0000-00-00T00:00:00Z",
]


class Sharp(str):
    """Marks the one text that stays as it is."""


def requests(operation, depth):
    """For each place the first `depth` of the list."""
    raw, document = operation.definition.raw, operation.schema.raw_schema
    names = {
        part: [parameter["name"] for parameter in raw.get("parameters", []) if parameter["in"] == kind]
        for part, kind in (("path_parameters", "path"), ("query", "query"))
    }
    places = [(part, (name,)) for part in names for name in names[part]]
    headers = {"Authorization": f"Bearer {os.environ['VALETKEY_GENERATED_KEY']}"}
    media_type = None
    for media_type, content in raw.get("requestBody", {}).get("content", {}).items():
        places += [("body", path) for path in _texts(content["schema"], document)]
    for part, path in places:
        for text in TEXTS[:depth]:
            if part == "path_parameters" and {"", "..", "."} & set(text.split("/")):
                # The client resolves these (RFC 3986, section 5.2.4), and asks another address.
                continue
            parts = {"path_parameters": dict.fromkeys(names["path_parameters"], "0")}
            if media_type:
                parts["body"] = {}
            parts[part] = _with(parts.get(part), path, Sharp(text))
            case = operation.Case(**parts, media_type=media_type, headers=headers)
            # The check ignored_auth would take the key for a generated one.
            case._has_explicit_auth = True
            yield case


@dataclass
class Pinned:
    """Where the marked text is, and itself."""

    part: str
    path: tuple[str, ...]
    text: str

    def place(self, case, values):
        """Puts real values everywhere else."""
        if case.path_parameters and self.part != "path_parameters":
            case.path_parameters = dict.fromkeys(case.path_parameters, values.path)
        if isinstance(case.body, dict):
            good = {name: value for name, value in values.body.items() if value is not real.ABSENT}
            case.body = _with(good, self.path, str(self.text)) if self.part == "body" else good


def pinned(case):
    """The marked text of a request, if it has one."""
    for part in ("path_parameters", "query", "body"):
        for path, text in _found(getattr(case, part)):
            return Pinned(part, path, text)
    return None


def _with(value, path, text):
    """A copy that holds the text at this place."""
    if not path:
        return text
    name, *rest = path
    if name == "[]":
        return [_with(None, rest, text)]
    return {**(value if isinstance(value, dict) else {}), name: _with((value or {}).get(name), rest, text)}


def _found(value, path=()):
    if isinstance(value, Sharp):
        yield path, value
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _found(member, (*path, name))
    elif isinstance(value, list):
        for member in value:
            yield from _found(member, (*path, "[]"))


def _texts(schema, document, path=()):
    """The places of a schema that hold a text of the caller's choice."""
    while "$ref" in schema:
        kind, name = schema["$ref"].split("/")[-2:]
        schema = document["components"][kind][name]
    for choice in schema.get("oneOf", []):
        yield from _texts(choice, document, path)
    if "string" in schema.get("type", []) and "enum" not in schema:
        yield path
    if isinstance(schema.get("items"), dict):
        yield from _texts(schema["items"], document, (*path, "[]"))
    for name, member in schema.get("properties", {}).items():
        yield from _texts(member, document, (*path, name))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _texts(schema["additionalProperties"], document, (*path, "name"))
