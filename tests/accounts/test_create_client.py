"""manage.py create_client NAME --tier T."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from accounts.models import ApiKey, User
from accounts.tokens import ApiKeyToken
from tests.cast import person

pytestmark = pytest.mark.django_db


def create_client(*arguments):
    out, told = StringIO(), StringIO()
    call_command("create_client", *arguments, stdout=out, stderr=told)
    return out.getvalue().strip(), told.getvalue()


def test_it_prints_the_key_and_nothing_else_to_be_piped():
    key, told = create_client("robot", "--tier", "premium", "--days", "30")
    row = ApiKey.objects.get(user__username="robot")
    assert ApiKeyToken(key)["jti"] == row.jti
    assert row.user.tier.name == "premium"
    assert "30" in str((row.expires_at - row.created_at).days + 1)
    assert "shown only now" in told


def test_its_user_has_no_password():
    create_client("robot")
    assert not User.objects.get(username="robot").has_usable_password()


def test_a_client_that_exists_gets_another_key():
    alice = person("alice", "free")
    create_client(alice.user.username)
    assert alice.user.api_keys.count() == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"), [(["x", "--tier", "gold"], "Tiers: free"), (["x", "--days", "0"], "day")]
)
def test_a_mistake_is_told_and_leaves_nothing(arguments, complaint):
    with pytest.raises(CommandError, match=complaint):
        create_client(*arguments)
    assert not User.objects.filter(username="x").exists()


def test_a_tier_that_is_not_the_clients_is_not_changed_in_passing():
    alice = person("alice", "free")
    with pytest.raises(CommandError, match="Move it in the admin"):
        create_client(alice.user.username, "--tier", "premium")
