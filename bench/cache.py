"""What an answer from the cache costs, beside one that is computed and one that is refused: a table of docs/cache.md.

Usage: cache.py [ROUNDS]. Gateways on core 0, one that keeps answers in memory and one in a Redis started for this;
load, Redis and a stand-in for a llama-server on core 1. CPU is that of the gateway alone; each row is the median.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.admission import redis_server
from bench.run import CHAT, GATEWAY, HERE, PLAIN, ROOT, gateway_env, loaded, pinned, running, uvicorn

IN_FLIGHT = 32
CALLS = int(os.environ.get("BENCH_CALLS", "3000"))
SHARED = GATEWAY + 10  # the port of the gateway with Redis
EVENTS = "100"  # tokens of an answer
SAME = json.dumps({"temperature": 0})
NEW = json.dumps({"temperature": 0, "seed": 0})
RANDOM = json.dumps({"temperature": 1, "seed": 0})
REFUSED = (
    "from accounts.models import Tier; Tier.objects.create(name='none').quotas.create("
    "metric='requests', window='hour', limit=1)"
)

ROWS = {  # what: (gateway, stream, more of the body, status)
    "refused (429)": ("memory", "0", SAME, "429"),
    "hit, memory": ("memory", "0", SAME, "200"),
    "hit, memory, as a stream": ("memory", "1", SAME, "200"),
    "hit, Redis": ("redis", "0", SAME, "200"),
    "miss, memory": ("memory", "0", NEW, "200"),
    "miss, memory, as a stream": ("memory", "1", NEW, "200"),
    "miss, Redis": ("redis", "0", NEW, "200"),
    "not cacheable": ("memory", "0", RANDOM, "200"),
    "not cacheable, as a stream": ("memory", "1", RANDOM, "200"),
}


def refused_token(env: dict[str, str]) -> str:
    """An API key of a client that may call nothing."""
    run = [sys.executable, "manage.py"]
    full = {**os.environ, **env}
    subprocess.run([*run, "shell", "-v0", "-c", REFUSED], check=True, cwd=ROOT, env=full)
    made = [*run, "create_client", "refused", "--tier", "none"]
    return subprocess.run(made, check=True, cwd=ROOT, env=full, capture_output=True, text=True).stdout.strip()


def measure(env: dict[str, str], redis_url: str, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Of each row, CPU microseconds and median milliseconds of a call, for each round."""
    refused = refused_token(env)
    found: dict[str, tuple[list[float], list[float]]] = {what: ([], []) for what in ROWS}
    application = "llmgateway.asgi:application"
    with (
        running(uvicorn(application, GATEWAY), GATEWAY, "/health", **env) as memory,
        running(uvicorn(application, SHARED), SHARED, "/health", **env, REDIS_URL=redis_url) as shared,
    ):
        for number in range(rounds):
            print(f"round {number + 1} of {rounds} ...", file=sys.stderr)
            for what, (gateway, stream, fields, status) in ROWS.items():
                pid, port = (memory, GATEWAY) if gateway == "memory" else (shared, SHARED)
                token = refused if status == "429" else env["TOKEN"]
                calls = CALLS if fields == SAME else CALLS // 5
                cpu, told = loaded(pid, port, CHAT, IN_FLIGHT, calls, token, stream, fields, status)
                found[what][0].append(cpu / calls)
                found[what][1].append(told["ms"])
    return found


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    mock = pinned(1, sys.executable, str(HERE / "mock_llama.py"), str(PLAIN), EVENTS, "0")
    with tempfile.TemporaryDirectory() as folder, running(mock, PLAIN, "/v1/models"), redis_server() as url:
        found = measure(gateway_env(Path(folder)), url, rounds)
    base = median(found["refused (429)"][0])
    print(f"| {EVENTS} tokens, {IN_FLIGHT} in flight | CPU us | ratio to a refusal, of each round | median ms |")
    print("|---|---|---|---|")
    for what, (cpu, ms) in found.items():
        ratios = sorted(each / of for each, of in zip(cpu, found["refused (429)"][0], strict=True))
        spread = f"{median(cpu) / base:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {what} | {median(cpu):.0f} | {spread} | {median(ms):.1f} |")


if __name__ == "__main__":
    main()
