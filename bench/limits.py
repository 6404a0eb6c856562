"""Whether limits hold among callers that come at once, and are used up among those that come again.

Usage: limits.py [burst] [steady]. Each starts what it needs: a stand-in for llama-server, a Redis, a database
(PostgreSQL where one is reachable), and the gateway, as one process that counts in memory or as four that count in
Redis. It prints tables of docs/limits.md, and fails where a figure is not what that promises.

burst: 500 callers of one user at the same time. What was admitted beyond the limit must be 0.
steady: 20 callers for 130 s, whose answers are 100 tokens under a reservation of 512. From the ledger: what was used in
any minute must not be more than the limit, and on average not less than 80% of it.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from admission import redis_server
from run import PACED, PLAIN, ROOT
from sites import BODY, MINUTE, Answer, Site, call, callers, most_in_a_minute, run_chosen, stand_in

sys.path.insert(0, str(ROOT))

from proxy.calls import Call
from proxy.schemas import CHAT as CHAT_BODY

CALLERS = 500
LIMITS = (10, 100, 1000)
SETUPS = {"1 process, memory": 1, "4 processes, Redis": 4}

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
                share = mean_in_a_minute(rows) / limit
                failed |= most > limit or share < 0.8
                print(f"| {setup} | {limit} | {len(rows)} | {most} | {share:.0%} |", flush=True)
    return failed


def mean_in_a_minute(moments: list[tuple[float, int]]) -> float:
    """What a window of a minute holds, on average of those that end one to two minutes after the first moment."""
    ends = [moments[0][0] + MINUTE + second for second in range(int(STEADY - MINUTE))]
    return sum(sum(n for at, n in moments if end - MINUTE < at <= end) for end in ends) / len(ends)


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


if __name__ == "__main__":
    run_chosen({"burst": burst, "steady": steady})
