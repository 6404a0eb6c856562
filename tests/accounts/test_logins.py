"""Guessing passwords is slow, at the token endpoint and in the admin, and locks nobody else out."""

import itertools
import re
from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.db.models import F
from django.test import Client

from accounts.logins import address_of
from accounts.models import User
from proxy.gateway import gateway
from tests.cast import person

pytestmark = pytest.mark.django_db

numbers = itertools.count(1)
addresses = (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in itertools.count(1))


@pytest.fixture
def somewhere():
    return next(addresses)


@pytest.fixture
def alice():
    return person("alice", password="opensesame").user.username


@pytest.fixture
def clock(monkeypatch):
    """Stops the clock of what counts events, and moves it."""
    store, ahead = gateway().store, [0.0]
    now = store.clock()
    monkeypatch.setattr(store, "clock", lambda: now + ahead[0])

    def move(seconds):
        ahead[0] += seconds

    return move


def sign_in(name, address, password="opensesame"):
    body = {"username": name, "password": password}
    return Client(REMOTE_ADDR=address).post("/auth/token", body, content_type="application/json")


def sign_in_to_admin(name, address, password="opensesame"):
    return Client(REMOTE_ADDR=address).post("/admin/login/", {"username": name, "password": password})


def fail(name, address, times=1):
    return [sign_in(name, address, "wrong").status_code for _ in range(times)]


def test_ten_failures_lock_a_name_at_an_address(alice, somewhere):
    assert fail(alice, somewhere, 10) == [401] * 10
    locked = sign_in(alice, somewhere)
    assert (locked.status_code, locked.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 800 < int(locked["Retry-After"]) <= 900
    assert re.search(r"Try again in 1[45] minutes\.", locked.json()["error"]["message"])
    assert "x-request-id" in locked


def test_nobody_else_is_locked(alice, somewhere):
    fail(alice, somewhere, 10)
    assert sign_in(person("bob", password="opensesame").user.username, somewhere).status_code == 200


def test_a_lock_ends_after_a_quarter_of_an_hour(alice, somewhere, clock):
    fail(alice, somewhere, 10)
    AccessAttempt.objects.filter(username=alice).update(attempt_time=F("attempt_time") - timedelta(minutes=15))
    clock(900)
    assert sign_in(alice, somewhere).status_code == 200


def test_tries_while_it_is_locked_do_not_prolong_it(alice, somewhere):
    fail(alice, somewhere, 10)
    before = AccessAttempt.objects.get(username=alice).attempt_time
    assert fail(alice, somewhere, 5) == [429] * 5
    assert AccessAttempt.objects.get(username=alice).attempt_time == before


def test_signing_in_forgets_the_failures(alice, somewhere):
    fail(alice, somewhere, 9)
    assert sign_in(alice, somewhere).status_code == 200
    assert fail(alice, somewhere, 5) == [401] * 5


def test_a_locked_name_costs_no_hash(alice, somewhere, monkeypatch):
    fail(alice, somewhere, 10)

    def hashed(*args, **kwargs):
        raise AssertionError("A password was hashed.")

    monkeypatch.setattr("django.contrib.auth.hashers.MD5PasswordHasher.encode", hashed)
    assert sign_in(alice, somewhere).status_code == 429


def test_a_name_that_fails_at_many_addresses_is_slowed_and_not_locked(alice, clock):
    for _ in range(10):
        fail(alice, next(addresses))
    assert fail(alice, next(addresses)) == [401]
    slowed = sign_in(alice, next(addresses))
    assert (slowed.status_code, slowed["Retry-After"]) == (429, "2")
    clock(2)
    assert sign_in(alice, next(addresses)).status_code == 200


def test_where_a_name_is_known_it_is_not_slowed(alice, somewhere):
    sign_in(alice, somewhere)
    for _ in range(12):
        fail(alice, next(addresses))
    assert [sign_in(alice, somewhere).status_code for _ in range(3)] == [200] * 3


def test_names_are_one_however_they_are_spelled(alice):
    for spelling in [alice, alice.upper(), alice.title()] * 4:
        fail(spelling, next(addresses))
    assert sign_in(alice.upper(), next(addresses), "wrong").status_code == 429


def test_an_address_may_fail_30_times_a_minute(somewhere, alice, clock):
    assert fail("x", somewhere, 9) == [401] * 9
    assert [fail(f"name-{n}", somewhere)[0] for n in range(21)] == [401] * 21
    refused = sign_in(alice, somewhere)
    assert (refused.status_code, sign_in(alice, next(addresses)).status_code) == (429, 200)
    assert 55 <= int(refused["Retry-After"]) <= 61
    clock(int(refused["Retry-After"]))
    assert sign_in(alice, somewhere).status_code == 200


def test_the_admin_is_guarded_alike(alice, somewhere):
    assert [sign_in_to_admin(alice, somewhere, "wrong").status_code for _ in range(10)] == [200] * 10
    locked = sign_in_to_admin(alice, somewhere)
    assert (locked.status_code, locked["Content-Type"]) == (429, "text/html; charset=utf-8")
    assert 880 < int(locked["Retry-After"]) <= 900
    assert "Try again in 15 minutes." in locked.text
    assert sign_in(alice, somewhere).status_code == 429


@pytest.mark.parametrize("length", [150, 151, 5000])
def test_a_long_name_fails_as_any_other(somewhere, length):
    assert fail("x" * length, somewhere, 2) == [401, 401]
    assert sign_in_to_admin("x" * length, somewhere).status_code == 200


def test_a_proxys_word_for_the_address_counts_only_where_it_is_trusted(alice, somewhere):
    for forged in range(10):
        client = Client(REMOTE_ADDR=somewhere, headers={"x-forwarded-for": f"10.99.0.{forged}"})
        client.post("/auth/token", {"username": alice, "password": "wrong"}, content_type="application/json")
    assert sign_in(alice, somewhere).status_code == 429


def test_what_was_typed_is_not_kept(alice, somewhere):
    sign_in_to_admin(alice, somewhere, "my-real-password")
    assert "my-real-password" not in str(AccessAttempt.objects.filter(username=alice).values())


def test_a_sign_in_is_shown_as_the_last_login(alice, somewhere):
    sign_in(alice, somewhere)
    assert User.objects.get(username=alice).last_login is not None


def test_where_a_name_is_known_the_failures_of_others_do_not_count(alice, somewhere):
    sign_in(alice, somewhere)
    for number in range(31):
        fail(f"other-{number}", somewhere)
    assert (fail("nobody", somewhere), sign_in(alice, somewhere).status_code) == ([429], 200)


def test_an_ipv6_network_is_one_address(alice):
    network = f"2001:db8:{next(numbers)}:1"
    for host in range(30):
        fail(f"name-{host}", f"{network}::{host + 1:x}")
    assert sign_in(alice, f"{network}:ffff::1").status_code == 429
    assert sign_in(alice, f"2001:db8:{next(numbers)}:2::1").status_code == 200


@pytest.mark.parametrize(
    ("sent", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::"),
        ("", None),
        ("unix:", None),
    ],
)
def test_what_counts_as_an_address(rf, sent, address):
    assert address_of(rf.get("/", REMOTE_ADDR=sent)) == address
