"""Rows of the ledger that are lost when the gateway is killed, or stopped, under load: the table of docs/ledger.md.

Usage: ledger.py [ROUNDS]. A gateway on SQLite and, where one is reachable, on PostgreSQL serves 200 calls a second from
a stand-in. In the middle of it it gets SIGKILL or SIGTERM. Then every answer that a client has read to its end is
looked for in the ledger.
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from run import GATEWAY, HERE, PLAIN, ROOT, gateway_env, pinned, running, serve

RATE = 200  # calls a second
SECONDS = 5.0  # of load before the end
POSTGRESQL = os.environ.get("TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432/postgres")
BODY = b'{"messages":[{"role":"user","content":"Hi"}],"max_tokens":4,"stream":true}'


@dataclass
class Answers:
    """The ids of answers that were read to their end, and when; and how many calls were not answered."""

    read_at: dict[str, float] = field(default_factory=dict)
    broken: int = 0


async def call(token: str, answers: Answers) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", GATEWAY)
        writer.write(f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
        answer = await reader.read()
        writer.close()
    except OSError:
        answer = b""
    if b" 200 OK" in answer[:20] and answer.endswith(b"0\r\n\r\n"):
        answers.read_at[answer.split(b"x-request-id: ")[1].split(b"\r\n")[0].decode()] = time.time()
    else:
        answers.broken += 1


async def load(token: str, end: Any) -> Answers:
    """Calls at an even rate, and in the middle of them the end."""
    answers, tasks = Answers(), []
    began = time.monotonic()
    for number in range(int(RATE * (SECONDS + 1))):
        await asyncio.sleep(max(0, began + number / RATE - time.monotonic()))
        tasks.append(asyncio.create_task(call(token, answers)))
        if number == RATE * SECONDS:
            end()
    await asyncio.gather(*tasks)
    return answers


def rows(env: dict[str, str]) -> set[str]:
    code = "from proxy.models import UsageRecord; print(*UsageRecord.objects.values_list('request_id', flat=True))"
    command = [sys.executable, "manage.py", "shell", "-v0", "-c", code]
    told = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, check=True, capture_output=True, text=True)
    return set(told.stdout.split())


def end_under_load(env: dict[str, str], signum: int) -> tuple[int, int, float]:
    """Answers that were read, rows of them that are missing, and the seconds from the oldest of these to the end."""
    ended_at = 0.0
    with running(serve(GATEWAY), GATEWAY, "/health", **env) as pid:

        def end() -> None:
            nonlocal ended_at
            ended_at = time.time()
            os.kill(pid, signum)

        answers = asyncio.run(load(env["TOKEN"], end))
    lost = answers.read_at.keys() - rows(env)
    oldest = min((answers.read_at[each] for each in lost), default=ended_at)
    return len(answers.read_at), len(lost), ended_at - oldest


def new_database(name: str = "llmgateway_bench") -> str | None:
    """A new PostgreSQL database, in place of one of that name; None where no server is reachable."""
    try:
        with psycopg.connect(POSTGRESQL, autocommit=True, connect_timeout=2) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name}")
    except psycopg.OperationalError:
        return None
    return POSTGRESQL.rsplit("/", 1)[0] + f"/{name}"


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    mock = pinned(1, sys.executable, str(HERE / "mock_llama.py"), str(PLAIN), "4", "0.005")
    with tempfile.TemporaryDirectory() as folder, running(mock, PLAIN, "/v1/models"):
        databases = {"SQLite": f"sqlite:///{folder}/bench.sqlite3", "PostgreSQL": new_database()}
        print("| database | ended by | rounds | answers read | rows lost | the oldest of them before the end |")
        print("|---|---|---|---|---|---|")
        failed = False
        for name, url in databases.items():
            if url is None:
                print(f"| {name} | | | not reachable | | |")
                continue
            env = gateway_env(Path(folder), url)
            for signum in (signal.SIGKILL, signal.SIGTERM):
                results = [end_under_load(env, signum) for _ in range(rounds)]
                read, lost, oldest = sum(r[0] for r in results), sum(r[1] for r in results), max(r[2] for r in results)
                shown = f"{oldest:.2f} s" if lost else ""
                print(f"| {name} | {signum.name} | {rounds} | {read} | {lost} | {shown} |", flush=True)
                failed |= oldest > 1.0 or (signum == signal.SIGTERM and lost > 0)
    sys.exit("More was lost than may be." if failed else 0)


if __name__ == "__main__":
    main()
