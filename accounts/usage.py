"""What accounts wants to know of use. `proxy` provides it; accounts never imports proxy."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from django.apps import apps


class QuotaUse(NamedTuple):
    """How much of one quota is used now. `resets_in` is in seconds: when all of it will be free again."""

    metric: str
    window: str
    model: str
    limit: int | None
    used: int
    resets_in: float

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used)


class UsageReader(Protocol):
    def remaining(self, user_id: int, tier_id: int) -> Sequence[QuotaUse]:
        """The use of each quota of a user, unlimited ones too."""
        ...


class Tally(NamedTuple):
    """How often something happened in a window, and the seconds until all of that is forgotten."""

    times: int
    resets_in: float


class EventCounter(Protocol):
    """What happened in the last so many seconds, counted over all workers."""

    def count(self, what: str, seconds: int) -> Tally: ...

    def add(self, what: str, seconds: int, limit: int | None = None) -> bool:
        """Count one more, unless there are as many as the limit already."""
        ...


def usage_reader() -> UsageReader:
    """What proxy registered when Django started."""
    reader: UsageReader = apps.get_app_config("accounts").usage_reader  # type: ignore[attr-defined]  # set in ready()
    return reader


def event_counter() -> EventCounter:
    counter: EventCounter = apps.get_app_config("accounts").event_counter  # type: ignore[attr-defined]  # set in ready()
    return counter
