"""What an admission costs, in CPU of this process: the table of docs/limits.md.

Usage: admission.py [ROUNDS]. A call of a caller with four quotas (requests and tokens, of a minute and a day) and a
limit of running calls is admitted and settled, in memory, and in a Redis server started for this, with 1 and 32 calls
in flight. Beside it: the same number of PINGs through redis-py's asyncio client. The median of the rounds is shown.
"""

import asyncio
import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import redis.asyncio
import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent))

from proxy.stores import Claim, Meter, Store
from proxy.stores.guarded import GuardedStore
from proxy.stores.memory import MemoryStore
from proxy.stores.redis import RedisStore
from proxy.windows import WINDOWS

CALLS = 6000
CALLERS = 50
METERS = tuple(
    Meter(f"{metric}:{window}:", WINDOWS[window], 10**9, metric, "")
    for metric, window in itertools.product(("requests", "tokens"), ("minute", "day"))
)
DAYS = {meter: 0 for meter in METERS if meter.window.is_calendar}


@contextmanager
def redis_server(port: int = 0) -> Any:
    """A Redis of this run's own, on the other core. Gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        port = probe.getsockname()[1]
    command = ["taskset", "-c", "1", "redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()


async def measured(one: Callable[[int], Awaitable[None]], in_flight: int) -> float:
    """CPU microseconds of one of CALLS, so many of which are under way at once."""
    numbers = iter(range(CALLS))

    async def caller() -> None:
        for number in numbers:
            await one(number)

    before = time.process_time()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return (time.process_time() - before) * 1e6 / CALLS


def call_of(store: Store) -> Callable[[int], Awaitable[None]]:
    async def call(number: int) -> None:
        claim = Claim(f"user:{number % CALLERS}", METERS, 1000, f"call-{number}", 100, 600)
        verdict = await store.admit(claim)
        assert verdict.grant
        await store.settle(verdict.grant, 150)

    return call


async def ready(store: Store) -> Store:
    await store.start()
    for number in range(CALLERS):
        await store.learn(f"user:{number}", DAYS, store.clock())
    return store


async def run(url: str) -> dict[str, float]:
    memory = await ready(MemoryStore())
    guarded = await ready(GuardedStore(RedisStore(url), "local", 1, lambda _: None))
    client = redis.asyncio.from_url(url)

    async def ping(_: int) -> None:
        await client.ping()
        await client.ping()

    rows = {
        "memory": await measured(call_of(memory), 1),
        "Redis, 1 in flight": await measured(call_of(guarded), 1),
        "Redis, 32 in flight": await measured(call_of(guarded), 32),
        "two PINGs by redis-py, 1 in flight": await measured(ping, 1),
        "two PINGs by redis-py, 32 in flight": await measured(ping, 32),
    }
    await guarded.stop()
    await client.aclose()
    return rows


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with redis_server() as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        results = [runner.run(run(url)) for _ in range(rounds)]
    print("| admit and settle | us of CPU | lowest and highest of the rounds |")
    print("|---|---|---|")
    for what in results[0]:
        found = [result[what] for result in results]
        print(f"| {what} | {median(found):.0f} | {min(found):.0f} to {max(found):.0f} |")


if __name__ == "__main__":
    main()
