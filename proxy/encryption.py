"""Text that is encrypted in the database. The one module that knows cryptography.

FIELD_ENCRYPTION_KEYS are Fernet keys: the first encrypts, all of them decrypt.
"""

from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import models


class Unreadable(str):
    """What is in the database and no key decrypts. It is written back as it is."""


class EncryptedField(models.TextField):
    """Plain text in Python, encrypted in the database. Empty stays empty; nothing else can be looked for."""

    def from_db_value(self, value: Any, *_: Any) -> Any:
        return value and decrypted(value)

    def get_prep_value(self, value: Any) -> Any:
        return value if not value or isinstance(value, Unreadable) else encrypted(value)


def encrypted(text: str) -> str:
    return box(settings.FIELD_ENCRYPTION_KEYS).encrypt(text.encode()).decode()


def decrypted(token: str) -> str:
    try:
        return box(settings.FIELD_ENCRYPTION_KEYS).decrypt(token).decode()
    except (InvalidToken, ValueError):
        return Unreadable(token)


@lru_cache
def box(keys: tuple[str, ...]) -> MultiFernet:
    """Raises ValueError where one of them is no Fernet key."""
    return MultiFernet([Fernet(key) for key in keys])
