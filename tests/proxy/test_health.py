"""/health, as the lab has it, and its two kinds."""

import pytest

from proxy.gateway import gateway
from tests import fake_llama


def health(http, path="/health"):
    response = http.get(path)
    return response.status_code, response.json()["status"]


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/health/live"])
def test_all_is_well(http, path):
    assert health(http, path) == (200, "healthy")


def test_head_is_answered_as_get_is(http):
    response = http.head("/health")
    assert (response.status_code, response.content) == (200, b"")


def test_without_a_llama_server_it_is_unhealthy_and_lives(http, fake, bob, chat):
    fake(fake_llama.sends()).close()
    chat(bob)
    assert health(http) == (503, "unhealthy")
    assert health(http, "/health/ready") == (503, "unhealthy")
    assert health(http, "/health/live") == (200, "healthy")


def test_without_tiers_and_quotas_it_is_not_ready(http, monkeypatch):
    monkeypatch.setattr(gateway().snapshot, "_whole_read_at", float("-inf"))
    monkeypatch.setattr(gateway().snapshot, "max_stale", -1.0)
    assert health(http, "/health/ready") == (503, "unhealthy")
    assert health(http) == (200, "healthy")
