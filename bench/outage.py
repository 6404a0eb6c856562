"""What becomes of limits when Redis or a worker fails in the middle.

Usage: outage.py [redis] [worker]. Each starts what it needs, as limits.py does. It prints tables of docs/limits.md, and
fails where a figure is not what that promises.

redis: four workers on a Redis that is killed and started again, for each STORE_DOWN_POLICY.
worker: one that holds 10 calls is stopped for 30 s, and goes on: its calls are settled after all. Another one is
killed: its calls are lost.
"""

import asyncio
import os
import signal
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
from admission import redis_server
from run import GATEWAY, PACED, PLAIN
from sites import Answer, Site, call, callers, most_in_a_minute, run_chosen, stand_in

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
        for name, sign, expected in (("stopped", signal.SIGSTOP, 0), ("killed", signal.SIGKILL, 10)):
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
                failed |= after > 15 or lost != expected or not equal
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


if __name__ == "__main__":
    run_chosen({"redis": outage, "worker": stopped})
