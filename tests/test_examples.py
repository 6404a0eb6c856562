"""The demo and the tour, as a newcomer runs them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .servers import PATIENCE, ROOT, free_port, wait_until

pytestmark = pytest.mark.once


def children(pid: int) -> list[str]:
    return subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()


def run(*arguments: str, **options) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=5 * PATIENCE, **options
    )


@pytest.fixture
def demo(tmp_path):
    """A demo that is up: its port, its process and what it printed."""
    port, told = free_port(), tmp_path / "told"
    with told.open("w") as out:
        command = [sys.executable, "examples/demo.py", "--port", str(port), "--data", str(tmp_path / "demo")]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True)
    ended = "Ctrl-C stops everything."
    wait_until(lambda: ended in told.read_text() or process.poll() is not None, "the demo is up", within=3 * PATIENCE)
    assert ended in told.read_text(), told.read_text()
    yield port, process, told
    if process.poll() is None:
        process.kill()
        process.wait()


def test_the_tour_passes_on_a_demo_which_then_leaves_no_process(demo, tmp_path):
    port, process, told = demo
    assert "The model says: " in told.read_text()
    credentials = str(tmp_path / "demo" / "credentials.json")
    tour = run("examples/tour.py", "--url", f"http://127.0.0.1:{port}", "--credentials", credentials)
    assert tour.returncode == 0, tour.stdout
    assert "All 30 steps went as expected." in tour.stdout
    started = children(process.pid)
    assert len(started) == 2
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


def test_a_demo_whose_llama_server_dies_says_so_and_ends(demo):
    _, process, told = demo
    for pid in children(process.pid):
        if "llama_server" in Path(f"/proc/{pid}/cmdline").read_text():
            subprocess.run(["kill", "-9", pid], check=True)
    assert process.wait(PATIENCE) == 1
    assert "The llama-server has stopped." in told.read_text()


def test_a_port_in_use_is_one_sentence(live, tmp_path):
    second = run("examples/demo.py", "--port", str(live.port), "--data", str(tmp_path))
    assert second.returncode == 1
    assert second.stderr.strip() == f"Port {live.port} is in use. Choose another one: make demo PORT={live.port + 1}"


def test_a_tour_without_a_gateway_says_what_to_do(tmp_path):
    credentials = tmp_path / "credentials.json"
    missing = run("examples/tour.py", "--credentials", str(credentials))
    assert (missing.returncode, "make demo" in missing.stderr) == (1, True)
    credentials.write_text("{}")
    silent = run("examples/tour.py", "--url", f"http://127.0.0.1:{free_port()}", "--credentials", str(credentials))
    assert (silent.returncode, "Is `make demo` running" in silent.stderr) == (1, True)
