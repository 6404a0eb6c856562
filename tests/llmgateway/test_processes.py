"""Metrics of several workers: each of them tells the sums of all."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from llmgateway.processes import begin, pid_of, sweep
from tests.cast import bearer, person
from tests.conftest import CHAT
from tests.servers import PATIENCE, ROOT, OwnRedis, Worker, wait_until

pytestmark = pytest.mark.once

WORKERS = 4


@pytest.fixture(scope="module")
def four(live, llama, tmp_path_factory):
    """Four workers, in one directory of metrics where an earlier gateway has left something."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / f"counter_{dead_pid()}.db").write_bytes(b"what no worker reads")
    with OwnRedis() as redis:
        environment = {"REDIS_URL": redis.url, "PROMETHEUS_MULTIPROC_DIR": str(folder), "QUEUE_TIMEOUT": "300"}
        server = Worker(llama, WORKERS, **environment)
        with server:
            wait_until(lambda: len(pids_in(folder)) == WORKERS, "all workers are there")
            server.folder = folder
            yield server


def dead_pid():
    with subprocess.Popen(["true"]) as process:
        process.wait()
        return process.pid


def pids_in(folder):
    return {pid_of(file) for file in folder.glob("*.db")}


def series(server):
    """All series, as one of the workers tells them."""
    text = httpx.get(f"{server.url}/metrics", timeout=PATIENCE).text
    return {name: float(value) for name, value in re.findall(r"^(\w.*) (\S+)$", text, re.MULTILINE)}


def calls_of(server, someone, count):
    """So many calls on connections of their own, so that all workers get some. Gives their statuses."""
    headers, body = bearer(someone.key()[1]), {**CHAT, "max_tokens": 2}

    def call(_):
        return httpx.post(f"{server.url}/v1/chat/completions", headers=headers, json=body, timeout=300)

    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(call, range(count)))


def answered(told):
    return told.get('api_requests_total{endpoint="chat-completions",status="200",tier="enterprise"}', 0)


@pytest.mark.usefixtures("live")
def test_four_workers_tell_the_sum_of_what_was_sent(four):
    answers = calls_of(four, person("grace"), 60)
    assert Counter(answer.status_code for answer in answers) == {200: 60}
    used = [answer.json()["usage"] for answer in answers]
    told = [series(four) for _ in range(2 * WORKERS)]
    for each in told:
        assert answered(each) == 60
        assert each['api_request_duration_seconds_count{endpoint="chat-completions",tier="enterprise"}'] == 60
        for kind in ("prompt", "completion"):
            sent = sum(usage[f"{kind}_tokens"] for usage in used)
            assert each[f'api_tokens_total{{kind="{kind}",model="smollm2-135m",tier="enterprise"}}'] == sent


def test_commands_and_the_parent_of_the_workers_tell_nothing(four):
    subprocess.run([sys.executable, "manage.py", "check"], cwd=ROOT, env=four.environment, check=True)
    assert pids_in(four.folder) == set(four.children)


def test_gauges_tell_of_the_gateway_and_not_of_each_worker(four):
    name = next(iter(re.findall(r'upstream="([^"]+)"', " ".join(series(four)))))
    wait_until(lambda: f'api_upstream_slots{{state="busy",upstream="{name}"}}' in series(four), "slots are told of")
    told = series(four)
    assert told[f'api_upstream_slots{{state="all",upstream="{name}"}}'] == 4
    assert told[f'api_upstream_up{{upstream="{name}"}}'] == 1
    assert told["api_store_up"] == told["api_cache_up"] == 1
    assert told["api_snapshot_age_seconds"] < PATIENCE
    wait_until(lambda: series(four)["api_ledger_waiting_rows"] == 0, "all rows are written")


def test_a_dead_worker_keeps_what_it_counted_and_has_nothing_running(four):
    calls_of(four, person("grace"), 8)
    before = answered(series(four))
    dead = four.children[0]
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: len(set(four.children) - {dead}) == WORKERS, "there is another one")

    def is_swept():
        try:
            series(four)
        except httpx.HTTPError:  # of a connection that the dead one had
            return False
        return not list(four.folder.glob(f"gauge_live*_{dead}.db"))

    wait_until(is_swept, "what it had running is swept")
    assert answered(series(four)) == before


def test_what_an_earlier_gateway_left_is_swept_once(tmp_path):
    left, own = tmp_path / f"counter_{dead_pid()}.db", tmp_path / f"counter_{os.getpid()}.db"
    for file in (left, own):
        file.touch()
    begin(tmp_path, WORKERS)
    assert pids_in(tmp_path) == {os.getpid()}
    left.touch()  # of a worker of this gateway that has died since
    begin(tmp_path, WORKERS)
    assert left.exists()


def test_a_gateway_of_one_process_begins_anew_each_time(tmp_path):
    """Though whoever starts it is the same."""
    code = f"import pathlib; from llmgateway.processes import begin; begin(pathlib.Path({str(tmp_path)!r}), 1)"
    for _ in range(2):
        left = tmp_path / f"counter_{dead_pid()}.db"
        left.touch()
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
        assert not left.exists()


def test_several_scrapes_may_sweep_at_the_same_time(tmp_path, together):
    gone = dead_pid()

    def scrape():
        for _ in range(50):
            (tmp_path / f"gauge_livesum_{gone}.db").touch()
            sweep(tmp_path)

    with together(*[scrape] * 4) as scrapes:
        assert [each.result() for each in scrapes] == [None] * 4
