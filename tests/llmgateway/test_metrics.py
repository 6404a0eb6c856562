"""/metrics: right on both lanes, and closed to strangers."""

import re

import pytest

from tests import fake_llama
from tests.cast import new_tier, person
from tests.conftest import CHAT
from tests.proxy.test_endings import send
from tests.servers import PATIENCE, wait_until


@pytest.fixture
def value(http):
    """The value of a series now."""

    def of(series):
        lines = http.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series + " "))

    return of


@pytest.mark.parametrize(
    ("path", "endpoint", "status", "tier"),
    [
        ("/v1/models", "models", 200, "enterprise"),
        ("/v1/nope", "unknown", 404, "none"),
        ("/health", "health", 200, "none"),
        ("/auth/me", "me", 200, "none"),
        ("/nope/nope", "unknown", 404, "none"),
        ("/admin/login/", "admin", 200, "none"),
    ],
)
def test_requests_of_both_lanes_are_counted_and_timed(http, bob, value, path, endpoint, status, tier):
    count = f'api_requests_total{{endpoint="{endpoint}",status="{status}",tier="{tier}"}}'
    timed = f'api_request_duration_seconds_count{{endpoint="{endpoint}",tier="{tier}"}}'
    before = value(count), value(timed)
    assert http.get(path, headers=bob.headers).status_code == status
    assert (value(count), value(timed)) == (before[0] + 1, before[1] + 1)


def test_the_relay_lane_moves_django_prometheus_too(http, bob, value):
    view = 'django_http_responses_total_by_status_view_method_total{method="GET",status="200",view="models"}'
    before = value(view), value("django_http_requests_before_middlewares_total")
    http.get("/v1/models", headers=bob.headers)
    assert value(view) == before[0] + 1
    assert value("django_http_requests_before_middlewares_total") >= before[1] + 1


def test_a_stream_is_timed_to_its_end(bob, chat, value):
    total = 'api_request_duration_seconds_sum{endpoint="chat-completions",tier="enterprise"}'
    before = value(total)
    took = chat(bob, stream=True, max_tokens=60).elapsed.total_seconds()
    assert value(total) - before >= 0.5 * took


def test_a_client_that_left_is_counted_as_such(live, bob, fake, value):
    left = 'api_requests_total{endpoint="chat-completions",status="499",tier="enterprise"}'
    before = value(left)
    fakes = []
    fakes.append(fake(fake_llama.sends_and_hangs(fakes)))
    with send(live, bob.token, CHAT):
        wait_until(lambda: fakes[0].seen, "the call has arrived")
    wait_until(lambda: value(left) == before + 1, "it was counted")


def test_refusals_are_counted_by_the_limit(live, chat, value):
    tier = new_tier(requests_a_minute=1)
    grace = person("grace", tier)
    assert [chat(grace).status_code for _ in range(3)] == [200, 429, 429]
    assert value(f'api_rejections_total{{reason="requests_minute",tier="{tier.name}"}}') == 2


def test_the_state_of_what_the_gateway_stands_on_is_told(llama, value):
    assert value(f'api_upstream_up{{upstream="{llama.removeprefix("http://")}"}}') == 1
    assert 0 <= value("api_snapshot_age_seconds") < PATIENCE


def test_no_label_holds_what_a_client_chose(http, bob, chat):
    chat(bob, model="chosen-by-me")
    http.request("GET", "/v1/chosen-by-me", headers={"User-Agent": "chosen-by-me"})
    http.request("GET", "/chosen-by-me?chosen-by-me")
    text = http.get("/metrics").text
    assert "chosen-by-me" not in text
    assert not re.search(r"(alice|bob)-\d", text)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "X-Real-IP", "Via"])
def test_a_request_that_a_proxy_passed_on_is_a_strangers(http, header):
    assert http.get("/metrics", headers={header: "127.0.0.1"}).status_code == 401


@pytest.mark.django_db
def test_djangos_own_test_client_is_a_peer_like_others(client):
    assert client.get("/metrics").status_code == 200
    assert client.get("/metrics", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 401


def test_a_stranger_needs_the_token(http, settings):
    settings.METRICS_ALLOW = ()
    assert http.get("/metrics").status_code == 401
    settings.METRICS_TOKEN = "s3same"
    assert http.get("/metrics", headers={"Authorization": "Bearer other"}).status_code == 401
    passed_on = {"Authorization": "Bearer s3same", "X-Forwarded-For": "6.6.6.6"}
    assert http.get("/metrics", headers=passed_on).status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/metrics", 200), ("/health", 200), ("/auth/me", 400)])
def test_any_host_may_be_named_for_metrics_and_health(http, path, status):
    assert http.get(path, headers={"Host": "10.1.2.3:8000"}).status_code == status
