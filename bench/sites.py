"""A gateway with users of its own, and callers of it: what limits.py and outage.py measure."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from ledger import new_database
from run import CHAT, GATEWAY, HERE, ROOT, pinned, running, serve

MINUTE = 60.0
BODY = {"model": "mock", "messages": [{"role": "user", "content": "Name three colours."}]}

MAKE = """
import json
from datetime import timedelta
from django.utils import timezone
from accounts.models import ApiKey, Tier, User
from accounts.tokens import ApiKeyToken
keys = {}
for name, tier, quotas in json.loads(WANTED):
    made = Tier.objects.create(name=name, **tier)
    for metric, window, limit in quotas:
        made.quotas.create(metric=metric, window=window, limit=limit)
    user = User.objects.create_user(name, tier=made)
    row = ApiKey.objects.create(user=user, name="bench", expires_at=timezone.now() + timedelta(days=1))
    keys[name] = str(ApiKeyToken.for_key(row))
print(json.dumps(keys))
"""

ROWS = """
import json
from proxy.models import UsageRecord
rows = UsageRecord.objects.filter(user__username=NAME).order_by("admitted_at")
told = [[row.admitted_at.timestamp(), row.prompt_tokens + row.completion_tokens, row.error] for row in rows]
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Answer:
    """What a caller was told. `at` is when it asked, in Unix time; `reserved` what was reserved for it, in tokens."""

    status: int
    at: float
    seconds: float
    retry_after: int | None
    code: str


class Site:
    """A database with the users of one run, and gateways on it."""

    def __init__(self, folder: Path, users: list[Any]) -> None:
        folder.mkdir(exist_ok=True)
        url = new_database() or f"sqlite:///{folder}/limits.sqlite3"
        self.env = {"DATABASE_URL": url, "SECRET_KEY": "bench" * 10, "LOG_LEVEL": "WARNING"}
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], check=True, cwd=ROOT, env=os.environ | self.env)
        self.keys: dict[str, str] = self.shell(MAKE.replace("WANTED", repr(json.dumps(users))))

    def shell(self, code: str) -> Any:
        command = [sys.executable, "manage.py", "shell", "-v0", "-c", code]
        told = subprocess.run(command, cwd=ROOT, env=os.environ | self.env, check=True, capture_output=True, text=True)
        return json.loads(told.stdout)

    def rows(self, name: str) -> list[tuple[float, int, str]]:
        return [tuple(row) for row in self.shell(ROWS.replace("NAME", repr(name)))]

    @contextmanager
    def gateway(self, workers: int, upstream: int, port: int = GATEWAY, **env: str) -> Iterator[int]:
        command = [*serve(port), "--workers", str(workers)]
        if workers > 1:
            command = command[3:] if command[0] == "taskset" else command  # on both cores
        own = self.env | {"LLAMA_SERVERS": f"http://127.0.0.1:{upstream}"} | env
        with running(command, port, "/health/ready", **own) as pid:
            yield pid


@contextmanager
def stand_in(port: int, events: int, gap: float) -> Iterator[None]:
    command = pinned(1, sys.executable, str(HERE / "mock_llama.py"), str(port), str(events), str(gap))
    with running(command, port, "/v1/models"):
        yield


async def call(session: aiohttp.ClientSession, key: str, port: int = GATEWAY) -> Answer:
    at, began = time.time(), time.monotonic()
    async with session.post(
        f"http://127.0.0.1:{port}{CHAT}", json=BODY, headers={"Authorization": f"Bearer {key}"}
    ) as answer:
        told = await answer.json()
        wait = answer.headers.get("Retry-After")
        code = told.get("error", {}).get("code", "")
        return Answer(answer.status, at, time.monotonic() - began, int(wait) if wait else None, code)


async def callers(count: int, one: Callable[[aiohttp.ClientSession], Awaitable[list[Answer]]]) -> list[Answer]:
    """All at once, each call on a connection of its own, so that calls spread over the workers."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=aiohttp.ClientTimeout(total=120)
    ) as session:
        return [answer for answers in await asyncio.gather(*(one(session) for _ in range(count))) for answer in answers]


def most_in_a_minute(moments: list[tuple[float, int]]) -> int:
    """The most that any window of a minute holds, of (moment, amount) in order."""
    most = held = begin = 0
    for moment, amount in moments:
        held += amount
        while moments[begin][0] <= moment - MINUTE:
            held -= moments[begin][1]
            begin += 1
        most = max(most, held)
    return most


def run_chosen(runs: dict[str, Callable[[Path], bool]]) -> None:
    """Run what the command line names, or all; each tells whether it failed."""
    failed = []
    for name in sys.argv[1:] or list(runs):
        with tempfile.TemporaryDirectory() as folder:
            if runs[name](Path(folder)):
                failed.append(name)
    sys.exit(f"Not as promised: {', '.join(failed)}." if failed else 0)
