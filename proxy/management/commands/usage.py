"""Who used what, as a table."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import Q, Sum
from django.utils import timezone

from accounts.models import Tier, User
from proxy.models import RefusalCount
from proxy.reports import Total, most_used, totals
from proxy.rollup import begin_of

HEADERS = ("user", "tier", "model", "calls", "failed", "prompt", "cached", "completion", "seconds a call")
TEXTS = 3  # of them


def a_day(text: str) -> date:
    """A date, or a number of days with a d: 7d is today and the six days before."""
    try:
        if text.endswith("d"):
            return timezone.now().date() - timedelta(days=int(text[:-1]) - 1)
        return date.fromisoformat(text)
    except (ValueError, OverflowError) as exc:
        raise ArgumentTypeError(f"'{text}' is neither a date like 2026-11-01 nor a number of days like 30d") from exc


class Command(BaseCommand):
    help = "Print who used what: calls and tokens of each user and model, and how often limits refused them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--user", help="of this user only")
        parser.add_argument("--tier", help="of calls made on this tier only")
        parser.add_argument(
            "--since", type=a_day, default="30d", help="from this day on (UTC): 2026-11-01, or 7d (default: 30d)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        since, only = options["since"], self.chosen(options["user"], options["tier"])
        found = totals(since, "user_id", "tier", "model", only=only)
        names = dict(User.objects.filter(pk__in={key[0] for key in found}).values_list("pk", "username"))
        rows = [
            row_of(names.get(user_id, f"#{user_id}"), tier, model, total)
            for (user_id, tier, model), total in most_used(found)
        ]
        if not rows:
            self.stdout.write(f"No calls since {since}.")
            return
        everything = sum(found.values(), Total())
        self.table([HEADERS, *rows, row_of("all", "", "", everything)])
        if options["tier"] is None:
            self.stdout.write(f"Refused by limits: {refused(since, only)} calls. Since {since}, days in UTC.")

    def chosen(self, username: str | None, tier: str | None) -> Q:
        only = Q()
        if username is not None:
            user = User.objects.filter(username=username).first()
            if user is None:
                raise CommandError(f"There is no user '{username}'.")
            only &= Q(user_id=user.pk)
        if tier is not None:
            if not Tier.objects.filter(name=tier).exists():
                names = ", ".join(Tier.objects.values_list("name", flat=True))
                raise CommandError(f"There is no tier '{tier}'. Tiers: {names}.")
            only &= Q(tier=tier)
        return only

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        widths = [max(len(row[n]) for row in rows) for n in range(len(HEADERS))]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:TEXTS], widths, strict=False)]
            cells += [cell.rjust(width) for cell, width in zip(row[TEXTS:], widths[TEXTS:], strict=True)]
            self.stdout.write("  ".join(cells).rstrip())


def row_of(user: str, tier: str, model: str, total: Total) -> tuple[str, ...]:
    numbers = total.calls, total.failed, total.prompt_tokens, total.cached_tokens, total.completion_tokens
    return user, tier, model, *(f"{number:,}" for number in numbers), f"{total.seconds:.1f}"


def refused(since: date, only: Q) -> int:
    found = RefusalCount.objects.filter(only, minute__gte=begin_of(since)).aggregate(all=Sum("count"))
    return found["all"] or 0
