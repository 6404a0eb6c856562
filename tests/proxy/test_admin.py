"""The proxy's pages of the admin: aliases to be edited, the ledger to be read."""

from datetime import UTC, datetime

import pytest
from django.urls import reverse

from accounts.models import User
from proxy.models import ModelAlias, RefusalCount, UsageRecord
from tests.cast import person

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
    assert response.context["cl"].result_count == {"usagerecord": 2, "refusalcount": 1}[model]


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
