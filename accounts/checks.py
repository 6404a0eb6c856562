"""Dangerous settings of accounts, said aloud by `manage.py check` and at every start."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

PLACEHOLDERS = ("django-insecure-", "development", "change-me", "changeme", "secret")
SAFE_KEY_BYTES = 32  # RFC 7518, 3.2: an HS256 key is at least as long as the hash


@register
def check_secret_key(**_: Any) -> list[CheckMessage]:
    keys = {"SECRET_KEY": settings.SECRET_KEY, "JWT_SIGNING_KEY": settings.JWT_SIGNING_KEY}
    keys |= {f"Key {n} of JWT_RETIRED_KEYS": key for n, key in enumerate(settings.JWT_RETIRED_KEYS, 1)}
    return [
        Error(
            f"{name} is a development one, so anyone can forge a session or a token.",
            hint="Set it to a long random string, or leave it out: then one is made.",
            id="accounts.E001",
        )
        for name, key in keys.items()
        if not settings.DEBUG and key.lower().startswith(PLACEHOLDERS)
    ]


@register
def check_signing_key(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if settings.JWT_SIGNING_KEY == settings.SECRET_KEY:
        found.append(
            Error(
                "JWT_SIGNING_KEY equals SECRET_KEY, so whoever learns one of them can forge tokens and sessions alike.",
                hint="Set JWT_SIGNING_KEY to another random string, or leave it out: then it is derived.",
                id="accounts.E002",
            )
        )
    if len(settings.JWT_SIGNING_KEY.encode()) < SAFE_KEY_BYTES:
        found.append(
            Warning(
                f"JWT_SIGNING_KEY is shorter than {SAFE_KEY_BYTES} bytes, so it can be guessed from a token.",
                hint="Set it to a random string of 32 characters or more.",
                id="accounts.W001",
            )
        )
    return found


@register
def check_debug(**_: Any) -> list[CheckMessage]:
    if settings.DEBUG and "*" in settings.ALLOWED_HOSTS:
        return [
            Error(
                "DEBUG shows settings and code to everybody that ALLOWED_HOSTS=* lets in.",
                hint="Leave DEBUG out, or name the hosts.",
                id="accounts.E003",
            )
        ]
    return []
