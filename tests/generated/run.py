"""Sends requests generated from docs/openapi.json to a broker, as several identities and on each database there is.

    scripts/test generated                                       as a step of the tests
    VALETKEY_TEST_GENERATED_EXAMPLES=400 scripts/test generated  longer: so many requests for each operation and mode
    VALETKEY_TEST_GENERATED_SEED=7 scripts/test generated        others

Fails for an answer of status 5xx, for one that the document does not describe, for a wrong request that is accepted, and for
an operation that never succeeded: behind a 404 or a 422 nothing is tested.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import house

FOLDER = pathlib.Path(__file__).resolve().parent
DOCUMENT = FOLDER.parents[1] / "docs" / "openapi.json"

# Who asks for what, and how many of the examples. These two go deep, on each database.
DEEP = [
    ("everything", ["--exclude-operation-id", "fetch_token"], 1.0, []),
    ("connector", ["--include-operation-id", "fetch_token"], 4.0, []),
]
# These mostly meet refusals, which are the same on each.
SHALLOW = [
    ("connector", ["--exclude-operation-id", "fetch_token"], 0.2, ["--phases", "examples,fuzzing"]),
    ("operator", [], 0.2, ["--phases", "examples,fuzzing"]),
    ("application", [], 0.2, ["--phases", "examples,fuzzing"]),
]


def schemathesis(options, about, file, folder, run):
    """One run of Schemathesis; gives its status, what it printed, and what it counted."""
    identity, operations, share, phases = run
    tally = folder / "tally.json"
    tally.unlink(missing_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Sets and their order are part of what a seed repeats.
        "PYTHONHASHSEED": "0",
        "SCHEMATHESIS_HOOKS": str(FOLDER / "hooks.py"),
        "VALETKEY_GENERATED_KEY": about["keys"][identity],
        "VALETKEY_GENERATED_WORLD": str(file),
        "VALETKEY_GENERATED_IDENTITY": identity,
        "VALETKEY_GENERATED_TALLY": str(tally),
        # A tenth of the examples, at least two, where the operations are asked for in depth.
        "VALETKEY_GENERATED_SHARP": str(max(2, options.examples // 10) if run in DEEP else 0),
    }
    program = pathlib.Path(sys.executable).with_name("schemathesis")
    command = [program, "--config-file", FOLDER / "schemathesis.toml", "--no-color", "run", DOCUMENT]
    command += ["--url", about["broker"], "--seed", str(options.seed), *operations, *phases]
    command += ["--max-examples", str(max(1, round(options.examples * share)))]
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    counted = collections.Counter(json.loads(tally.read_text())) if tally.exists() else collections.Counter()
    return done.returncode, done.stdout, counted


def on_engine(options, engine, database, folder):
    """All runs on one database; gives the lines of the table and what is wrong."""
    lines, wrong, succeeded = [], [], set()
    programs = [house.find(name, options.programs) for name in ("valetkey-sandbox", "valetkey")]
    with house.sandbox(programs[0]) as provider, house.broker(programs[1], folder, database) as running:
        about, file = house.furnish(running, provider)
        for run in DEEP + ([] if database else SHALLOW):
            started = time.monotonic()
            status, printed, counted = schemathesis(options, about, file, folder, run)
            took = time.monotonic() - started
            by_status = collections.Counter()
            for what, count in counted.items():
                name, answer = what.rsplit(" ", 1)
                by_status[answer[0] + "xx"] += count
                if answer in ("429",) or answer.startswith("5"):
                    wrong.append(f"{engine}, {run[0]}: {count} x {answer} from {name}")
                if answer.startswith("2"):
                    succeeded.add(name)
            names = len({what.rsplit(" ", 1)[0] for what in counted} - {"another method"})
            numbers = [sum(counted.values()), *(by_status[kind] for kind in ("2xx", "4xx", "5xx"))]
            lines.append((engine, run[0], names, *numbers, round(took, 1)))
            if status != 0:
                wrong.append(f"{engine}, {run[0]}: Schemathesis ended with status {status}")
            if status != 0 or options.verbose:
                print(printed)
            if options.verbose:
                print(json.dumps(dict(sorted(counted.items())), indent=1))
        document = json.loads(DOCUMENT.read_text())
        every = {operation["operationId"] for item in document["paths"].values() for operation in item.values()}
        if every - succeeded:
            wrong.append(f"{engine}: never succeeded: {sorted(every - succeeded)}")
        # What an answer of status 5xx keeps to itself.
        wrong += [f"{engine}: {error}" for error in running.errors]
    return lines, wrong


def main():
    """Runs the engines side by side and tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", help="the folder with valetkey and valetkey-sandbox")
    parser.add_argument("--examples", type=int, default=15, help="requests for each operation, phase and mode")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", metavar="URL", help="a server whose user may create databases")
    parser.add_argument("--verbose", action="store_true", help="print what Schemathesis prints, and every count")
    options = parser.parse_args()
    # What was started is stopped, and the database dropped, by the blocks below.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"seed {options.seed}, {options.examples} examples")
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="valetkey-generated-")))
        engines = {"sqlite": None}
        if options.postgres:
            engines["postgres"] = stack.enter_context(house.postgres_database(options.postgres))
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor())
        futures = [
            pool.submit(on_engine, options, engine, database, folder / engine) for engine, database in engines.items()
        ]
        results = [future.result() for future in futures]
    head = ("database", "identity", "operations", "requests", "2xx", "4xx", "5xx", "seconds")
    form = "{:<9} {:<12} {:>10} {:>9} {:>7} {:>7} {:>5} {:>8}"
    lines = [line for found, _ in results for line in found]
    for line in (head, *lines):
        print(form.format(*line))
    sums = [sum(line[column] for line in lines) for column in range(3, 7)]
    print(form.format("", "all", "", *sums, round(time.monotonic() - started, 1)))
    wrong = [complaint for _, found in results for complaint in found]
    for complaint in wrong:
        print(f"generated: {complaint}", file=sys.stderr)
    return 1 if wrong or not sums[0] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except house.Failed as failure:
        sys.exit(f"generated: {failure}")
