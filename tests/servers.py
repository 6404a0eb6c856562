"""Servers that tests talk to: the gateway on a live uvicorn, and a real llama-server in a process of its own."""

import asyncio
import fcntl
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import uvloop
from django.conf import settings
from django.db import connection

from llmgateway.asgi import application
from llmgateway.protocol import GatewayProtocol

ROOT = Path(__file__).parent.parent
PATIENCE = 60.0  # seconds that anything may take on a busy machine; a wait ends as soon as its condition holds
PORTS = range(23_000, 32_000)  # below those that systems give to outgoing connections

taken_ports: set[int] = set()
port_locks = os.open(Path(tempfile.gettempdir()) / f"llmgateway-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)


def free_port() -> int:
    """A port that nobody listens on. No other test run on this machine is given it while this process lives."""
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if port not in taken_ports and is_lockable(port) and is_bindable(port):
            taken_ports.add(port)
            return port
    raise AssertionError("No port is free.")


def is_lockable(port: int) -> bool:
    """True if no other process holds the lock on this port; then this one does, until it ends."""
    try:
        fcntl.lockf(port_locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def is_bindable(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def leave_out(reason: str) -> None:
    """Skip a test that lacks a service, or fail it where none may be missing."""
    (pytest.fail if os.environ.get("REQUIRE_SERVICES") == "1" else pytest.skip)(reason)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def polls(condition: Callable[[], Any], what: str, within: float) -> Iterator[None]:
    """Turns to wait, until a condition holds. Raises AssertionError where it takes too long."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"After {within} s still not: {what}")
        yield


def wait_until(condition: Callable[[], Any], what: str, within: float = PATIENCE) -> None:
    """Wait until a condition holds. The one place where tests wait.

    Give another `within` (seconds) only where a late answer would be a wrong one, and then a generous one.
    """
    for _ in polls(condition, what, within):
        time.sleep(0.01)


async def wait_until_async(condition: Callable[[], Any], what: str, within: float = PATIENCE) -> None:
    """The same on an event loop, which goes on meanwhile."""
    for _ in polls(condition, what, within):
        await asyncio.sleep(0.01)


class OwnRedis:
    """A Redis server that a test may kill and freeze. It keeps nothing on disk."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(lambda: is_listening(self.port), "Redis is up")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> "OwnRedis":
        if shutil.which("redis-server") is None:
            leave_out("redis-server is not installed (on Debian: apt-get install redis-server).")
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def llama_server(port: int = 0, *options: str) -> Iterator[str]:
    """A real llama-server, with options of examples/llama_server.py. Gives its base URL.

    It has one thread: several spin while they wait for each other, which makes it twenty times slower on busy cores.
    """
    url = f"http://127.0.0.1:{port or (port := free_port())}"
    options = ("--port", str(port), "--threads", "1", *options)
    command = [sys.executable, str(ROOT / "examples" / "llama_server.py"), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: answers(f"{url}/health"), "llama-server is up")
            yield url
        finally:
            process.kill()


def database_url() -> str:
    """The database of this run's tests, for other processes."""
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        return f"sqlite:///{connection.settings_dict['NAME']}"
    who = database["USER"] + (f":{database['PASSWORD']}" if database["PASSWORD"] else "")
    return f"postgres://{who}@{database['HOST']}:{database['PORT']}/{connection.settings_dict['NAME']}"


class Worker:
    """A gateway in processes of its own, on the tests' database. `environment` is what else it is told."""

    def __init__(self, llama: str, workers: int = 1, **environment: str) -> None:
        self.workers = workers
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        own = {"DATABASE_URL": database_url(), "LLAMA_SERVERS": llama, "LOG_LEVEL": "WARNING", "CACHE_TTL": "0"}
        self.environment = {**os.environ, **own, **environment, "JWT_SIGNING_KEY": settings.JWT_SIGNING_KEY}
        self.command = ["serve", "--port", str(self.port), "--workers", str(self.workers)]
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        command = [sys.executable, "manage.py", *self.command]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment)

    def __enter__(self) -> "Worker":
        self.start()
        try:
            wait_until(lambda: answers(f"{self.url}/health/ready"), "a worker is ready", within=2 * PATIENCE)
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def children(self) -> list[int]:
        """The worker processes, where there are several."""
        listed = subprocess.run(
            ["pgrep", "-P", str(self.process.pid), "-f", "spawn_main"], capture_output=True, text=True
        )
        return [int(pid) for pid in listed.stdout.split()]

    def __exit__(self, *exc: object) -> None:
        children = self.children
        self.process.kill()
        self.process.wait()
        for pid in children:  # they outlive a parent that is killed
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class WatchedLoop(uvloop.Loop):
    """The gateway's loop, which can be told that no request may leave it for a thread."""

    threads_forbidden = False

    def run_in_executor(self, *args: Any) -> Any:
        if self.threads_forbidden:
            raise AssertionError("A request left the event loop for a thread.")
        return super().run_in_executor(*args)


class LiveGateway:
    """The gateway on a live uvicorn, on a thread of the test process, so that tests can look inside."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        options: Any = {"port": self.port, "log_config": None, "access_log": False, "proxy_headers": False}
        config = uvicorn.Config(application, http=GatewayProtocol, **options)
        self.server = uvicorn.Server(config)
        self.loop: WatchedLoop
        logging.getLogger("uvicorn.access").disabled = True  # it would bury what a failing test has to say
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=WatchedLoop) as runner:
            self.loop = runner.get_loop()  # type: ignore[assignment]
            runner.run(self.server.serve())

    def start(self) -> None:
        self._thread.start()
        wait_until(lambda: answers(f"{self.url}/health/live"), "the gateway is up")

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(timeout=PATIENCE)
        assert not self._thread.is_alive()

    def run(self, coroutine: Any) -> Any:
        """Run something on the gateway's loop, and give its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def task_ids(self) -> set[int]:
        """Which tasks there are on the gateway's loop."""

        async def ids() -> set[int]:
            return {id(task) for task in asyncio.all_tasks()} - {id(asyncio.current_task())}

        return self.run(ids())

    def tasks(self) -> int:
        """How many tasks there are on the gateway's loop, the asking one aside."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return self.run(count())
