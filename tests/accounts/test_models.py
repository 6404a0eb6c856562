"""Rules of the rows themselves."""

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.db.models import ProtectedError

from accounts.callers import load_policies
from accounts.models import Quota, Tier, User
from tests.cast import new_tier, person

pytestmark = pytest.mark.django_db


def test_a_user_starts_on_the_default_tier():
    assert User.objects.create_user("new").tier.name == "free"


def test_there_is_one_default_tier():
    with pytest.raises(ValidationError, match="Another tier is the default"):
        Tier(name="second", is_default=True).full_clean()


@pytest.mark.parametrize("names", ["m", [1], [""], {"m": 1}])
def test_allowed_models_are_a_list_of_names(names):
    with pytest.raises(ValidationError, match="list of model names"):
        Tier(name="t", allowed_models=names).full_clean()


def test_a_quota_is_of_a_tier_or_of_a_user():
    alice = person("alice")
    for owners in ({}, {"tier": alice.user.tier, "user": alice.user}):
        with pytest.raises(ValidationError, match="not to both"):
            Quota(limit=1, **owners).full_clean()


@pytest.mark.parametrize("owner", ["tier", "user"])
def test_there_is_one_quota_of_a_kind(owner):
    owners = {"tier": new_tier(), "user": person("alice").user}
    Quota.objects.create(limit=1, **{owner: owners[owner]})
    with pytest.raises(ValidationError, match="change that one"):
        Quota(limit=2, **{owner: owners[owner]}).full_clean()
    with pytest.raises(IntegrityError):
        Quota.objects.create(limit=2, **{owner: owners[owner]})


def test_a_quota_reads_as_a_sentence():
    assert str(Quota(limit=5)) == "5 requests per minute"
    assert str(Quota(limit=None, window="day", model="m")) == "unlimited requests per day of m"


def test_a_tier_with_users_and_a_user_with_keys_are_kept():
    alice = person("alice", new_tier())
    alice.key()
    with pytest.raises(ProtectedError):
        alice.user.tier.delete()
    with pytest.raises(ProtectedError):
        alice.user.delete()


@pytest.mark.parametrize("how", ["save", "save of one field", "queryset"])
def test_suspension_ends_tokens_for_good(how):
    alice = person("alice")
    before = alice.user.tokens_valid_from
    alice.user.is_active = False
    if how == "queryset":
        User.objects.filter(pk=alice.user.pk).suspend()
    else:
        alice.user.save(update_fields=["is_active"] if how == "save of one field" else None)
    alice.user.refresh_from_db()
    assert not alice.user.is_active
    assert alice.user.tokens_valid_from > before


def test_a_users_own_quota_replaces_the_tiers_of_its_kind_only():
    tier = new_tier(requests_a_minute=10)
    tier.quotas.create(window="day", limit=100)
    grace = person("grace", tier)
    Quota.objects.create(user=grace.user, window="minute", limit=3)
    limits = load_policies().limits(tier.pk, grace.user.pk)
    assert {(limit.window, limit.limit) for limit in limits} == {("minute", 3), ("day", 100)}
    assert {limit.limit for limit in load_policies().limits(tier.pk, 0)} == {10, 100}
