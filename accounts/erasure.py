"""Erasing a person: what can be traced to somebody goes, the account stays as the name of what was used.

The ledger knows users by their number, so its sums stay right. See docs/decisions/0027-erasing-and-asking.md.
"""

import json
import re
from collections.abc import Collection
from secrets import token_hex

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from .logins import forget_sign_ins
from .models import ApiKey, SignIn, User


@transaction.atomic
def erase(user: User) -> int:
    """Erase a person, and give how many API keys that revoked. Somebody who was erased before stays as they are.

    The given user is changed along, so that it shows the new name.
    """
    user.refresh_from_db(from_queryset=User.objects.select_for_update())
    if user.erased_at is not None:
        return 0
    usernames = usernames_of(user)
    details = {user.first_name, user.last_name, user.get_full_name(), user.email}
    emails = {user.email} - {""}
    revoked = ApiKey.objects.filter(user=user).revoke()
    ApiKey.objects.filter(user=user).update(name="erased")
    SignIn.objects.filter(user=user).delete()
    user.groups.clear()
    user.user_permissions.clear()
    user.username = free_name(user)
    user.first_name = user.last_name = user.email = ""
    user.is_active = user.is_staff = user.is_superuser = False
    user.last_login = None
    user.erased_at = timezone.now()
    user.set_unusable_password()  # with it, tokens and browser sessions end
    user.save()
    forget_sign_ins(usernames | emails, user.username)
    redact_history(user, usernames, (usernames | details) - {""})
    return revoked


def free_name(user: User) -> str:
    """A name that tells nothing but the number of the account."""
    name = f"erased-{user.pk}"
    while User.objects.filter(username=name).exists():  # somebody may have taken it as a joke
        name = f"erased-{user.pk}-{token_hex(3)}"
    return name


def usernames_of(user: User) -> set[str]:
    """The user's name, and those that the history shows it had before, unless they are another user's now."""
    told = set(history_of(User, [str(user.pk)]).values_list("object_repr", flat=True))
    others = User.objects.filter(username__in=told).exclude(pk=user.pk).values_list("username", flat=True)
    return (told - set(others)) | {user.username}


def history_of(model: type[User] | type[ApiKey], ids: Collection[str]) -> QuerySet[LogEntry]:
    """The entries of the admin's history about these rows."""
    return LogEntry.objects.filter(content_type=ContentType.objects.get_for_model(model), object_id__in=ids)


def redact_history(user: User, usernames: Collection[str], words: Collection[str]) -> None:
    """Take these words out of the history of the user and of its keys, and the name out of that of sign-ins."""
    entries = list(history_of(User, [str(user.pk)]))
    for entry in entries:
        entry.object_repr = user.username
    keys = {str(key.pk): str(key) for key in ApiKey.objects.filter(user=user).select_related("user")}
    for entry in history_of(ApiKey, keys):
        entry.object_repr = keys[str(entry.object_id)]
        entries.append(entry)
    for entry in entries:
        entry.change_message = without(words, entry.change_message, user.username)
    for name in usernames:
        for entry in LogEntry.objects.filter(content_type__app_label="axes", object_repr__contains=f" {name} "):
            entry.object_repr = entry.object_repr.replace(f" {name} ", f" {user.username} ")
            entries.append(entry)
    LogEntry.objects.bulk_update(entries, ["object_repr", "change_message"], batch_size=100)


def without(words: Collection[str], message: str, pseudonym: str) -> str:
    """A message of the history with another name in place of these words.

    In the JSON that the admin writes only `object` can hold a person's name. Its keys, and the names of models and
    fields, stay as they are also where they are the same as one of the words.
    """
    try:
        changes = json.loads(message)
    except ValueError:
        return replaced(words, message, pseudonym)
    if not isinstance(changes, list):
        return replaced(words, message, pseudonym)
    for change in changes:
        for told in change.values() if isinstance(change, dict) else ():
            if isinstance(told, dict) and "object" in told:
                told["object"] = replaced(words, str(told["object"]), pseudonym)
    return json.dumps(changes)


def replaced(words: Collection[str], text: str, pseudonym: str) -> str:
    for word in sorted(words, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", pseudonym, text)
    return text
