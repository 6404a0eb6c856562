"""Make an API client in one command: a user on a tier, and a key for it, shown once."""

from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from accounts.models import ApiKey, Tier, User
from accounts.tokens import ApiKeyToken


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"'{text}' is no number of days of 1 or more")
    return int(text)


class Command(BaseCommand):
    help = "Make a user named NAME on a tier, if there is none yet, and an API key for it, shown once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="user name of the client")
        parser.add_argument(
            "--tier", help="name of its tier (default: the default tier; an existing user keeps its own)"
        )
        parser.add_argument("--key-name", default="created by create_client", help="what the key is for")
        days = settings.API_KEY_LIFETIME // 86400
        parser.add_argument("--days", type=positive, default=days, help="days until it expires (default: %(default)s)")

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        user = self.user(options["name"], options["tier"])
        expires_at = timezone.now() + timedelta(days=options["days"])
        key = ApiKey.objects.create(user=user, name=options["key_name"], expires_at=expires_at)
        self.stderr.write(
            f"Key for {user} on tier {user.tier}, good until {expires_at:%Y-%m-%d}. It is shown only now:"
        )
        self.stdout.write(str(ApiKeyToken.for_key(key)))

    def user(self, name: str, tier_name: str | None) -> User:
        user = User.objects.filter(username=name).first()
        if user is not None:
            if tier_name is not None and user.tier.name != tier_name:
                raise CommandError(f"{name} is on tier {user.tier}. Move it in the admin, or leave --tier out.")
            return user
        tiers = Tier.objects.filter(is_default=True) if tier_name is None else Tier.objects.filter(name=tier_name)
        tier = tiers.first()
        if tier is None:
            names = ", ".join(Tier.objects.values_list("name", flat=True)) or "none yet"
            raise CommandError(f"There is no tier {tier_name or 'marked as default'}. Tiers: {names}.")
        return User.objects.create_user(name, tier=tier)
