"""Outcomes of calls, as people tell them apart: one definition for the list of calls and for the charts."""

from typing import NamedTuple

from django.db.models import Q

from .rollup import FAILED

CLIENT_LEFT = "client_left"  # the error of a call whose client disconnected, before its answer began or during it


class Outcome(NamedTuple):
    """One kind of outcome, and which rows of the ledger are of it."""

    name: str
    label: str
    rows: Q


COMPLETED = Outcome("well", "Completed", Q(status__lt=400, error=""))
OTHERS = (
    Outcome("left", "Client disconnected", Q(status=499) | Q(status__lt=400, error=CLIENT_LEFT)),
    Outcome("refused", "Refused", Q(status__gte=400, status__lt=499)),
    Outcome("cut", "Interrupted", Q(status__lt=400) & ~Q(error__in=["", CLIENT_LEFT])),
    Outcome("failed", "Failed", FAILED),
)
OUTCOMES = {each.name: each for each in (COMPLETED, *OTHERS)}
