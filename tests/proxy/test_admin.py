"""The proxy's pages of the admin: aliases to be edited, the ledger to be read."""

from datetime import UTC, datetime

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.urls import reverse

from accounts.models import User
from proxy.cache.memory import MemoryAnswers
from proxy.cache.redis import RedisAnswers
from proxy.gateway import gateway
from proxy.models import ModelAlias, RefusalCount, UsageRecord
from tests.cast import new_tier, person
from tests.servers import free_port

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
READ_ONLY = ["usagerecord", "refusalcount"]


def page(name, *args):
    return reverse(f"admin:proxy_{name}", args=args)


@pytest.fixture
def rows():
    """A call and a refusal of alice's, and a call of somebody who was deleted since."""
    alice = person("alice").user
    counts = {"prompt_tokens": 5, "cached_tokens": 3, "completion_tokens": 2, "is_estimated": False, "total_ms": 12}
    common = {"admitted_at": NOON, "tier": "free", "endpoint": "chat-completions", "status": 200, "streamed": True}
    gone = person("gone").user
    for number, user in enumerate((alice, gone)):
        UsageRecord.objects.create(request_id=f"req_{number}", user=user, **common, **counts)
    RefusalCount.objects.create(minute=NOON, user=gone, reason="requests_minute", count=7)
    User.objects.filter(pk=gone.pk).delete()
    return alice


@pytest.mark.parametrize("model", READ_ONLY)
def test_what_the_gateway_writes_is_listed_also_of_a_deleted_user(admin_client, rows, model):
    response = admin_client.get(page(f"{model}_changelist"))
    assert response.status_code == 200
    assert len(response.context["cl"].result_list) == {"usagerecord": 2, "refusalcount": 1}[model]


@pytest.mark.parametrize("model", READ_ONLY)
def test_nobody_edits_it(admin_client, rows, model):
    row = (UsageRecord if model == "usagerecord" else RefusalCount).objects.order_by("pk").first()
    assert admin_client.get(page(f"{model}_add")).status_code == 403
    assert admin_client.post(page(f"{model}_delete", row.pk)).status_code == 403
    assert admin_client.get(page(f"{model}_change", row.pk)).status_code == 200
    assert admin_client.post(page(f"{model}_change", row.pk), {}).status_code == 403


def test_a_call_is_found_by_the_id_that_the_client_was_told(admin_client, rows):
    found = admin_client.get(page("usagerecord_changelist"), {"q": "req_0"}).context["cl"]
    assert [row.user for row in found.result_list] == [rows]


def test_the_ledger_costs_few_queries(admin_client, rows, django_assert_max_num_queries):
    with django_assert_max_num_queries(12):
        admin_client.get(page("usagerecord_changelist"))


def test_an_alias_is_made(admin_client):
    response = admin_client.post(page("modelalias_add"), {"name": "gpt-4o", "model": "smollm2-135m"}, follow=True)
    assert "added successfully" in response.text
    assert str(ModelAlias.objects.get()) == "gpt-4o → smollm2-135m"


def test_an_alias_of_itself_is_a_mistake(admin_client):
    response = admin_client.post(page("modelalias_add"), {"name": "m", "model": "m"})
    assert "answers to its own name already" in response.text


# -- the cache -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(settings, monkeypatch):
    settings.CACHE_TTL = 3600
    monkeypatch.setattr(gateway().cache, "store", MemoryAnswers(64 * 1024 * 1024))
    return gateway().cache.store


def keep(cache, *keys):
    async def keep_all():
        for key in keys:
            await cache.keep(await cache.begin(key), b"{}", 60)

    gateway().call(keep_all)


def test_the_cache_has_a_page_that_says_how_much_it_holds(admin_client, cache):
    assert "The cache is empty." in admin_client.get(page("cachepage_changelist")).text
    keep(cache, "a", "b")
    assert "<strong>2</strong> answers" in admin_client.get(page("cachepage_changelist")).text


def test_the_admin_empties_it_and_is_told_and_the_history_knows(admin_client, cache):
    keep(cache, "a", "b")
    assert "Empty the answer cache?" in admin_client.post(page("cachepage_changelist")).text
    assert "<strong>2</strong> answers" in admin_client.get(page("cachepage_changelist")).text
    response = admin_client.post(page("cachepage_changelist"), {"confirmed": "yes"}, follow=True)
    assert "2 answers forgotten." in response.text
    assert "The cache is empty." in response.text
    assert LogEntry.objects.get().change_message == "Emptied: 2 answers forgotten."


def test_staff_see_and_empty_it_as_far_as_they_may(client, cache):
    staff = person("staff", is_staff=True).user
    client.force_login(staff)
    assert client.get(page("cachepage_changelist")).status_code == 403
    staff.user_permissions.add(Permission.objects.get(codename="view_cachepage"))
    assert "Empty the cache" not in client.get(page("cachepage_changelist")).text
    assert client.post(page("cachepage_changelist")).status_code == 403
    staff.user_permissions.add(Permission.objects.get(codename="empty_cachepage"))
    assert "Empty the cache" in client.get(page("cachepage_changelist")).text
    assert client.post(page("cachepage_changelist"), {"confirmed": "yes"}).status_code == 302


def test_the_page_says_what_it_goes_by(admin_client, cache, settings):
    settings.CACHE_SCOPE = "tier"
    tier = new_tier(uses_cache=False)
    text = admin_client.get(page("cachepage_changelist")).text
    assert "all users of a tier" in text
    assert tier.name in text


def test_where_it_is_off_or_elsewhere_the_page_says_so(admin_client, cache, settings):
    settings.CACHE_TTL = 0
    assert "The cache is off" in admin_client.get(page("cachepage_changelist")).text
    settings.CACHE_TTL, settings.LANES = 3600, "default"
    text = admin_client.get(page("cachepage_changelist")).text
    assert "memory of the process" in text
    assert "Empty the cache" not in text


def test_where_redis_is_gone_the_page_says_so(admin_client, cache, monkeypatch):
    gone = RedisAnswers(f"redis://127.0.0.1:{free_port()}/0", 1000, lambda _: None)
    monkeypatch.setattr(gateway().cache, "store", gone)
    assert "Redis, which holds the cache, does not answer." in admin_client.get(page("cachepage_changelist")).text
    response = admin_client.post(page("cachepage_changelist"), {"confirmed": "yes"}, follow=True)
    assert "The cache was not emptied." in response.text
