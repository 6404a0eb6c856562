"""`python bench/compare.py COMMIT [ROUNDS]`: CPU of a relayed call and of an event, beside those of another commit.

Both gateways are up in the same run and are loaded in turn, so that they share the machine's moods. What to read is
the ratio of each pair of rounds, and the median of the ratios.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import run

PORTS = {"this checkout": 18941, "the other commit": 18942}
EVENTS = 100  # of each stream of the second stand-in


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """A work tree of a commit, until the end of the block."""
    subprocess.run(["git", "worktree", "add", "--detach", "-q", str(folder), commit], check=True, cwd=run.ROOT)
    try:
        yield folder
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(folder)], check=True, cwd=run.ROOT)


@contextmanager
def gateway(root: Path, port: int, upstream: int, folder: Path) -> Iterator[tuple[int, str]]:
    """A gateway from a work tree, with a database of its own. Gives its process id and a client's key."""
    folder.mkdir()
    env = {**run.gateway_env(folder, root=root), "LLAMA_SERVERS": f"http://127.0.0.1:{upstream}"}
    with run.running(run.uvicorn("llmgateway.asgi:application", port), port, "/health", root=root, **env) as pid:
        yield pid, env["TOKEN"]


def compared(title: str, other: Path, upstream: int, temp: Path, rounds: int, calls: int, *, stream: bool) -> None:
    """One table: CPU microseconds of both, round by round."""
    roots = dict(zip(PORTS, (run.ROOT, other), strict=True))
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(gateway(root, PORTS[name], upstream, temp / f"{len(name)}-{stream}"))
            for name, root in roots.items()
        }
        found: dict[str, list[float]] = {name: [] for name in PORTS}
        for number in range(rounds):
            turns = list(PORTS) if number % 2 else list(reversed(PORTS))
            for name in turns:
                pid, token = running[name]
                at_once = 100 if stream else 32
                found[name].append(run.measure(pid, PORTS[name], run.CHAT, at_once, calls, token, stream=stream))
    ratios = [mine / theirs for mine, theirs in zip(*found.values(), strict=True)]
    print(f"{title} (load average {os.getloadavg()[0]:.1f})")
    for name, each in found.items():
        print(
            f"  {name:18} us, median of {rounds}: {median(each):8.1f}   rounds: {' '.join(f'{us:.0f}' for us in each)}"
        )
    print(f"  ratio, median: {median(ratios):.3f}   rounds: {' '.join(f'{ratio:.2f}' for ratio in ratios)}")


def main() -> None:
    commit, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 9
    mock = str(run.HERE / "mock_llama.py")
    calls = int(os.environ.get("BENCH_CALLS", "2000"))
    with tempfile.TemporaryDirectory() as folder, checkout(commit, Path(folder) / "other") as other:
        (other / "var").mkdir(exist_ok=True)
        with (
            run.running(run.pinned(1, sys.executable, mock, str(run.PLAIN), "10", "0"), run.PLAIN, "/v1/models"),
            run.running(
                run.pinned(1, sys.executable, mock, str(run.PACED), str(EVENTS), "0.02"), run.PACED, "/v1/models"
            ),
        ):
            compared("A relayed call", other, run.PLAIN, Path(folder), rounds, calls, stream=False)
            compared("An event of a stream", other, run.PACED, Path(folder), max(3, rounds // 2), 400, stream=True)


if __name__ == "__main__":
    main()
