"""API keys that users make for themselves: whether they may, how many, for how long."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from rest_framework_simplejwt.tokens import Token

from .errors import InvalidRequest, PasswordNeeded, TooManyKeys
from .models import ApiKey, SignIn, User
from .tokens import ApiKeyToken

RECENT = timedelta(minutes=5)  # that a password given is good for


def check_password_is_recent(token: Token) -> None:
    """Raise PasswordNeeded unless this token is of a sign-in of the last minutes. A refreshed one is as old as that."""
    if token["token_type"] != "access":
        raise PasswordNeeded("API keys make no API keys. Sign in at /auth/token, and use that token.")
    if not SignIn.objects.filter(sid=token["sid"], created_at__gt=timezone.now() - RECENT).exists():
        raise PasswordNeeded


def check_is_sign_in(token: Token) -> None:
    """Raise PasswordNeeded for an API key: whoever finds one shall not see or end the others."""
    if token["token_type"] != "access":
        raise PasswordNeeded("API keys do not manage API keys. Sign in at /auth/token, and use that token.")


def make_key(user: User, name: str, expires_at: datetime | None = None) -> tuple[ApiKey, str]:
    """A new key and its text, which is not kept. Raises TooManyKeys, or InvalidRequest for a time that cannot be."""
    now = timezone.now()
    latest = now + timedelta(seconds=settings.API_KEY_LIFETIME)
    expires_at = latest if expires_at is None else expires_at
    if not now < expires_at <= latest:
        raise InvalidRequest(f"A key expires between now and {latest:%Y-%m-%d}.", param="expires_at")
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)  # one at a time, or two would be counted as one
        if not settings.MAX_KEYS_PER_USER:
            raise TooManyKeys("Keys are made by the administrator here.")
        if ApiKey.objects.working().filter(user=user).count() >= settings.MAX_KEYS_PER_USER:
            raise TooManyKeys(f"You have {settings.MAX_KEYS_PER_USER} keys, and may have no more. Revoke one first.")
        key = ApiKey.objects.create(user=user, name=name, expires_at=expires_at)
    return key, str(ApiKeyToken.for_key(key))
