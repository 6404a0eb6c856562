"""What an answer from the cache costs, beside one that is computed and one that is refused: a table of docs/cache.md.

Usage: cache.py [ROUNDS]. Gateways on core 0, one that keeps answers in memory and one in a Redis started for this;
load, Redis and a stand-in for a llama-server on core 1. CPU is that of the gateway alone; each row is the median.
LITELLM names the program of a LiteLLM proxy, if there is one, which is measured as well: its local cache, one master
key, no database.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.admission import redis_server
from bench.run import CHAT, GATEWAY, HERE, PLAIN, ROOT, gateway_env, loaded, pinned, running, serve

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
PEER = GATEWAY + 11
PEERS = {
    "LiteLLM: hit": ("peer", "0", SAME, "200"),
    "LiteLLM: miss": ("peer", "0", NEW, "200"),
}
LITELLM_CONFIG = f"""
model_list:
  - model_name: mock
    litellm_params: {{model: openai/mock, api_base: "http://127.0.0.1:{PLAIN}/v1", api_key: none}}
litellm_settings:
  cache: true
  cache_params: {{type: local}}
general_settings:
  master_key: sk-bench
"""


def refused_token(env: dict[str, str]) -> str:
    """An API key of a client that may call nothing."""
    run = [sys.executable, "manage.py"]
    full = {**os.environ, **env}
    subprocess.run([*run, "shell", "-v0", "-c", REFUSED], check=True, cwd=ROOT, env=full)
    made = [*run, "create_client", "refused", "--tier", "none"]
    return subprocess.run(made, check=True, cwd=ROOT, env=full, capture_output=True, text=True).stdout.strip()


@contextmanager
def peer(folder: Path) -> Iterator[int | None]:
    """LiteLLM, where it is there."""
    if not os.environ.get("LITELLM"):
        yield None
        return
    (folder / "litellm.yaml").write_text(LITELLM_CONFIG)
    command = pinned(0, os.environ["LITELLM"], "--config", f"{folder}/litellm.yaml", "--port", str(PEER))
    with running(command, PEER, "/health/liveliness", within=120) as pid:
        yield pid


class Measured:
    """Of each row, CPU microseconds and median milliseconds of a call, for each round."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.env = gateway_env(folder)
        self.refused = refused_token(self.env)
        self.cpu: dict[str, list[float]] = {}
        self.ms: dict[str, list[float]] = {}

    def run(self, rounds: int) -> None:
        """All servers are up, and one at a time is under load, in turn, so that they share the machine's moods."""
        with (
            running(serve(GATEWAY), GATEWAY, "/health", **self.env) as memory,
            running(serve(SHARED), SHARED, "/health", **self.env, REDIS_URL=self.redis_url) as shared,
            peer(self.folder) as other,
        ):
            servers = {"memory": (memory, GATEWAY), "redis": (shared, SHARED), "peer": (other, PEER)}
            rows = {what: row for what, row in {**ROWS, **PEERS}.items() if servers[row[0]][0]}
            for number in range(rounds):
                print(f"round {number + 1} of {rounds} ...", file=sys.stderr)
                for what, (server, *row) in rows.items():
                    self.measure(what, *servers[server], *row)

    def measure(self, what: str, pid: int, port: int, stream: str, fields: str, status: str) -> None:
        calls = (CALLS if fields == SAME else CALLS // 5) // (10 if port == PEER else 1)
        token = {PEER: "sk-bench"}.get(port, self.refused if status == "429" else self.env["TOKEN"])
        cpu, told = loaded(pid, port, CHAT, IN_FLIGHT, calls, token, stream, fields, status)
        self.cpu.setdefault(what, []).append(cpu / calls)
        self.ms.setdefault(what, []).append(told["ms"])

    def report(self) -> None:
        base = self.cpu["refused (429)"]
        print(f"| {EVENTS} tokens, {IN_FLIGHT} in flight | CPU us | ratio to a refusal, of each round | median ms |")
        print("|---|---|---|---|")
        for what, cpu in self.cpu.items():
            ratios = sorted(each / of for each, of in zip(cpu, base, strict=True))
            spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            print(f"| {what} | {median(cpu):.0f} | {spread} | {median(self.ms[what]):.1f} |")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    mock = pinned(1, sys.executable, str(HERE / "mock_llama.py"), str(PLAIN), EVENTS, "0")
    with tempfile.TemporaryDirectory() as folder, running(mock, PLAIN, "/v1/models"), redis_server() as url:
        measured = Measured(Path(folder), url)
        measured.run(rounds)
        measured.report()


if __name__ == "__main__":
    main()
