"""Guessing passwords, made slow: for the token endpoint and the admin alike, before a password is hashed.

- A name at an address is locked for a quarter of an hour after 10 failures. django-axes keeps that, in the database.
- A name that fails at many addresses is slowed to one try a second, never locked, or anybody could lock the admin out.
- An address may fail 30 times a minute. Of IPv6, that is a network of 64 bits: whoever has one address has all of it.

A name at an address that it has signed in from before is held up by the first rule alone.
"""

import hashlib
import ipaddress
import math
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from axes.backends import AxesStandaloneBackend
from axes.handlers.proxy import AxesProxyHandler
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.conf import settings
from django.contrib.auth.signals import user_login_failed
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils import timezone
from django.utils.module_loading import import_string

from .errors import RateLimitExceeded
from .models import User
from .usage import event_counter

ADDRESS_FAILURES = 30  # of one address in a MINUTE
NAME_FAILURES = 10  # of one name in a QUARTER, from which on it is slowed
MINUTE, QUARTER = 60, 900  # seconds
PACE = 1  # seconds between two tries of a name that is slowed
KNOWN_FOR = timedelta(days=90)  # that an address is known where a name has signed in from
LONGEST_NAME = User._meta.get_field("username").max_length  # characters


class LoginGuard(AxesStandaloneBackend):
    """The first of AUTHENTICATION_BACKENDS. It signs nobody in; it raises RateLimitExceeded."""

    def authenticate(self, request: Any, username: str | None = None, password: str | None = None, **_: Any) -> None:
        if request is None or username is None:
            return
        own = own_request(request)
        name, address = name_of(own, {"username": username}), address_of(own)
        check_pair(own, name, address)
        if not is_known(name, address):
            check_address(address)
            check_name(name)


def check_address(address: str | None) -> None:
    failures = event_counter().count(f"login-address:{address}", MINUTE)
    if failures.times >= ADDRESS_FAILURES:
        raise too_many("Too many failed sign-ins from this address.", failures.resets_in)


def check_pair(request: HttpRequest, name: str, address: str | None) -> None:
    if not AxesProxyHandler.is_allowed(request, {"username": name}):
        last = AccessAttempt.objects.filter(username=name, ip_address=address).order_by("-attempt_time").first()
        ends = (last.attempt_time if last else timezone.now()) + settings.AXES_COOLOFF_TIME
        seconds = (ends - timezone.now()).total_seconds()
        raise too_many("Too many failed sign-ins with this name.", seconds)


def check_name(name: str) -> None:
    if event_counter().count(name_key(name), QUARTER).times < NAME_FAILURES:
        return
    if not event_counter().add(f"{name_key(name)}:pace", PACE, 1):
        raise too_many("Too many sign-ins with this name.", 2 * PACE)


def too_many(sentence: str, seconds: float) -> RateLimitExceeded:
    """An error that tells people when to come back, in minutes where that is long, and programs in seconds."""
    wait = max(1, math.ceil(seconds))
    amount, unit = (wait, "second") if wait < 100 else (math.ceil(wait / 60), "minute")
    told = f"{sentence} Try again in {amount} {unit}{'' if amount == 1 else 's'}."
    return RateLimitExceeded(told, retry_after=wait)


def is_known(name: str, address: str | None) -> bool:
    since = timezone.now() - KNOWN_FOR
    return AccessLog.objects.filter(username=name, ip_address=address, attempt_time__gte=since).exists()


class GuardedOldPassword:
    """A mixin for forms of a new password: the old one is not guessed there, either, by whoever has an open browser."""

    def clean_old_password(self) -> Any:
        key = f"old-password:{self.user.pk}"  # type: ignore[attr-defined]  # a PasswordChangeForm
        failures = event_counter().count(key, QUARTER)
        if failures.times >= settings.AXES_FAILURE_LIMIT:
            raise ValidationError(str(too_many("The old password was wrong too often.", failures.resets_in)))
        try:
            return super().clean_old_password()  # type: ignore[misc]
        except ValidationError:
            event_counter().add(key, QUARTER)
            raise


@receiver(user_login_failed)
def count_failure(sender: Any, credentials: dict[str, Any], request: Any = None, **_: Any) -> None:
    if request is None:
        return
    event_counter().add(f"login-address:{address_of(own_request(request))}", MINUTE)
    event_counter().add(name_key(name_of(request, credentials)), QUARTER)


def forget_sign_ins(names: Collection[str], pseudonym: str) -> None:
    """Take these names out of the records of sign-ins, with the addresses and browsers that they came with.

    Upper and lower case are one, but for spellings that are a user's name now. Failed tries are deleted.
    """
    spelled = Q()
    for name in names:
        spelled |= Q(username__iexact=name)
    taken = User.objects.values("username")
    AccessAttempt.objects.filter(spelled).exclude(username__in=taken).delete()
    for model in (AccessLog, AccessFailureLog):
        rows = model.objects.filter(spelled).exclude(username__in=taken)
        rows.update(username=pseudonym, ip_address=None, user_agent="", http_accept="")


def name_key(name: str) -> str:
    """A key of bounded length, the same for all spellings that are one name to people."""
    return f"login-name:{hashlib.sha256(name.casefold().encode()).hexdigest()[:32]}"


def own_request(request: Any) -> HttpRequest:
    """Django's request under DRF's."""
    return getattr(request, "_request", request)


def name_of(request: Any, credentials: dict[str, Any] | None = None) -> str:
    """Whose failure it is, as AXES_USERNAME_CALLABLE: a name may be longer than a record of it can hold."""
    return str((credentials or own_request(request).POST).get("username"))[:LONGEST_NAME]


def address_of(request: Any) -> str | None:
    """Where a request comes from, as AXES_CLIENT_IP_CALLABLE; None where that is no address."""
    found = import_string(settings.CLIENT_ADDRESS)(own_request(request))
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network(f"{address}/64", strict=False).network_address)
    return str(address)
