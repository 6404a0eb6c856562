"""Delete rows of the ledger that are older than anybody asks for. Their sums by day stay."""

from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db.models import QuerySet
from django.utils import timezone

from proxy.models import RefusalCount, UsageRecord
from proxy.rollup import begin_of, roll_up_due

BATCH = 10_000  # rows of one transaction: the ledger is written meanwhile
LEAST = 32  # days: quotas of the month are read from the ledger where the store has lost them


class Command(BaseCommand):
    help = "Delete rows of the ledger, and counts of refusals, older than so many days. Sums by day are kept."

    def add_arguments(self, parser: ArgumentParser) -> None:
        days = settings.USAGE_RETENTION_DAYS
        parser.add_argument("--days", type=int, default=days, help="days that are kept (default: %(default)s)")
        parser.add_argument("--dry-run", action="store_true", help="only say how many rows there are")

    def handle(self, *args: Any, **options: Any) -> None:
        days = options["days"]
        if days < LEAST:
            raise CommandError(f"Keep at least {LEAST} days: quotas of the month are counted from the ledger.")
        try:
            before = begin_of((timezone.now() - timedelta(days=days)).date())
        except OverflowError as exc:
            raise CommandError(f"{days} are more days than there are.") from exc
        rows = UsageRecord.objects.filter(admitted_at__lt=before)
        refusals = RefusalCount.objects.filter(minute__lt=before)
        if options["dry_run"]:
            self.stdout.write(
                f"{rows.count()} rows and {refusals.count()} counts of refusals from before {before:%Y-%m-%d} "
                "would be deleted."
            )
            return
        roll_up_due()
        calls, counts = self.delete(rows, before, "rows"), self.delete(refusals, before, "counts of refusals")
        told = f"{calls} rows and {counts} counts of refusals from before {before:%Y-%m-%d} deleted."
        self.stdout.write(f"{told} Their sums by day are kept.")

    def delete(self, rows: QuerySet[Any], before: datetime, what: str) -> int:
        """Delete rows in batches, oldest first, telling how far it is."""
        total, done = rows.count(), 0
        while keys := list(rows.order_by("pk").values_list("pk", flat=True)[:BATCH]):
            rows.model.objects.filter(pk__in=keys).delete()
            done += len(keys)
            if total > BATCH:
                self.stderr.write(f"{done} of {total} {what}")
        return done
