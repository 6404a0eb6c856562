"""What accounts wants to know of use. `proxy` provides it; accounts never imports proxy."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

from django.apps import apps

if TYPE_CHECKING:
    from .models import User

MONTH = timedelta(days=29)  # before today, as pages show use
RECENT_CALLS = 10  # that pages show


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

    @property
    def percent(self) -> int:
        """How much of the limit is used, for a bar."""
        if self.limit is None:
            return 0
        return min(100, 100 * self.used // self.limit) if self.limit else 100


class RecentCall(NamedTuple):
    """One call that has ended. `error` is its code, empty where it ended well."""

    request_id: str
    at: datetime
    endpoint: str
    model: str
    status: int
    error: str
    tokens: int
    milliseconds: int


class ModelUse(NamedTuple):
    """What was used of one model. `failed` calls are those with a fault of a server's."""

    model: str
    calls: int
    failed: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class UsageReader(Protocol):
    def remaining(self, user: "User") -> Sequence[QuotaUse]:
        """The use of each quota of a user, unlimited ones too. Raises StoreUnavailable."""
        ...

    def remaining_of(self, users: Sequence["User"]) -> Sequence[Sequence[QuotaUse]]:
        """The same of several users, asked at once."""
        ...

    def recent(self, user: "User", count: int) -> Sequence[RecentCall]:
        """The last calls of a user that have ended, the newest first."""
        ...

    def totals(self, user: "User", since: date) -> Sequence[ModelUse]:
        """What a user has used since the begin of a day (UTC), of each model, the most used first."""
        ...

    def models(self, user: "User") -> Sequence[str]:
        """The models that a user may use now, by the names that /v1/models tells."""
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

    def claim(self, what: str, seconds: int, limit: int) -> int:
        """Count one more if there is room. Return 0, or the whole seconds until there will be room."""
        ...

    async def aclaim(self, what: str, seconds: int, limit: int) -> int:
        """Do the same on the gateway's event loop."""
        ...


def usage_reader() -> UsageReader:
    """What proxy registered when Django started."""
    reader: UsageReader = apps.get_app_config("accounts").usage_reader  # type: ignore[attr-defined]  # set in ready()
    return reader


def event_counter() -> EventCounter:
    counter: EventCounter = apps.get_app_config("accounts").event_counter  # type: ignore[attr-defined]  # set in ready()
    return counter
