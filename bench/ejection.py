"""What becomes of calls while one of two upstreams fails every call at once: the table of docs/pool.md.

Usage: ejection.py [nonsense] [500] [401] [two-workers]. 40 calls a second, every second one a stream, for 80 s: the
upstream fails for 60 of them. It fails where more than 5 calls are lost in these, or where the upstream is not back
10 s after it is well. `two-workers` runs all three kinds with two workers, and needs redis-server.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from admission import redis_server
from pool import MOCK, OTHER, STAND_IN, USER, Outcomes, at, call, get, seconds_until, settled, stats
from run import GATEWAY, HERE, pinned, running
from sites import Site, run_chosen

RATE = 40  # calls a second
FAILS_FOR = 60.0  # seconds
SLOTS, SECONDS = 16, 0.2  # of each stand-in, and of each call
MOST_LOST, BACK_WITHIN = 5, 10.0


@contextmanager
def failing_llama(port: int) -> Any:
    command = pinned(1, sys.executable, str(HERE / "failing_llama.py"), str(port), str(SLOTS), str(SECONDS))
    with running(command, port, "/v1/models"):
        yield


async def steady(url: str, key: str, until: asyncio.Event, outcomes: list[tuple[float, str, float]]) -> None:
    """RATE calls a second until the event is set. Notes of each when it began, how it ended, and how long it took."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=180)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as tasks:

        async def one(number: int) -> None:
            began = time.monotonic()
            ended = await call(session, url, key, {**MOCK, "stream": number % 2 == 0, "seed": number})
            outcomes.append((began, ended, time.monotonic() - began))

        began, number = time.monotonic(), 0
        while not until.is_set():
            tasks.create_task(one(number))
            number += 1
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))


async def during(key: str, script: Callable[[], None]) -> list[tuple[float, str, float]]:
    until, outcomes = asyncio.Event(), list[tuple[float, str, float]]()
    loading = asyncio.create_task(steady(at(GATEWAY), key, until, outcomes))
    try:
        await asyncio.to_thread(script)
    finally:
        until.set()
    await loading
    return outcomes


def fail(folder: Path, kind: str, workers: int = 1) -> bool:
    site = Site(folder, [USER])
    when: dict[str, float] = {}

    def takes_calls() -> bool:
        """Several calls within a moment: more than a trial."""
        before = stats(OTHER)["calls"]
        time.sleep(0.5)
        return bool(stats(OTHER)["calls"] - before >= 3)

    def script() -> None:
        seconds_until(takes_calls)
        time.sleep(5)
        when["failed"] = stats(OTHER)["failed"]
        get(f"{at(OTHER)}/fail/{kind}")
        when["from"] = time.monotonic()
        time.sleep(FAILS_FOR)
        get(f"{at(OTHER)}/fail/no")
        when["to"] = time.monotonic()
        when["tries"] = stats(OTHER)["failed"]
        when["back"] = seconds_until(takes_calls)
        time.sleep(5)

    with failing_llama(STAND_IN), failing_llama(OTHER), ExitStack() as stack:
        env = {"REDIS_URL": stack.enter_context(redis_server())} if workers > 1 else {}
        urls = f"{at(STAND_IN)},{at(OTHER)}"
        stack.enter_context(site.gateway(workers, STAND_IN, LLAMA_SERVERS=urls, LOG_LEVEL="CRITICAL", **env))
        outcomes = asyncio.run(during(site.keys["caller"], script))
        time.sleep(1.5)
        rows, charged, agree = settled(site, len(outcomes))
    within = [each for each in outcomes if when["from"] <= each[0] <= when["to"]]
    ends = Outcomes(ended for _, ended, _ in within)
    lost = sum(ends.values()) - ends["answered"]
    slow = sorted(took for _, _, took in within)
    told = (
        f"| {kind}, {workers} worker{'s' * (workers > 1)} | {ends.told} | {when['tries']:.0f} | {when['back']:.1f} s "
    )
    p50, p99 = slow[len(slow) // 2], slow[int(len(slow) * 0.99)]
    print(f"{told}| {p50:.2f} s, {p99:.2f} s | {rows}, {charged} |", flush=True)
    return lost > MOST_LOST or when["back"] > BACK_WITHIN or not agree or rows != charged


def two_workers(folder: Path) -> bool:
    failed = [fail(folder / kind, kind, 2) for kind in ("nonsense", "500", "401")]
    return any(failed)


if __name__ == "__main__":
    heads = ["it answers", "calls in 60 s", "tries there that failed", "back after", "p50, p99", "rows, charged"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    kinds = {kind: (lambda folder, kind=kind: fail(folder, kind)) for kind in ("nonsense", "500", "401")}
    run_chosen({**kinds, "two-workers": two_workers})
