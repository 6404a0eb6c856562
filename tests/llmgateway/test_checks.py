"""Dangerous settings are said aloud, with an id and a hint, and keep the server from starting."""

import asyncio

import pytest
from django.core.checks import Tags, run_checks

from accounts.models import Quota
from llmgateway.asgi import application
from proxy.checks import check_metrics
from tests.cast import new_tier, person


def found(settings, **changes):
    for name, value in changes.items():
        setattr(settings, name, value)
    return {check.id: check for check in run_checks() if not check.is_silenced()}


def test_the_defaults_are_safe(settings):
    assert found(settings) == {}


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"SECRET_KEY": "django-insecure-x"}, "accounts.E001"),
        ({"SECRET_KEY": "change-me"}, "accounts.E001"),
        ({"SECRET_KEY": "k" * 50, "JWT_SIGNING_KEY": "k" * 50}, "accounts.E002"),
        ({"JWT_SIGNING_KEY": "short"}, "accounts.W001"),
        ({"DEBUG": True, "ALLOWED_HOSTS": ["*"]}, "accounts.E003"),
        ({"WORKERS": 4}, "proxy.E001"),
        ({"LLAMA_SERVERS": ("127.0.0.1:8080",)}, "proxy.E002"),
        ({"LLAMA_SERVERS": ("http://127.0.0.1:8080/v1",)}, "proxy.E002"),
        ({"LLAMA_SERVERS": ("http://user:secret@gpu:8080",)}, "proxy.E002"),
        ({"JWT_SIGNING_KEY": "changeme" * 5}, "accounts.E001"),
        ({"JWT_RETIRED_KEYS": ("secret",)}, "accounts.E001"),
        ({"LANES": "fast"}, "proxy.E003"),
        ({"LANES": "relay"}, "proxy.W002"),
        ({"REDIS_URL": "127.0.0.1:6379"}, "proxy.E004"),
        ({"STORE_DOWN_POLICY": "panic"}, "proxy.E005"),
        ({"CACHE_SCOPE": "world"}, "proxy.E006"),
        ({"CACHE_HIT_TOKENS": -1}, "proxy.E007"),
        ({"PUBLIC_URL": "llm.example.org"}, "llmgateway.E001"),
        ({"HSTS_SECONDS": -1}, "llmgateway.E002"),
    ],
)
def test_a_dangerous_setting_is_found(settings, changes, check):
    assert found(settings, **changes)[check].hint


def test_with_redis_there_may_be_any_number_of_workers_and_lanes_of_their_own(settings):
    assert found(settings, REDIS_URL="redis://x", WORKERS=4, LANES="relay", PROMETHEUS_MULTIPROC_DIR="x") == {}


def test_workers_that_do_not_add_their_metrics_up_are_warned_of(settings):
    settings.WORKERS = 4
    assert [each.id for each in check_metrics()] == ["proxy.W004"]
    settings.PROMETHEUS_MULTIPROC_DIR = "x"
    assert check_metrics() == []


@pytest.mark.django_db
def test_a_limit_that_leaves_some_workers_nothing_is_warned_of(settings):
    settings.REDIS_URL, settings.WORKERS = "redis://x", 8
    tier = new_tier(requests_a_minute=7, max_concurrent_requests=6)
    new_tier(requests_a_minute=8, max_concurrent_requests=8)
    Quota.objects.create(user=person("grace", tier).user, limit=5)
    warnings = run_checks(tags=[Tags.database], databases=["default"])
    assert {each.id for each in warnings} == {"proxy.W003"}
    assert sorted(each.msg.split(" ")[0] for each in warnings) == ["5", "6", "7"]


def test_a_development_key_is_fine_for_development(settings):
    assert found(settings, SECRET_KEY="django-insecure-x", DEBUG=True) == {}


def test_a_server_with_a_dangerous_setting_does_not_start(settings):
    settings.SECRET_KEY = "django-insecure-x"
    sent = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        sent.append(message)

    asyncio.run(application({"type": "lifespan"}, receive, send))
    assert sent[0]["type"] == "lifespan.startup.failed"
    assert "accounts.E001" in sent[0]["message"]
