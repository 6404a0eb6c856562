"""Whatever is sent to whichever endpoint: a clear answer, in time, and nothing of a llama-server's inside in it.

`python bench/fuzz.py` runs this with 5,000 requests.
"""

import json
import os
import re
from collections import Counter
from contextlib import closing
from http.client import HTTPConnection
from typing import NamedTuple

import pytest
from django.conf import settings as django_settings
from hypothesis import HealthCheck, given, settings

from proxy.gateway import gateway
from tests.cast import new_tier, person
from tests.fuzzing import Fuzzed, requests
from tests.proxy.test_endings import busy_slots
from tests.servers import PATIENCE, wait_until

pytestmark = pytest.mark.once

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "500"))
ANSWERS = {200, 400, 404, 405}
INSIDE = re.compile(
    r"127\.0\.0\.1|/slots|/props|\.gguf|json\.exception|Traceback|llama\.cpp/|site-packages|\"timings\"|__verbose"
)
HEADERS = {
    "date", "server", "content-type", "content-length", "x-request-id", "cache-control", "x-accel-buffering", "allow",
    "transfer-encoding", "x-dropped-params", "connection", "www-authenticate", "x-cache", "age",
    *(f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")),
}  # fmt: skip


class Answered(NamedTuple):
    status: int
    headers: set[str]
    text: str


@pytest.fixture(scope="module")
def send(live, llama):
    """Sends a request as it is, path and all: httpx would tidy it. The cache is on."""
    django_settings.CACHE_TTL = 3600
    own = person("fuzz", new_tier()).headers

    def request(asked: Fuzzed) -> Answered:
        wire = HTTPConnection("127.0.0.1", live.port, timeout=PATIENCE)
        wire.request(asked.method, asked.path, asked.body, {**own, **asked.headers})
        with closing(wire), wire.getresponse() as response:
            return Answered(response.status, {name.lower() for name in response.headers}, response.read().decode())

    yield request
    django_settings.CACHE_TTL = 0


@pytest.fixture(scope="module")
def tasks(live):
    return live.tasks()


def check(asked: Fuzzed, answer: Answered) -> None:
    assert answer.status in ANSWERS, answer.text
    assert answer.headers <= HEADERS
    assert not INSIDE.search(answer.text), answer.text
    if answer.status != 200 and asked.method != "HEAD":
        error = json.loads(answer.text)["error"]
        assert error["message"]
        assert error["code"]


def test_any_request_is_answered(live, llama, send, tasks):
    statuses = Counter(dict.fromkeys(ANSWERS, 0))

    @settings(max_examples=REQUESTS, suppress_health_check=list(HealthCheck), deadline=None)
    @given(asked=requests())
    def ask(asked: Fuzzed) -> None:
        answer = send(asked)
        statuses[answer.status] += 1
        check(asked, answer)

    ask()
    wait_until(lambda: not busy_slots(llama), "no slot is busy")
    wait_until(lambda: live.tasks() <= tasks, "no task is left over")
    assert [each.in_flight for each in gateway().pool.members] == [0]
    print(f"{sum(statuses.values())} requests: {dict(sorted(statuses.items()))}")  # noqa: T201  # for bench/fuzz.py
    assert statuses[200] > REQUESTS / 20
    assert statuses[400] > REQUESTS / 20
