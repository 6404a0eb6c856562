"""`make bench`: what a call and an event cost, in CPU of the server process, beside baselines in the same run.

Each server runs alone on core 0, load and stand-in on core 1. Wall time is noise on a shared machine; CPU time,
and the ratio of two CPU times in one run, is what to read.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import IO

HERE = Path(__file__).parent
ROOT = HERE.parent
PLAIN, PACED, STOCK_PORT, GATEWAY, PROXY = range(18931, 18936)
CHAT = "/v1/chat/completions"
ROUNDS = 5
STOCK = "stock Django ASGI, default middleware, trivial view"
LANE = "gateway: /health, the bare relay lane"
CALL = "gateway: a relayed call through the full gate"
NGINX = "nginx, as a proxy that asks nobody anything"
TICK = os.sysconf("SC_CLK_TCK")


def pinned(core: int, *command: str) -> list[str]:
    return (
        ["taskset", "-c", str(core), *command] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else [*command]
    )


@contextmanager
def running(
    command: list[str], port: int, path: str, within: float = 30, root: Path = ROOT, **env: str
) -> Iterator[int]:
    """A server, from when it answers, in so many seconds, to the end of the block. Gives its process id."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, env={**os.environ, **env}, cwd=root, stdout=subprocess.DEVNULL, stderr=log
        ) as process,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}{path}", process, log, within)
            yield process.pid
        finally:
            process.terminate()


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: IO[bytes], within: float) -> None:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    log.seek(0)
    sys.exit(f"Nothing answers at {url}. The server said:\n{log.read().decode(errors='replace')[-2000:]}")


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and its running children."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    total = 0.0
    for each in [str(pid), *children]:
        fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / TICK
    return total


def measure(
    pid: int, port: int, path: str, concurrency: int, total: int, token: str = "", *, stream: bool = False
) -> float:
    """CPU microseconds per request, or per event of a stream, after a warm-up. Stops the run if any call failed."""
    cpu, told = loaded(pid, port, path, concurrency, total, token, str(int(stream)))
    return cpu / (told["events"] if stream else total)


def loaded(
    pid: int, port: int, path: str, concurrency: int, total: int, token: str, *rest: str
) -> tuple[float, dict[str, float]]:
    """CPU microseconds of all calls, after a warm-up, and what load.py tells. Stops the run if any call failed."""
    method = "GET" if path in ("/hello", "/health") else "POST"
    command = pinned(1, sys.executable, str(HERE / "load.py"), str(port), method, path, str(concurrency))
    subprocess.run([*command, str(min(total, 500)), token, *rest], check=True, stdout=subprocess.DEVNULL)
    before = cpu_of(pid)
    told = json.loads(subprocess.run([*command, str(total), token, *rest], check=True, capture_output=True).stdout)
    if told["failed"]:
        sys.exit(f"{told['failed']} of {total} calls to {path} failed.")
    return (cpu_of(pid) - before) * 1e6, told


def uvicorn(application: str, port: int) -> list[str]:
    options = ["--port", str(port), "--no-access-log", "--log-level", "warning", "--no-proxy-headers"]
    return pinned(0, sys.executable, "-m", "uvicorn", application, *options)


def serve(port: int) -> list[str]:
    """The gateway, as it is run in production."""
    return pinned(0, sys.executable, str(ROOT / "manage.py"), "serve", "--port", str(port))


@contextmanager
def running_nginx(folder: Path, upstream: int) -> Iterator[int | None]:
    """Nginx in front of a stand-in; None where it is not installed."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        yield None
        return
    config = folder / f"nginx-{upstream}.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        "events { worker_connections 2048; }\n"
        "http { access_log off;\n"
        f" upstream llama {{ server 127.0.0.1:{upstream}; keepalive 64; }}\n"
        f" server {{ listen 127.0.0.1:{PROXY}; location / {{ proxy_pass http://llama; proxy_http_version 1.1;\n"
        '  proxy_set_header Connection ""; proxy_buffering off; } } }\n'
    )
    with running(pinned(0, program, "-c", str(config), "-p", str(folder)), PROXY, "/v1/models") as pid:
        yield pid


def gateway_env(folder: Path, database: str = "", root: Path = ROOT) -> dict[str, str]:
    """A gateway of its own, with a client whose tier has no limit."""
    database = database or f"sqlite:///{folder}/bench.sqlite3"
    env = {"DATABASE_URL": database, "LLAMA_SERVERS": f"http://127.0.0.1:{PLAIN}"}
    run = [sys.executable, "manage.py"]
    full = {**os.environ, **env}
    subprocess.run([*run, "migrate", "-v0"], check=True, cwd=root, env=full)
    tier = "from accounts.models import Tier; Tier.objects.create(name='bench')"
    subprocess.run([*run, "shell", "-v0", "-c", tier], check=True, cwd=root, env=full)
    made = subprocess.run(
        [*run, "create_client", "bench", "--tier", "bench"],
        check=True,
        cwd=root,
        env=full,
        capture_output=True,
        text=True,
    )
    return {**env, "TOKEN": made.stdout.strip()}


class Bench:
    """The rows of the table, measured in an environment of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = gateway_env(folder)
        self.token = self.env["TOKEN"]
        self.calls = int(os.environ.get("BENCH_CALLS", "3000"))
        self.rows: dict[str, list[float]] = {STOCK: [], LANE: [], CALL: [], NGINX: []}  # us per request, of each round
        self.events: dict[str, float] = {}  # us per event

    def measure_calls(self) -> None:
        """All servers are up, and one at a time is under load, in turn, so that they share the machine's moods."""
        with (
            running(uvicorn("bench.stock_django:application", STOCK_PORT), STOCK_PORT, "/hello") as stock,
            running(serve(GATEWAY), GATEWAY, "/health", **self.env) as own,
            running_nginx(self.folder, PLAIN) as proxy,
        ):
            for number in range(ROUNDS):
                print(f"round {number + 1} of {ROUNDS} ...", file=sys.stderr)
                self.rows[STOCK].append(measure(stock, STOCK_PORT, "/hello", 32, self.calls))
                self.rows[LANE].append(measure(own, GATEWAY, "/health", 32, self.calls))
                self.rows[CALL].append(measure(own, GATEWAY, CHAT, 32, self.calls, self.token))
                if proxy:
                    self.rows[NGINX].append(measure(proxy, PROXY, CHAT, 32, self.calls))

    def measure_streams(self) -> None:
        print("streams ...", file=sys.stderr)
        env = {**self.env, "LLAMA_SERVERS": f"http://127.0.0.1:{PACED}"}
        with (
            running(serve(GATEWAY), GATEWAY, "/health", **env) as own,
            running_nginx(self.folder, PACED) as proxy,
        ):
            self.events[CALL] = measure(own, GATEWAY, CHAT, 100, 400, self.token, stream=True)
            if proxy:
                self.events[NGINX] = measure(proxy, PROXY, CHAT, 100, 400, stream=True)

    def report(self) -> None:
        print(
            f"{'CPU of the server process, median of ' + str(ROUNDS):54}{'us/request':>12}{'ratio':>8}{'us/event':>10}"
        )
        baseline = median(self.rows[STOCK])
        for what, rounds in self.rows.items():
            if rounds:
                event = f"{self.events[what]:10.0f}" if what in self.events else ""
                print(f"{what:54}{median(rounds):12.0f}{median(rounds) / baseline:8.2f}{event}")
        if not self.rows[NGINX]:
            print("nginx is not installed, so its row is missing: apt-get install nginx-light")


def main() -> None:
    mock = str(HERE / "mock_llama.py")
    with (
        tempfile.TemporaryDirectory() as folder,
        running(pinned(1, sys.executable, mock, str(PLAIN), "1", "0"), PLAIN, "/v1/models"),
        running(pinned(1, sys.executable, mock, str(PACED), "100", "0.02"), PACED, "/v1/models"),
    ):
        bench = Bench(Path(folder))
        bench.measure_calls()
        bench.measure_streams()
        bench.report()


if __name__ == "__main__":
    main()
