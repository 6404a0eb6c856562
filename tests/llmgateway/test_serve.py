"""`llmgateway serve`: one process or several workers, and what becomes of them."""

import importlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tomllib
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from uvicorn.config import STARTUP_FAILURE

from llmgateway import supervisor
from llmgateway.management.commands.serve import listening
from llmgateway.server import listen
from llmgateway.supervisor import SILENT_FOR, TURN, failure_after
from tests.servers import ROOT, OwnRedis, Worker, answers, database_url, free_port, is_listening, wait_until

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def redis():
    with OwnRedis() as server:
        yield server


@pytest.fixture
def serving(live, llama, redis, tmp_path):
    """A gateway of two workers, both of which are there."""
    with Worker(llama, 2, REDIS_URL=redis.url, TMPDIR=str(tmp_path), PROMETHEUS_MULTIPROC_DIR="") as server:
        wait_until(lambda: len(server.children) == 2, "both workers are there", within=120)
        yield server


def serve(*options, **environment):
    """`llmgateway serve` that is expected to end by itself."""
    command = [sys.executable, "-m", "llmgateway", "serve", "--port", str(free_port()), *options]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


# -- what keeps it from starting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
def test_a_dangerous_setting_is_said_once_and_ends_it(redis, workers):
    done = serve("--workers", str(workers), SECRET_KEY="change-me", REDIS_URL=redis.url, LOG_LEVEL="ERROR")
    assert done.returncode == 3
    assert done.stderr.count("The settings are dangerous.") == 1, done.stderr
    assert "accounts.E001" in done.stderr


def test_several_workers_without_redis_are_refused():
    done = serve("--workers", "2", REDIS_URL="")
    assert (done.returncode, "proxy.E001" in done.stderr) == (3, True)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_address_in_use_is_one_sentence(live, redis, workers):
    done = serve("--port", str(live.port), "--workers", workers, REDIS_URL=redis.url)
    told = f"CommandError: Cannot listen on 127.0.0.1:{live.port}: Address already in use"
    assert (done.returncode, done.stderr.strip()) == (1, told)


def test_no_workers_are_none():
    done = serve("--workers", "0")
    assert (done.returncode, "no number of workers" in done.stderr) == (2, True)


# -- where it listens ----------------------------------------------------------------------------------------------


@contextmanager
def served(*options, **popen):
    command = [sys.executable, "manage.py", "serve", *options]
    with subprocess.Popen(command, cwd=ROOT, **popen) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_unix_socket_is_made_and_cleared_away(redis, tmp_path, workers):
    path = str(tmp_path / "gateway.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)  # of a gateway that was killed

    def lives():
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(path) != 0:
                return False
            client.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
            return client.recv(100).startswith(b"HTTP/1.1 200")

    environment = {**os.environ, "REDIS_URL": redis.url, "TMPDIR": str(tmp_path)}
    with served("--uds", path, "--workers", workers, env=environment) as process:
        wait_until(lives, "it answers", within=120)
        second = serve("--uds", path)
        told = f"CommandError: Cannot listen on {path}: Address already in use"
        assert (second.returncode, second.stderr.strip(), lives()) == (1, told, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not Path(path).exists()


def test_the_unix_socket_of_a_successor_stays(tmp_path):
    path = tmp_path / "gateway.sock"
    options = {"fd": None, "uds": str(path)}
    with listening(options) as old, ExitStack() as successor:
        old.close()  # as uvicorn does before its last calls end
        successor.enter_context(listening(options))
        kept = successor.pop_all()
    assert path.exists()
    with kept:
        pass
    assert not path.exists()


def test_a_unix_socket_that_somebody_removed_is_no_fault(tmp_path):
    path = tmp_path / "gateway.sock"
    with listening({"fd": None, "uds": str(path)}):
        path.unlink()
    assert not path.exists()


@pytest.mark.usefixtures("live")
def test_a_socket_that_is_open_already_is_used():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        number = str(listener.fileno())
        with served("--fd", number, pass_fds=[listener.fileno()]):
            wait_until(lambda: answers(f"{url}/health/live"), "it answers", within=120)


# -- its workers ---------------------------------------------------------------------------------------------------


def test_several_workers_add_their_metrics_up_by_themselves(serving, tmp_path):
    asked = 12
    for _ in range(asked):
        httpx.get(f"{serving.url}/health/live", headers={"connection": "close"})
    counted = 'api_requests_total{endpoint="health-live",status="200",tier="none"} '
    told = {httpx.get(f"{serving.url}/metrics").text.partition(counted)[2].partition("\n")[0] for _ in range(8)}
    assert told == {f"{asked}.0"}
    assert list(tmp_path.glob("llmgateway-metrics-*/*.db"))
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(30) == 0
    assert not list(tmp_path.iterdir())


def test_sighup_replaces_all_workers_and_no_call_fails(serving):
    before = set(serving.children)
    serving.process.send_signal(signal.SIGHUP)
    seen = Counter()

    def are_new():
        seen[httpx.get(f"{serving.url}/health/live").status_code] += 1
        return len(serving.children) == 2 and not before & set(serving.children)

    wait_until(are_new, "all workers are new", within=180)
    assert set(seen) == {200}


def test_workers_end_with_a_parent_that_is_killed(serving):
    serving.process.kill()
    serving.process.wait()
    wait_until(lambda: not is_listening(serving.port), "nobody listens any more", within=30)


@pytest.mark.usefixtures("live")
def test_one_that_starts_is_left_to_it_and_a_hung_one_not(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", database_url())
    turns = range(int(SILENT_FOR / TURN) + 2)
    with listen("127.0.0.1", 0) as listener:
        worker = supervisor.Worker(listener)
        try:
            for _ in turns:
                worker.read_heartbeats()
            assert (worker.is_ready, worker.is_stuck) == (False, False)
            wait_until(lambda: worker.read_heartbeats() or worker.is_ready, "it is ready", within=120)
            assert not worker.is_stuck
            worker.send(signal.SIGSTOP)
            for _ in turns:
                worker.read_heartbeats()
            assert worker.is_stuck
        finally:
            worker.send(signal.SIGKILL)
            worker.close()


@pytest.mark.parametrize(("ended", "gives"), [(STARTUP_FAILURE, STARTUP_FAILURE), (1, 1), (0, 1), (-9, 1), (-15, 1)])
def test_a_first_worker_that_a_signal_ended_is_no_wrong_setting(ended, gives):
    assert failure_after(ended) == gives


# -- how it is called ----------------------------------------------------------------------------------------------


def test_the_console_script_is_the_command_line():
    """And so are `python -m llmgateway` and manage.py."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["llmgateway"].partition(":")
    assert getattr(importlib.import_module(module), function) is importlib.import_module("manage").main


@pytest.mark.usefixtures("live")
def test_it_may_open_as_many_files_as_the_machine_allows():
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))

    port = free_port()
    with served("--port", str(port), stderr=subprocess.PIPE, text=True, preexec_fn=few) as process:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health/live"), "it answers", within=120)
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        process.kill()
        told = process.stderr.read()
    assert "Max open files            300                  300" in limits
    assert "A process can open 300 files only" in told
