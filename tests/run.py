"""`make test`: all tests on SQLite and then, where one is reachable, those of the database on PostgreSQL.

It says what it left out, and why. Arguments are pytest's.
REQUIRE_SERVICES=1 makes a missing PostgreSQL or Redis a failure.
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

POSTGRESQL = os.environ.get("TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432/postgres")


def missing_services() -> list[str]:
    missing = [] if listens(5432) else ["PostgreSQL (nothing listens on 127.0.0.1:5432)"]
    return missing if shutil.which("redis-server") else [*missing, "Redis (redis-server is not installed)"]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(title: str, *options: str, **env: str) -> int:
    print(f"== {title}", flush=True)
    command = [sys.executable, "-m", "pytest", "-rs", *options, *sys.argv[1:]]
    return subprocess.run(command, cwd=Path(__file__).parent.parent, env={**os.environ, **env}).returncode


def main() -> int:
    missing = missing_services()
    if missing and os.environ.get("REQUIRE_SERVICES") == "1":
        print(f"REQUIRE_SERVICES=1, but these are missing: {', '.join(missing)}.")
        return 1
    failed = run("on SQLite", DATABASE_URL="")
    for each in missing:
        print(f"== Left out: the tests on {each}.")
    if listens(5432):
        failed = failed or run(
            "on PostgreSQL, but for what no database can change", "-m", "not once", DATABASE_URL=POSTGRESQL
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
