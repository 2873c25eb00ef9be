"""What Schemathesis is told about this API: real values, what counts as documented, and what to count.

Schemathesis loads this file by itself (SCHEMATHESIS_HOOKS). VALETKEY_GENERATED_WORLD names what there is,
VALETKEY_GENERATED_IDENTITY who asks, VALETKEY_GENERATED_TALLY where the counts go.
"""

import atexit
import collections
import json
import os
import pathlib
import random
import re
import sys

import schemathesis
from schemathesis.core.parameters import ParameterLocation

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

import real  # noqa: E402
import sharp  # noqa: E402
import world  # noqa: E402

HERE = world.World(os.environ["VALETKEY_GENERATED_WORLD"], os.environ["VALETKEY_GENERATED_IDENTITY"])
PROBLEMS = FOLDER.parents[1] / "docs" / "problems.md"
NDJSON = "application/x-ndjson"

# ------------------------------------------------------------------------------------------------ the document, stricter


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Takes away what would let everything pass: the answer `default`, and room for members that nobody described."""
    for item in raw_schema["paths"].values():
        for operation in item.values():
            operation["responses"].pop("default", None)
    schemas = raw_schema["components"]["schemas"]
    asked = _reached(raw_schema, lambda operation: operation.get("requestBody"))
    answered = _reached(raw_schema, lambda operation: operation["responses"])
    # Part of another one's `allOf`, where it must not close the whole.
    parts = {part["$ref"].rsplit("/", 1)[1] for one in schemas.values() for part in one.get("allOf", []) if "$ref" in part}
    # A problem's members depend on its code: `problem` below looks at them.
    for name in answered - asked - parts - {"Problem"}:
        if "allOf" in schemas[name] or "properties" in schemas[name]:
            schemas[name].setdefault("unevaluatedProperties", False)


def _reached(document, part):
    found, ahead = set(), [part(operation) for item in document["paths"].values() for operation in item.values()]
    while ahead:
        here = ahead.pop()
        if isinstance(here, dict):
            reference = here.get("$ref")
            if isinstance(reference, str) and reference not in found:
                found.add(reference)
                kind, name = reference.split("/")[-2:]
                ahead.append(document["components"][kind][name])
            ahead.extend(here.values())
        elif isinstance(here, list):
            ahead.extend(here)
    return {reference.rsplit("/", 1)[1] for reference in found if "/schemas/" in reference}


# ----------------------------------------------------------------------------------------------------- lines of an import


@schemathesis.serializer(NDJSON)
def write_lines(context, value):
    """One line; what is generated as a wrong body goes out as it is."""
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"


@schemathesis.deserializer(NDJSON)
def read_lines(context, response):
    """The report of the first line; `answer_is_documented` looks at the others."""
    return json.loads(response.content.splitlines()[0]) if response.content.strip() else {"line": 0}


# ------------------------------------------------------------------------------------------------------------ real values


@schemathesis.hook
def before_call(context, case, kwargs):
    """Puts real values in the place of generated ones, often but not always, and never of what is wrong on purpose."""
    name = case.operation.definition.raw["operationId"]
    give = real.OPERATIONS.get(name)
    if give is None or case.method.upper() != case.operation.method.upper():
        return
    # Drawn from the request itself, so that the same seed asks the same.
    draw = random.Random(repr((name, case.path_parameters, case.query, case.body)))
    pinned = sharp.pinned(case)
    ending = name in real.ENDING and case.path_parameters.get("id") in HERE.protected | set(HERE.connectors.values())
    if not pinned and not ending and draw.random() < 0.15:
        return
    values = give(HERE, draw)
    if pinned:
        for _ in range(4):
            # Some members go with one way of asking and not with another.
            if pinned.part == "body" and values.body.get(pinned.path[0]) is real.ABSENT:
                values = give(HERE, draw)
        pinned.place(case, values)
        return
    if values.path is not None and (ending or not _is_wrong(case, ParameterLocation.PATH)):
        case.path_parameters = dict.fromkeys(case.path_parameters, values.path)
    if case.query and not _is_wrong(case, ParameterLocation.QUERY):
        # Mostly one filter: several at once find nothing.
        kept = draw.sample(sorted(case.query), k=min(len(case.query), draw.choice([1, 1, 2, 9])))
        query = {name: values.query.get(name, case.query[name]) for name in kept}
        case.query = {name: value for name, value in query.items() if value is not real.ABSENT}
    if isinstance(case.body, dict) and not _is_wrong(case, ParameterLocation.BODY):
        case.body = _mixed(case.body, values.body, draw)


@schemathesis.hook
def before_add_examples(context, examples):
    """Adds requests that are good but for one text."""
    if context.operation.definition.raw["operationId"] in real.OPERATIONS:
        examples.extend(sharp.requests(context.operation, int(os.environ["VALETKEY_GENERATED_SHARP"])))


def _is_wrong(case, location):
    return case.meta is not None and case.meta.is_negative_at(location)


def _mixed(generated, wanted, draw):
    """Real members, and a few generated ones: one more that is wrong hides whatever lies behind it."""
    stray = draw.random() < 0.3
    body = {name: value for name, value in generated.items() if name not in wanted and draw.random() < 0.6}
    for name, value in wanted.items():
        if stray and name in generated and draw.random() < 0.3:
            body[name] = generated[name]
        elif value is not real.ABSENT:
            body[name] = value
    return body


# ---------------------------------------------------------------------------------------------- problems, as documented


def _documented_problems():
    """By code: the statuses, and every word that its section has in backticks, members among them."""

    def words(text):
        return {word for quoted in re.findall(r"`([^`]+)`", text) for word in re.findall(r"[a-z_]+", quoted)}

    text = re.sub(r"^```.*?^```$", "", PROBLEMS.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    head, *sections = re.split(r"^### ", text, flags=re.MULTILINE)
    known = {}
    for section in sections:
        code, text = section.split("\n", 1)
        status = re.match(r"API: (\d+)", text)
        known[code.strip()] = (int(status[1]) if status else None, words(text) | words(head))
    return known


DOCUMENTED = _documented_problems()
ALWAYS = {"type", "title", "status", "code", "detail", "request_id"}


def problem(body, status=None):
    """Fails unless docs/problems.md has this problem with this status and these members."""
    code = body.get("code")
    assert code in DOCUMENTED, f"docs/problems.md has no problem {code!r}"
    documented, members = DOCUMENTED[code]
    assert documented is not None, f"{code} is a page's code, not the API's"
    if status is not None:
        assert (body.get("status"), documented) == (status, status), f"{code} is documented with {documented}"
        assert body.get("type") == f"/problems/{code}", f"{code} has the type {body.get('type')}"
    undocumented = set(body) - ALWAYS - members
    assert not undocumented, f"{code}: docs/problems.md does not know its members {sorted(undocumented)}"


@schemathesis.check
def answer_is_documented(context, response, case):
    """The status is one that the operation names, and what failed is a problem that the documentation knows."""
    raw = case.operation.definition.raw
    is_other_method = response.request.method != case.operation.method.upper()
    named = {405} if is_other_method else {int(status) for status in raw["responses"] if status.isdigit()}
    status = response.status_code
    assert status in named, f"{status} is not among {sorted(named)}"
    if status == 405:
        assert response.headers.get("allow"), "405 without Allow"
    if status >= 400:
        assert response.headers.get("content-type") == ["application/problem+json"], "no problem"
        body = json.loads(response.content)
        problem(body, status)
        assert response.headers.get("x-request-id") == [body.get("request_id")], "another request's id"
        wait = body.get("retry_after")
        assert wait is None or response.headers.get("retry-after") == [str(wait)], "Retry-After says something else"
        assert status not in (429, 503) or wait is not None, f"{status} without Retry-After"
    elif raw["operationId"] == "import_connections":
        for line in response.content.splitlines():
            report = json.loads(line)
            assert set(report) <= {"line", "connection_id", "generation", "problem"}, report
            if "problem" in report:
                problem(report["problem"])
                assert DOCUMENTED[report["problem"]["code"]][0] < 500, report
            else:
                # negative_data_rejection looks at the status alone, which is that of all lines together.
                assert not _is_wrong(case, ParameterLocation.BODY), f"a wrong line was imported: {report}"


# ---------------------------------------------------------------------------------------------------------------- counts

TALLY = collections.Counter()


@schemathesis.hook
def after_call(context, case, response):
    """Counts each answer by operation and status."""
    name = case.operation.definition.raw["operationId"]
    if response.request.method != case.operation.method.upper():
        name = "another method"
    TALLY[f"{name} {response.status_code}"] += 1


@atexit.register
def write_tally():
    """Leaves the counts for run.py."""
    pathlib.Path(os.environ["VALETKEY_GENERATED_TALLY"]).write_text(json.dumps(TALLY), encoding="utf-8")
