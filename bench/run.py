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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
PLAIN, PACED, SERVER, PROXY = 18931, 18932, 18933, 18934  # ports
TICK = os.sysconf("SC_CLK_TCK")


def pinned(core: int, *command: str) -> list[str]:
    return (
        ["taskset", "-c", str(core), *command] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else [*command]
    )


@contextmanager
def running(command: list[str], port: int, path: str, **env: str) -> Iterator[int]:
    """A server, from when it answers to the end of the block. Gives its process id."""
    process = subprocess.Popen(command, env={**os.environ, **env}, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}{path}", process)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"Nothing answers at {url}. See the lines above.")


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
    method = "GET" if path in ("/hello", "/health") else "POST"
    command = pinned(1, sys.executable, str(HERE / "load.py"), str(port), method, path, str(concurrency))
    rest = [token, str(int(stream))]
    subprocess.run([*command, str(min(total, 500)), *rest], check=True, stdout=subprocess.DEVNULL)
    before = cpu_of(pid)
    told = json.loads(subprocess.run([*command, str(total), *rest], check=True, capture_output=True).stdout)
    if told["failed"]:
        sys.exit(f"{told['failed']} of {total} calls to {path} failed.")
    return (cpu_of(pid) - before) * 1e6 / (told["events"] if stream else total)


def uvicorn(application: str) -> list[str]:
    options = ["--port", str(SERVER), "--no-access-log", "--log-level", "warning", "--no-proxy-headers"]
    return pinned(0, sys.executable, "-m", "uvicorn", application, *options)


def nginx(folder: Path, upstream: int) -> list[str] | None:
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        return None
    config = folder / f"nginx-{upstream}.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        "events { worker_connections 2048; }\n"
        "http { access_log off;\n"
        f" upstream llama {{ server 127.0.0.1:{upstream}; keepalive 64; }}\n"
        f" server {{ listen 127.0.0.1:{PROXY}; location / {{ proxy_pass http://llama; proxy_http_version 1.1;\n"
        '  proxy_set_header Connection ""; proxy_buffering off; } } }\n'
    )
    return pinned(0, program, "-c", str(config), "-p", str(folder))


def gateway_env(folder: Path) -> dict[str, str]:
    """A gateway of its own, with a client whose tier has no limit."""
    env = {"DATABASE_URL": f"sqlite:///{folder}/bench.sqlite3", "LLAMA_SERVERS": f"http://127.0.0.1:{PLAIN}"}
    run = [sys.executable, "manage.py"]
    full = {**os.environ, **env}
    subprocess.run([*run, "migrate", "-v0"], check=True, cwd=ROOT, env=full)
    tier = "from accounts.models import Tier; Tier.objects.create(name='bench')"
    subprocess.run([*run, "shell", "-v0", "-c", tier], check=True, cwd=ROOT, env=full)
    made = subprocess.run(
        [*run, "create_client", "bench", "--tier", "bench"],
        check=True,
        cwd=ROOT,
        env=full,
        capture_output=True,
        text=True,
    )
    return {**env, "TOKEN": made.stdout.strip()}


def main() -> None:
    calls = int(os.environ.get("BENCH_CALLS", "5000"))
    chat, mock = "/v1/chat/completions", str(HERE / "mock_llama.py")
    rows: list[tuple[str, float, float | None]] = []  # what, us per request, us per event

    def row(what: str, each: Callable[[], tuple[float, float | None]]) -> None:
        print(f"measuring {what} ...", file=sys.stderr)
        rows.append((what, *each()))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = gateway_env(folder)
        token = env["TOKEN"]
        paced = {**env, "LLAMA_SERVERS": f"http://127.0.0.1:{PACED}"}
        with (
            running(pinned(1, sys.executable, mock, str(PLAIN), "1", "0"), PLAIN, "/v1/models"),
            running(pinned(1, sys.executable, mock, str(PACED), "100", "0.02"), PACED, "/v1/models"),
        ):
            with running(uvicorn("bench.stock_django:application"), SERVER, "/hello") as pid:
                row(
                    "stock Django ASGI, default middleware, trivial view",
                    lambda: (measure(pid, SERVER, "/hello", 32, calls), None),
                )
            with running(uvicorn("llmgateway.asgi:application"), SERVER, "/health", **env) as pid:
                row(
                    "gateway: /health (the bare relay lane)", lambda: (measure(pid, SERVER, "/health", 32, calls), None)
                )
                whole = measure(pid, SERVER, chat, 32, calls, token)
            with running(uvicorn("llmgateway.asgi:application"), SERVER, "/health", **paced) as pid:
                event = measure(pid, SERVER, chat, 100, 400, token, stream=True)
            rows.append(("gateway: relayed call, full gate", whole, event))
            for upstream in (PLAIN, PACED):
                if command := nginx(folder, upstream):
                    with running(command, PROXY, "/v1/models") as pid:
                        if upstream == PLAIN:
                            plain = measure(pid, PROXY, chat, 32, calls, token)
                        else:
                            rows.append(
                                ("nginx as a proxy", plain, measure(pid, PROXY, chat, 100, 400, token, stream=True))
                            )
    report(rows)


def report(rows: list[tuple[str, float, float | None]]) -> None:
    print(f"{'CPU of the server process':56}{'us/request':>12}{'ratio':>8}{'us/event':>10}")
    for what, request, event in rows:
        ratio = request / rows[0][1]
        print(f"{what:56}{request:12.0f}{ratio:8.2f}" + (f"{event:10.0f}" if event is not None else ""))
    if not any(what.startswith("nginx") for what, *_ in rows):
        print("nginx is not installed, so its rows are missing: apt-get install nginx")


if __name__ == "__main__":
    main()
