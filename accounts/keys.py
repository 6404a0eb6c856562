"""API keys: who may make some, how many, for how long, and how pages show a new one once."""

from datetime import datetime, timedelta

from django import forms
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone
from rest_framework_simplejwt.tokens import Token

from .errors import InvalidRequest, PasswordNeeded, TooManyKeys
from .models import ApiKey, SignIn, User, new_jti
from .tokens import ApiKeyToken

RECENT = timedelta(minutes=5)  # that a password given is good for, and a new key is shown within


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


class FormId(forms.RegexField):
    """A hidden field that tells a form that is sent twice. The key that the form makes has it as its `jti`."""

    widget = forms.HiddenInput

    def __init__(self) -> None:
        super().__init__("^[0-9a-f]{32}$", required=False, initial=new_jti)


def make_key(
    user: User, name: str, expires_at: datetime | None = None, form_id: str | None = None
) -> tuple[ApiKey, str]:
    """A new key and its text, which is not kept. A form that is sent again gives the key that it made before.

    Raises TooManyKeys, or InvalidRequest for a time that cannot be.
    """
    now = timezone.now()
    latest = now + timedelta(seconds=settings.API_KEY_LIFETIME)
    expires_at = latest if expires_at is None else expires_at
    if not now < expires_at <= latest:
        raise InvalidRequest(f"A key expires between now and {latest:%Y-%m-%d}.", param="expires_at")
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)  # one at a time, or two would be counted as one
        if made := made_by(form_id, user.pk, name):
            return made, str(ApiKeyToken.for_key(made))
        if not settings.MAX_KEYS_PER_USER:
            raise TooManyKeys("Keys are made by the administrator here.")
        if ApiKey.objects.working().filter(user=user).count() >= settings.MAX_KEYS_PER_USER:
            raise TooManyKeys(f"You have {settings.MAX_KEYS_PER_USER} keys, and may have no more. Revoke one first.")
        key = ApiKey.objects.create(user=user, name=name, expires_at=expires_at, jti=free_jti(form_id))
    return key, str(ApiKeyToken.for_key(key))


def made_by(form_id: str | None, user_id: int, name: str) -> ApiKey | None:
    """The key that a form with this id and this content has made."""
    return ApiKey.objects.filter(jti=form_id, user=user_id, name=name).first() if form_id else None


def free_jti(form_id: str | None) -> str:
    """The id of a form as that of a key, unless another key has it: a form that was changed makes one more."""
    return form_id if form_id and not ApiKey.objects.filter(jti=form_id).exists() else new_jti()


# -- shown once, by a page of its own that can be loaded again ---------------------------------------------------------


PREFIX = "new_key:"  # of a session's entries; each is true until its key was shown


def show_once(session: SessionBase, key: ApiKey) -> None:
    """Let this session show the text of a new key once. The text itself is kept nowhere, not in a session either."""
    of_keys = {name.removeprefix(PREFIX): name for name in list(session.keys()) if name.startswith(PREFIX)}
    recent = ApiKey.objects.filter(pk__in=of_keys, created_at__gt=timezone.now() - RECENT).values_list("pk", flat=True)
    for pk in of_keys.keys() - set(map(str, recent)):
        del session[of_keys[pk]]
    session.setdefault(f"{PREFIX}{key.pk}", True)


def text_to_show(request: HttpRequest, key: ApiKey) -> str:
    """The text of a new key, signed anew from its row, the first time that its page is loaded; empty after that.

    A HEAD request, by which a program looks whether a page is there, shows nothing and so uses nothing up.
    """
    name = f"{PREFIX}{key.pk}"
    if request.method != "GET" or not request.session.get(name):
        return ""
    request.session[name] = False  # and so it stays, also where the form is sent again
    is_new = key.created_at > timezone.now() - RECENT and key.revoked_at is None
    return str(ApiKeyToken.for_key(key)) if is_new else ""
