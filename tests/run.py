"""`make test`: all tests, in parts that run at the same time: what no database changes, the rest on SQLite, and the
rest on PostgreSQL where one is reachable.

It says what it left out, and why. Arguments are pytest's, and go to each part. The output of the first part is shown
as it comes, that of the others when it has ended. REQUIRE_SERVICES=1 makes a missing PostgreSQL or Redis a failure.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

POSTGRESQL = os.environ.get("TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432/postgres")
PARTS = [  # its title, the tests, their database: the longest first, since it is the one that is watched
    ("what no database changes", "once", ""),
    ("the rest on SQLite", "not once", ""),
    ("the rest on PostgreSQL", "not once", POSTGRESQL),
]
NO_TESTS = 5  # pytest's exit status where the arguments select none of a part


def missing_services() -> list[str]:
    missing = [] if listens(5432) else ["PostgreSQL (nothing listens on 127.0.0.1:5432)"]
    return missing if shutil.which("redis-server") else [*missing, "Redis (redis-server is not installed)"]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start(tests: str, database: str, out: int | None) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "pytest", "-rs", "-m", tests, *sys.argv[1:]]
    env = {**os.environ, "DATABASE_URL": database}
    return subprocess.Popen(command, cwd=Path(__file__).parent.parent, env=env, stdout=out, stderr=out)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Let a part that was interrupted, as all are by Ctrl-C, stop its servers before it is killed."""
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()


def main() -> int:
    missing = missing_services()
    if missing and os.environ.get("REQUIRE_SERVICES") == "1":
        print(f"REQUIRE_SERVICES=1, but these are missing: {', '.join(missing)}.")
        return 1
    began = time.monotonic()
    parts = PARTS if listens(5432) else PARTS[:-1]
    with ExitStack() as stack:
        outputs = [None, *(stack.enter_context(tempfile.TemporaryFile()) for _ in parts[1:])]
        running = []
        for (_, tests, database), output in zip(parts, outputs, strict=True):
            running.append(start(tests, database, output and output.fileno()))
            stack.callback(end, running[-1])
        print(f"== {parts[0][0]} (beside it run: {', '.join(title for title, *_ in parts[1:])})", flush=True)
        statuses = []
        for (title, *_), process, output in zip(parts, running, outputs, strict=True):
            statuses.append(process.wait())
            if output is not None:
                print(f"== {title}", flush=True)
                output.seek(0)
                shutil.copyfileobj(output, sys.stdout.buffer)
                sys.stdout.flush()
    for each in missing:
        print(f"== Left out: the tests on {each}.")
    failed = [title for (title, *_), status in zip(parts, statuses, strict=True) if status not in (0, NO_TESTS)]
    print(f"== {time.monotonic() - began:.0f} s. {'Failed: ' + '; '.join(failed) if failed else 'No part failed.'}")
    return 1 if failed or set(statuses) == {NO_TESTS} else 0


if __name__ == "__main__":
    sys.exit(main())
