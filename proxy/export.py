"""Calls as CSV, for spreadsheets: streamed, a chunk of rows at a time."""

import csv
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Any

from asgiref.sync import sync_to_async
from django.db.models import QuerySet

from .models import UsageRecord

CHUNK = 2000  # rows of one query of an export
COLUMNS = [field.attname for field in UsageRecord._meta.concrete_fields if not field.primary_key]
FORMULAS = ("=", "+", "-", "@", "\t", "\r")


async def csv_of(rows: QuerySet[Any]) -> AsyncIterator[str]:
    """Lines of CSV, a chunk at a time: never are more rows in memory, and no query takes long."""
    read = sync_to_async(next_chunk)
    yield line(["user", *COLUMNS])
    last = 0
    while chunk := await read(rows, last):
        yield "".join(line([row.user.username if row.user else "", *values_of(row)]) for row in chunk)
        last = chunk[-1].pk


def next_chunk(rows: QuerySet[Any], after: int) -> list[Any]:
    return list(rows.filter(pk__gt=after).order_by("pk").select_related("user")[:CHUNK])


def values_of(row: UsageRecord) -> Iterator[Any]:
    for name in COLUMNS:
        value = getattr(row, name)
        yield value.isoformat() if isinstance(value, datetime) else value


class Line:
    """What csv writes to, to get a line back."""

    def write(self, text: str) -> str:
        return text


def line(values: Sequence[Any]) -> str:
    """One line. A text that a spreadsheet would take for a formula gets a quote before it."""
    safe = [f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value for value in values]
    return str(csv.writer(Line()).writerow(safe))
