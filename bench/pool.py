"""What becomes of calls when upstreams and gateways come and go: the tables of docs/pool.md.

Usage: pool.py [kill] [slots] [gap] [drain] [rolling] [steer]. Each starts what it needs, and fails where a figure is
not what docs/pool.md promises. `rolling` needs nginx (apt-get install nginx-light); slots, gap, rolling redis-server.

kill: one of two real llama-servers gets SIGKILL under load, and is started again.
slots: 200 callers before a stand-in that counts, in one process, and in four on Redis of which one is killed.
gap: how long a slot is idle while somebody waits for it.
drain: SIGTERM while 20 streams run and 20 calls wait.
rolling: two gateways behind nginx are stopped and started again, one after the other.
steer: an upstream is added, disabled and removed in the admin.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from admission import redis_server
from run import CHAT, GATEWAY, HERE, PLAIN, PROXY, ROOT, pinned, running, uvicorn
from sites import Site, run_chosen

USER = ("caller", {"max_queue_seconds": 120}, [("requests", "day", 10**9), ("tokens", "day", 10**12)])
STAND_IN, OTHER, SECOND = PLAIN + 20, PLAIN + 21, GATEWAY + 10
REAL = {"model": "smollm2-135m", "max_tokens": 24, "messages": [{"role": "user", "content": "Count to ten."}]}
MOCK = {"model": "mock", "messages": [{"role": "user", "content": "Name three colours."}]}

# -- calls ---------------------------------------------------------------------------------------------------------


class Outcomes(Counter[str]):
    """How calls ended: answered, cut (with the error event), 503 overloaded, broken (no way that was promised), ..."""

    @property
    def told(self) -> str:
        return ", ".join(f"{number} {what}" for what, number in sorted(self.items())) or "none"


async def call(session: aiohttp.ClientSession, url: str, key: str, body: dict[str, Any]) -> str:
    """One call, and how it ended."""
    headers = {"Authorization": f"Bearer {key}"}
    try:
        async with session.post(url + CHAT, json=body, headers=headers) as answer:
            text = (await answer.read()).decode()
            if answer.status != 200:
                error = json.loads(text)["error"]["code"]
                return f"{answer.status} {error}" + (", Retry-After" if "Retry-After" in answer.headers else "")
            if not body.get("stream"):
                return "answered" if json.loads(text)["choices"] else "broken"
            last = text.rstrip().rsplit("\n\n", 1)[-1]
            return "answered" if last == "data: [DONE]" else "cut" if '"error"' in last else "broken"
    except (aiohttp.ClientError, json.JSONDecodeError, KeyError, OSError):
        return "broken"


async def load(
    url: str, key: str, body: dict[str, Any], callers: int, until: "asyncio.Event", outcomes: Outcomes
) -> None:
    """Callers that each make one call after the other, every second one a stream, until the event is set."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=180)) as session:

        async def caller(number: int) -> None:
            while not until.is_set():
                outcomes[await call(session, url, key, {**body, "stream": number % 2 == 0, "seed": number})] += 1

        await asyncio.gather(*(caller(number) for number in range(callers)))


async def during(url: str, key: str, body: dict[str, Any], callers: int, script: Callable[[], Any]) -> Outcomes:
    """What became of a load that goes on while a script, on a thread, does its work."""
    outcomes, until = Outcomes(), asyncio.Event()
    loading = asyncio.create_task(load(url, key, body, callers, until, outcomes))
    try:
        await asyncio.to_thread(script)
    finally:
        until.set()
    await loading
    return outcomes


def at(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def metric(port: int, line: str) -> float | None:
    """The value of a series of a gateway, by its name and labels."""
    with suppress(OSError):
        found = re.search(rf"^{re.escape(line)} (\S+)$", get(f"{at(port)}/metrics"), re.MULTILINE)
        return float(found[1]) if found else None
    return None


def seconds_until(condition: Callable[[], Any], within: float = 60) -> float:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within:
            sys.exit(f"Not within {within} s.")
        time.sleep(0.02)
    return time.monotonic() - began


def settled(site: Site, calls: int) -> tuple[int, int, bool]:
    """Rows of the ledger, those that were charged, and whether the meters say the same."""
    counts = "{row.request_id: (row.is_free, row.prompt_tokens + row.completion_tokens) for row in rows}"
    rows = "rows = list(UsageRecord.objects.filter(endpoint='chat-completions'))"
    code = f"import json\nfrom proxy.models import UsageRecord\n{rows}\nprint(json.dumps([len(rows), {counts}]))"
    total, by_id = site.shell(code)
    return total, sum(not free for free, _ in by_id.values()), total == len(by_id) == calls


@contextmanager
def stand_in(port: int, slots: int, seconds: float) -> Iterator[None]:
    command = pinned(1, sys.executable, str(HERE / "counting_llama.py"), str(port), str(slots), str(seconds))
    with running(command, port, "/v1/models"):
        yield


def stats(port: int, path: str = "/stats") -> dict[str, Any]:
    told: dict[str, Any] = json.loads(get(at(port) + path))
    return told


# -- kill ----------------------------------------------------------------------------------------------------------


def kill(folder: Path) -> bool:
    site = Site(folder, [USER])
    ports = (STAND_IN, OTHER)
    urls = ",".join(map(at, ports))
    found: dict[str, float] = {}

    def llama(port: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, str(ROOT / "examples" / "llama_server.py"), "--port", str(port)]
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds_until(lambda: answers(port))
        return started

    def script() -> None:
        time.sleep(5)
        servers[0].kill()
        found["out"] = seconds_until(lambda: metric(GATEWAY, up) == 0)
        servers[0].wait()
        time.sleep(4)
        servers[0] = llama(ports[0])
        found["back"] = seconds_until(lambda: (metric(GATEWAY, busy) or 0) > 0)
        time.sleep(4)

    name = f"127.0.0.1:{ports[0]}"
    up, busy = f'api_upstream_up{{upstream="{name}"}}', f'api_upstream_slots{{state="busy",upstream="{name}"}}'
    servers = [llama(port) for port in ports]
    try:
        with site.gateway(1, ports[0], LLAMA_SERVERS=urls):
            outcomes = asyncio.run(during(at(GATEWAY), site.keys["caller"], REAL, 12, script))
            time.sleep(1.5)
            rows, charged, agree = settled(site, sum(outcomes.values()))
            used = asyncio.run(used_by(site.keys["caller"]))
    finally:
        for server in servers:
            server.kill()
    once = agree and used == charged
    print("| calls | out after | back after | rows, charged, on the meter |\n|---|---|---|---|")
    print(f"| {outcomes.told} | {found['out']:.2f} s | {found['back']:.2f} s | {rows}, {charged}, {used} |", flush=True)
    return not once or found["out"] > 2 or found["back"] > 5 or bool(outcomes.keys() - {"answered", "cut"})


def answers(port: int) -> bool:
    with suppress(OSError):
        get(f"{at(port)}/health")
        return True
    return False


async def used_by(key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(f"{at(GATEWAY)}/auth/me") as answer:
        return int(next(q["used"] for q in (await answer.json())["quotas"] if q["metric"] == "requests"))


# -- slots and gaps ------------------------------------------------------------------------------------------------

CALLERS = 200


@contextmanager
def gateways(site: Site, workers: int) -> Iterator[int]:
    with ExitStack() as stack:
        env = {"REDIS_URL": stack.enter_context(redis_server())} if workers > 1 else {}
        yield stack.enter_context(site.gateway(workers, STAND_IN, **env))


def calls_of(pid: int) -> int:
    """How many connections a process has to the stand-in now."""
    with suppress(OSError):
        held = {os.readlink(each)[8:-1] for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()}
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[2].endswith(f":{STAND_IN:04X}") and row[9] in held for row in rows)
    return 0


def slots(folder: Path) -> bool:
    print(
        "| setup | slots | most at once | calls | of them left by a killed worker | ends |\n|---|---|---|---|---|---|"
    )
    failed = False
    for setup, workers in (("1 process, memory", 1), ("4 processes, Redis, one killed", 4)):
        site = Site(folder, [USER])
        with stand_in(STAND_IN, 8, 0.2), gateways(site, workers) as pid:

            def script(pid: int = pid, workers: int = workers) -> None:
                time.sleep(9)  # until the calls in line are those of all workers
                if workers > 1:
                    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
                    os.kill(max(map(int, children), key=calls_of), signal.SIGKILL)
                time.sleep(12)

            outcomes = asyncio.run(during(at(GATEWAY), site.keys["caller"], MOCK, CALLERS, script))
            seen = stats(STAND_IN)
        print(f"| {setup} | 8 | {seen['most']} | {seen['calls']} | {seen['left']} | {outcomes.told} |", flush=True)
        failed |= seen["most"] > 8 or bool(outcomes.keys() - {"answered", *(["broken"] if workers > 1 else [])})
        failed |= workers > 1 and not seen["left"]
    return failed


def gap(folder: Path) -> bool:
    print("| setup | slots x seconds | idle while somebody waits, p50 | p95 | busy |\n|---|---|---|---|---|")
    failed = False
    for setup, workers, most in (("1 process, memory", 1, 3), ("4 processes, Redis", 4, 10)):
        for number, seconds in ((4, 0.05), (8, 0.5)):
            site = Site(folder, [USER])
            with stand_in(STAND_IN, number, seconds), gateways(site, workers):
                seen: dict[str, Any] = {}

                def script(seen: dict[str, Any] = seen) -> None:
                    time.sleep(4)
                    stats(STAND_IN, "/reset")
                    time.sleep(15)
                    seen.update(stats(STAND_IN))

                cores = os.sched_getaffinity(0)
                os.sched_setaffinity(0, {max(cores)})  # beside the stand-in, away from the gateway
                asyncio.run(during(at(GATEWAY), site.keys["caller"], MOCK, 40, script))
                os.sched_setaffinity(0, cores)
            told = f"{seen['gap_p50_ms']} ms | {seen['gap_p95_ms']} ms | {seen['busy']:.1%}"
            print(f"| {setup} | {number} x {seconds} s | {told} |", flush=True)
            failed |= seen["gap_p50_ms"] > most or (seconds == 0.5 and seen["busy"] < 0.98)
    return failed


# -- drain ---------------------------------------------------------------------------------------------------------


def drain(folder: Path) -> bool:
    site = Site(folder, [USER])
    key = site.keys["caller"]
    with stand_in(STAND_IN, 20, 5.0):
        command = uvicorn("llmgateway.asgi:application", GATEWAY)
        env = {**os.environ, **site.env, "LLAMA_SERVERS": at(STAND_IN)}
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
        try:
            seconds_until(lambda: metric(GATEWAY, f'api_upstream_up{{upstream="127.0.0.1:{STAND_IN}"}}') == 1)
            streams, queued = asyncio.run(through_a_stop(key, process))
            code = process.wait(60)
        finally:
            process.kill()
    rows, charged, agree = settled(site, 40)
    print("| 20 streams | 20 queued calls | exit | rows, charged |\n|---|---|---|---|")
    print(f"| {streams.told} | {queued.told} | {code} | {rows}, {charged} |", flush=True)
    refused = {"503 overloaded, Retry-After": 20}
    return (streams, queued, code, charged, agree) != ({"answered": 20}, refused, 0, 20, True)


async def through_a_stop(key: str, process: "subprocess.Popen[bytes]") -> tuple[Outcomes, Outcomes]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:

        def begin(**fields: Any) -> list["asyncio.Task[str]"]:
            return [asyncio.create_task(call(session, at(GATEWAY), key, {**MOCK, **fields})) for _ in range(20)]

        async def until(line: str) -> None:
            while await asyncio.to_thread(metric, GATEWAY, line) != 20:
                await asyncio.sleep(0.05)

        streams = begin(stream=True)
        await until(f'api_upstream_slots{{state="busy",upstream="127.0.0.1:{STAND_IN}"}}')
        queued = begin()
        await until('api_queue_depth{model="mock"}')
        process.send_signal(signal.SIGTERM)
        return Outcomes(await asyncio.gather(*streams)), Outcomes(await asyncio.gather(*queued))


NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  upstream gateways {{
    server 127.0.0.1:{one} max_fails=1 fail_timeout=2s;
    server 127.0.0.1:{other} max_fails=1 fail_timeout=2s; }}
  server {{ listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://gateways; proxy_http_version 1.1; proxy_buffering off; proxy_read_timeout 600s;
      proxy_next_upstream error http_503 non_idempotent; }} }} }}
"""


def rolling(folder: Path) -> bool:
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        sys.exit("nginx is not installed: apt-get install nginx-light")
    site = Site(folder, [USER])
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, one=GATEWAY, other=SECOND, port=PROXY))
    codes: list[int] = []
    with stand_in(STAND_IN, 16, 0.3), redis_server() as redis, ExitStack() as stack:
        env = {**os.environ, **site.env, "LLAMA_SERVERS": at(STAND_IN), "REDIS_URL": redis}

        def start(port: int) -> "subprocess.Popen[bytes]":
            process = subprocess.Popen(uvicorn("llmgateway.asgi:application", port), cwd=ROOT, env=env)
            stack.callback(process.kill)
            seconds_until(lambda: answers_ready(port))
            return process

        def script() -> None:
            for port in list(processes) * 2:
                time.sleep(4)
                processes[port].send_signal(signal.SIGTERM)
                codes.append(processes[port].wait(60))
                time.sleep(1)
                processes[port] = start(port)
            time.sleep(4)

        processes = {port: start(port) for port in (GATEWAY, SECOND)}
        stack.enter_context(running([program, "-c", str(config), "-p", str(folder)], PROXY, "/health"))
        outcomes = asyncio.run(during(at(PROXY), site.keys["caller"], MOCK, 40, script))
    print("| calls through nginx | exits |\n|---|---|")
    print(f"| {outcomes.told} | {', '.join(map(str, codes))} |", flush=True)
    return bool(outcomes.keys() - {"answered"}) or codes != [0] * 4


def answers_ready(port: int) -> bool:
    with suppress(OSError):
        return "unhealthy" not in get(f"{at(port)}/health/ready")
    return False


# -- steer ---------------------------------------------------------------------------------------------------------


def steer(folder: Path) -> bool:
    site = Site(folder, [USER])
    admin = "User.objects.create_superuser('admin', password='pass')"
    site.shell(f"from accounts.models import User\n{admin}\nprint(1)")
    took: dict[str, float] = {}

    def script() -> None:
        pages = Pages()
        pages.post("upstream/add/", name="one", base_url=at(STAND_IN), slots="", is_enabled="on", new_key="")
        time.sleep(3)
        stats(OTHER, "/reset")
        pages.post("upstream/add/", name="other", base_url=at(OTHER), slots="", is_enabled="on", new_key="")
        took["added"] = seconds_until(lambda: stats(OTHER)["calls"])
        time.sleep(2)
        pk = pages.pk_of("other")
        for what, page, fields in (
            ("disabled", "upstream/", {"action": "disable", "_selected_action": pk}),
            ("enabled", "upstream/", {"action": "enable", "_selected_action": pk}),
            ("removed", f"upstream/{pk}/delete/", {"post": "yes"}),
        ):
            began = time.monotonic()
            if what == "enabled":
                stats(OTHER, "/reset")
                pages.post(page, **fields)
                took[what] = seconds_until(lambda: stats(OTHER)["calls"])
                time.sleep(2)
                continue
            pages.post(page, **fields)
            time.sleep(4)
            took[what] = time.monotonic() - began - stats(OTHER)["last_arrival_ago"]

    with stand_in(STAND_IN, 4, 0.2), stand_in(OTHER, 4, 0.2), site.gateway(1, STAND_IN):
        outcomes = asyncio.run(during(at(GATEWAY), site.keys["caller"], MOCK, 20, script))
    print("| calls | " + " | ".join(took) + " |\n|---" * 1 + "|---" * len(took) + "|")
    print(f"| {outcomes.told} | " + " | ".join(f"{seconds:.2f} s" for seconds in took.values()) + " |", flush=True)
    return bool(outcomes.keys() - {"answered"}) or max(took.values()) > 2


class Pages:
    """The admin, as a browser uses it."""

    def __init__(self) -> None:
        self.client = httpx.Client(base_url=at(GATEWAY), follow_redirects=True, timeout=30)
        self.client.get("/admin/login/")
        self._send("/admin/login/", username="admin", password="pass", next="/admin/")

    def post(self, page: str, **fields: str) -> None:
        text = self._send(f"/admin/proxy/{page}", **fields)
        if "errornote" in text:
            sys.exit(f"The admin refused {page}: {re.findall('errorlist.*?</ul>', text, re.DOTALL)}")

    def pk_of(self, name: str) -> str:
        found = re.search(
            rf"/admin/proxy/upstream/(\d+)/change/[^>]*>{name}<", self.client.get("/admin/proxy/upstream/").text
        )
        assert found
        return found[1]

    def _send(self, path: str, **fields: str) -> str:
        token = self.client.cookies["csrftoken"]
        answer = self.client.post(path, data={"csrfmiddlewaretoken": token, **fields}, headers={"Referer": at(GATEWAY)})
        return answer.raise_for_status().text


if __name__ == "__main__":
    run_chosen({"kill": kill, "slots": slots, "gap": gap, "drain": drain, "rolling": rolling, "steer": steer})
