"""Signing keys by id, signatures remembered, and what tokens carry."""

import time

import jwt
import pytest
from rest_framework_simplejwt.exceptions import TokenBackendError, TokenBackendExpiredToken

from accounts.models import SignIn
from accounts.tokens import AccessToken, Key, KeyRing
from tests.cast import person

OLD, NEW = (Key.hs256(letter * 40) for letter in "on")
CLAIMS = {"jti": "1", "token_type": "access", "iat": 0}


def claims(**more):
    return {**CLAIMS, "exp": time.time() + 60, **more}


def test_the_first_key_signs_and_all_verify():
    old = KeyRing([OLD]).encode(claims())
    ring = KeyRing([NEW, OLD])
    assert ring.decode(old)["jti"] == "1"
    assert jwt.get_unverified_header(ring.encode(claims()))["kid"] == NEW.kid


def test_a_key_that_is_gone_verifies_no_more():
    with pytest.raises(TokenBackendError):
        KeyRing([NEW]).decode(KeyRing([OLD]).encode(claims()))


@pytest.mark.parametrize("missing", ["exp", "iat", "jti", "token_type"])
def test_a_token_without_a_claim_that_gates_need_is_refused(missing):
    incomplete = {name: value for name, value in claims().items() if name != missing}
    with pytest.raises(TokenBackendError):
        KeyRing([NEW]).decode(KeyRing([NEW]).encode(incomplete))


@pytest.mark.parametrize("raw", ["", "a.b.c", "....", "\u00fc.b.c", b"\xff.b.c", jwt.encode(CLAIMS, "x" * 32)])
def test_nonsense_is_refused(raw):
    with pytest.raises(TokenBackendError):
        KeyRing([NEW]).decode(raw)


def test_a_signature_is_checked_once_and_expiry_every_time(monkeypatch):
    ring = KeyRing([NEW])
    raw = ring.encode(claims())
    ring.decode(raw)
    monkeypatch.setattr(ring, "_verify", None)  # a second check would raise
    assert ring.decode(raw)["jti"] == "1"
    now = time.time()
    monkeypatch.setattr("accounts.tokens.time.time", lambda: now + 61)
    with pytest.raises(TokenBackendExpiredToken):
        ring.decode(raw)


def test_what_is_remembered_is_bounded_and_cannot_be_changed_by_its_reader():
    ring = KeyRing([NEW], memory=2)
    tokens = [ring.encode(claims(jti=str(n))) for n in range(4)]
    for raw in tokens:
        ring.decode(raw)["jti"] = "changed"
    assert len(ring._verified) == 2
    assert ring.decode(tokens[-1])["jti"] == "3"


@pytest.mark.django_db
def test_a_sign_ins_tokens_carry_its_id():
    alice = person("alice")
    refresh = alice.refresh
    assert refresh.access_token["sid"] == refresh["sid"] == alice.user.sign_ins.get().sid.hex
    assert isinstance(refresh.access_token, AccessToken)


@pytest.mark.django_db
def test_a_sign_in_sweeps_the_users_expired_ones():
    alice = person("alice")
    SignIn.objects.create(user=alice.user, refresh_jti="x", expires_at="2020-01-01T00:00:00Z")
    assert alice.refresh
    assert alice.user.sign_ins.count() == 1


@pytest.mark.django_db
def test_a_token_made_right_after_a_new_password_is_good():
    alice = person("alice")
    alice.user.set_password("new")
    assert alice.refresh["iat"] >= alice.user.tokens_valid_from.timestamp()
