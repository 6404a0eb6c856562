"""Whether limits hold: the tables of docs/limits.md.

Usage: limits.py burst | steady | outage | stopped. Each starts what it needs: a stand-in for llama-server, a Redis, a
database (PostgreSQL where one is reachable), and the gateway, as one process that counts in memory or as four that
count in Redis. A table is printed, and the run fails where a figure is not what docs/limits.md promises.

burst: 500 callers of one user at the same time. What was admitted beyond the limit must be 0.
steady: 20 callers for 130 s, whose answers are 100 tokens under a reservation of 512. From the ledger: what was used in
any minute must not be more than the limit, and mostly not less than 80% of it.
outage: Redis is killed and started again in the middle, for each STORE_DOWN_POLICY.
stopped: a worker that holds 10 calls is stopped for 30 s, and goes on; another is killed.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from admission import redis_server
from ledger import new_database
from run import CHAT, GATEWAY, HERE, PACED, PLAIN, ROOT, pinned, running, uvicorn

sys.path.insert(0, str(ROOT))

from proxy.calls import Call
from proxy.schemas import CHAT as CHAT_BODY

CALLERS = 500
LIMITS = (10, 100, 1000)
MINUTE = 60.0
BODY = {"model": "mock", "messages": [{"role": "user", "content": "Name three colours."}]}
SETUPS = {"1 process, memory": 1, "4 processes, Redis": 4}

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
        command = [*uvicorn("llmgateway.asgi:application", port), "--workers", str(workers)]
        if workers > 1:
            command = command[3:] if command[0] == "taskset" else command  # on both cores
        own = self.env | {"LLAMA_SERVERS": f"http://127.0.0.1:{upstream}"} | env
        with running(command, port, "/health/ready", **own) as pid:
            yield pid
            children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
        for child in map(int, children):  # uvicorn's workers outlive a parent that is gone too soon
            if Path(f"/proc/{child}").exists():
                os.kill(child, signal.SIGKILL)


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
    """All at once, each on connections of its own."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120)
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


# -- burst ---------------------------------------------------------------------------------------------------------

RESERVED = Call.parse(json.dumps(BODY).encode(), CHAT_BODY).ask(None).most  # tokens: the bound of its prompt, and 512


def burst(folder: Path) -> bool:
    """Requests: four calls each, answered at once. Tokens and running calls: one each, while none has ended."""
    users = [(f"requests-{n}", {}, [("requests", "minute", n)]) for n in LIMITS]
    users += [(f"running-{n}", {"max_concurrent_requests": n}, []) for n in LIMITS]
    users += [(f"tokens-{n}", {}, [("tokens", "minute", n * RESERVED)]) for n in LIMITS]
    print("| setup | limit | asked | admitted | beyond |\n|---|---|---|---|---|")
    failed = False
    with stand_in(PLAIN, 1, 0), stand_in(PACED, 1, 6.0), redis_server() as redis:
        for setup, workers in SETUPS.items():
            env = {"REDIS_URL": redis} if workers > 1 else {}
            site = Site(folder, users)
            for kind, upstream, times in (("requests", PLAIN, 4), ("running", PACED, 1), ("tokens", PACED, 1)):
                with site.gateway(workers, upstream, **env):
                    for limit in LIMITS:
                        key = site.keys[f"{kind}-{limit}"]
                        answers = asyncio.run(callers(CALLERS, repeated(key, times)))
                        found = Counter(answer.status for answer in answers)
                        beyond = found[200] - min(limit, len(answers))
                        failed |= beyond != 0 or found[200] + found[429] != len(answers)
                        what = f"{limit * RESERVED} tokens = {limit} calls" if kind == "tokens" else f"{limit} {kind}"
                        print(f"| {setup} | {what} | {len(answers)} | {found[200]} | {beyond} |", flush=True)
    return failed


def repeated(key: str, times: int) -> Callable[[aiohttp.ClientSession], Awaitable[list[Answer]]]:
    async def one(session: aiohttp.ClientSession) -> list[Answer]:
        return [await call(session, key) for _ in range(times)]

    return one


# -- steady --------------------------------------------------------------------------------------------------------

STEADY = 130.0  # seconds
STEADY_CALLERS = 20
TOKEN_LIMITS = (10_000, 100_000)


def steady(folder: Path) -> bool:
    users = [(f"tokens-{n}", {}, [("tokens", "minute", n)]) for n in TOKEN_LIMITS]
    print("| setup | tokens a minute | calls | most used in any minute | used, of the limit |\n|---|---|---|---|---|")
    failed = False
    with stand_in(PLAIN, 100, 0.005), redis_server() as redis:
        for setup, workers in SETUPS.items():
            site = Site(folder, users)
            with site.gateway(workers, PLAIN, **({"REDIS_URL": redis} if workers > 1 else {})):
                asyncio.run(steady_callers(site))
                time.sleep(2)  # the ledger's last rows
            for limit in TOKEN_LIMITS:
                rows = [(at, tokens) for at, tokens, _ in site.rows(f"tokens-{limit}")]
                most = most_in_a_minute(rows)
                late = sum(tokens for at, tokens in rows if at >= rows[0][0] + MINUTE)
                share = late / (STEADY - MINUTE) * MINUTE / limit
                failed |= most > limit or share < 0.8
                print(f"| {setup} | {limit} | {len(rows)} | {most} | {share:.0%} |", flush=True)
    return failed


async def steady_callers(site: Site) -> None:
    """Callers that come back when they are told to, for each limit at the same time."""
    end = time.monotonic() + STEADY

    def one(key: str) -> Callable[[aiohttp.ClientSession], Awaitable[list[Answer]]]:
        async def again(session: aiohttp.ClientSession) -> list[Answer]:
            while time.monotonic() < end:
                answer = await call(session, key)
                await asyncio.sleep(min(answer.retry_after or 0, max(0.0, end - time.monotonic())))
            return []

        return again

    await asyncio.gather(*(callers(STEADY_CALLERS, one(key)) for key in site.keys.values()))


# -- outage --------------------------------------------------------------------------------------------------------

UP, DOWN, BACK = 65.0, 70.0, 75.0  # seconds of each mode
OUTAGE_CALLERS = 40
OUTAGE_LIMIT = 100
NOTICED = 1.0  # seconds in which a change of mode is noticed


def outage(folder: Path) -> bool:
    print(
        "| policy | most a minute while Redis is there | while it is gone | across a change | other answers"
        " | slowest refusal |\n|---|---|---|---|---|---|"
    )
    failed = False
    with stand_in(PLAIN, 1, 0):
        for policy in ("local", "deny", "allow"):
            site = Site(folder, [("requests", {}, [("requests", "minute", OUTAGE_LIMIT)])])
            with ExitStack() as stack:
                redis = OwnRedis()
                stack.callback(redis.kill)
                stack.enter_context(site.gateway(4, PLAIN, REDIS_URL=redis.url, STORE_DOWN_POLICY=policy))
                answers, killed, started = asyncio.run(through_an_outage(site.keys["requests"], redis))
                time.sleep(2)
            failed |= report_outage(policy, answers, site.rows("requests"), killed, started)
    return failed


class OwnRedis:
    def __init__(self) -> None:
        self._stack = ExitStack()
        self.url = self._stack.enter_context(redis_server())

    def kill(self) -> None:
        self._stack.close()

    def start(self) -> None:
        self._stack.enter_context(redis_server(int(self.url.rsplit(":")[-1].split("/")[0])))


async def through_an_outage(key: str, redis: OwnRedis) -> tuple[list[Answer], float, float]:
    end = time.monotonic() + UP + DOWN + BACK
    moments: list[float] = []

    async def one(session: aiohttp.ClientSession) -> list[Answer]:
        answers = []
        while time.monotonic() < end:
            answers.append(await call(session, key))
            await asyncio.sleep(0.5)
        return answers

    async def fault() -> None:
        await asyncio.sleep(UP)
        redis.kill()
        moments.append(time.time())
        await asyncio.sleep(DOWN)
        redis.start()
        moments.append(time.time())

    answers, _ = await asyncio.gather(callers(OUTAGE_CALLERS, one), fault())
    return answers, moments[0], moments[1]


def report_outage(policy: str, answers: list[Answer], rows: list[Any], killed: float, started: float) -> bool:
    admitted = [(at, 1) for at, _, _ in rows]
    before = [each for each in admitted if each[0] < killed]
    gone = [each for each in admitted if killed + NOTICED <= each[0] < started]
    # Of what was admitted without Redis the store knows afterwards, so that only windows without any of it are pure.
    back = [each for each in admitted if each[0] >= started + NOTICED]
    there = max(most_in_a_minute(before), most_in_a_minute(back))
    across = most_in_a_minute(admitted)
    others = Counter((a.status, a.code, a.retry_after) for a in answers if a.status not in (200, 429))
    refused = [answer.seconds for answer in answers if answer.status in (429, 503)]
    told = ", ".join(f"{n} × {status} {code} (retry after {wait} s)" for (status, code, wait), n in others.items())
    slowest = max(refused, default=0.0)
    away = most_in_a_minute(gone)
    print(f"| {policy} | {there} | {away} | {across} | {told or 'none'} | {slowest:.2f} s |", flush=True)
    broken = there > OUTAGE_LIMIT or slowest > 2 or any(status != 503 for status, _, _ in others)
    return (
        broken
        or {
            "local": away > OUTAGE_LIMIT or across > 2 * OUTAGE_LIMIT or bool(others),
            "deny": away > 0 or across > OUTAGE_LIMIT or any(wait != 1 for _, _, wait in others),
            "allow": away <= OUTAGE_LIMIT or bool(others),
        }[policy]
    )


# -- stopped -------------------------------------------------------------------------------------------------------

OTHER = GATEWAY + 10


def stopped(folder: Path) -> bool:
    quotas = [(metric, window, 10**9) for metric in ("requests", "tokens") for window in ("day", "month")]
    users = [(name, {"max_concurrent_requests": 10}, quotas) for name in ("stopped", "killed")]
    print("| worker with 10 calls | room after | rows | of them lost | as the ledger says |\n|---|---|---|---|---|")
    failed = False
    with stand_in(PACED, 100, 0.45), redis_server() as redis:
        site = Site(folder, users)
        for name, sign in (("stopped", signal.SIGSTOP), ("killed", signal.SIGKILL)):
            with (
                site.gateway(1, PACED, REDIS_URL=redis) as pid,
                site.gateway(1, PACED, OTHER, REDIS_URL=redis),
            ):
                after = asyncio.run(hold_and_stop(site.keys[name], pid, sign))
                time.sleep(2)
                used = asyncio.run(used_by(site.keys[name]))
                rows = site.rows(name)
                lost = sum(error == "lost" for _, _, error in rows)
                equal = used == {"requests": {len(rows)}, "tokens": {sum(tokens for _, tokens, _ in rows)}}
                failed |= after > 15.5 or lost != 10 or not equal
                print(f"| {name} | {after:.1f} s | {len(rows)} | {lost} | {equal} |", flush=True)
    return failed


async def hold_and_stop(key: str, pid: int, sign: signal.Signals) -> float:
    """Begin 10 calls of 45 s, stop their worker, and call another one. Gives the seconds until it has room."""
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def held() -> None:
            try:
                await call(session, key)
            except aiohttp.ClientError:
                return

        async def has_room() -> bool:
            async with session.get(f"http://127.0.0.1:{OTHER}/v1/models", headers=headers) as answer:
                return answer.status == 200

        calls = [asyncio.create_task(held()) for _ in range(10)]
        while await has_room():
            await asyncio.sleep(0.2)
        began = time.monotonic()
        os.kill(pid, sign)
        while not await has_room():
            await asyncio.sleep(0.1)
        after = time.monotonic() - began
        while time.monotonic() < began + 30:
            await asyncio.sleep(0.5)
            await has_room()
        if sign == signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
        await asyncio.gather(*calls)
        return after


async def used_by(key: str) -> dict[str, set[int]]:
    headers = {"Authorization": f"Bearer {key}"}
    url = f"http://127.0.0.1:{OTHER}/auth/me"
    async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as answer:
        quotas = (await answer.json())["quotas"]
    return {metric: {q["used"] for q in quotas if q["metric"] == metric} for metric in ("requests", "tokens")}


def main() -> None:
    runs = {"burst": burst, "steady": steady, "outage": outage, "stopped": stopped}
    chosen = sys.argv[1:] or list(runs)
    failed = []
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            if runs[name](Path(folder)):
                failed.append(name)
    sys.exit(f"Not as promised: {', '.join(failed)}." if failed else 0)


if __name__ == "__main__":
    main()
