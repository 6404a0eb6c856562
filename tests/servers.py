"""Servers that tests talk to: the gateway on a live uvicorn, and a real llama-server in a process of its own."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import uvicorn
import uvloop

from llmgateway.asgi import application

ROOT = Path(__file__).parent.parent
REDIS = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/9")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_listening(url: str) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((urlsplit(url).hostname or "", urlsplit(url).port or 0)) == 0


def wait_until(condition: Callable[[], Any], what: str, within: float = 10.0) -> Any:
    """Wait until a condition holds, and give its value. The one place where tests wait."""
    deadline = time.monotonic() + within
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"After {within} s still not: {what}")
        time.sleep(0.01)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def llama_server(port: int = 0, *options: str) -> Iterator[str]:
    """A real llama-server, with options of examples/llama_server.py. Gives its base URL."""
    url = f"http://127.0.0.1:{port or (port := free_port())}"
    command = [sys.executable, str(ROOT / "examples" / "llama_server.py"), "--port", str(port), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: answers(f"{url}/health"), "llama-server is up", within=60)
            yield url
        finally:
            process.kill()


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
        config = uvicorn.Config(application, port=self.port, log_config=None, access_log=False, proxy_headers=False)
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
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()

    def run(self, coroutine: Any) -> Any:
        """Run something on the gateway's loop, and give its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def tasks(self) -> int:
        """How many tasks there are on the gateway's loop, the asking one aside."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return self.run(count())
