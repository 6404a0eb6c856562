"""Quota windows, as arithmetic on buckets. No clock, no store, no Django.

Use is counted in buckets, and a window holds the buckets that overlap it. A sliding window counts the oldest
bucket in full although the window covers only its end, so that no stretch of the window's length ever holds more
than the limit; room comes back at worst one bucket late. A calendar window is one bucket.

Times are Unix times in seconds. A bucket is named by an integer that grows with time.
"""

from collections import deque
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple, Protocol

DAY_SECONDS = 86400


class Window(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def is_calendar(self) -> bool:
        """Whether it begins anew at a date, so that what was used in it can be read from a ledger."""
        ...

    def bucket(self, now: float) -> int:
        """The bucket that use at `now` counts in."""
        ...

    def oldest(self, now: float) -> int:
        """The oldest bucket that the window ending at `now` still holds."""
        ...

    def leaves_at(self, bucket: int) -> int:
        """When the window no longer holds the bucket."""
        ...


class Sliding(NamedTuple):
    """The last `seconds`, in buckets of `width` seconds, which are numbered."""

    name: str
    seconds: int
    width: int
    is_calendar: bool = False

    def bucket(self, now: float) -> int:
        return int(now // self.width)

    def oldest(self, now: float) -> int:
        return int((now - self.seconds) // self.width)

    def leaves_at(self, bucket: int) -> int:
        return (bucket + 1) * self.width + self.seconds


class Day(NamedTuple):
    """The UTC day, a bucket named by its first second."""

    name: str = "day"
    is_calendar: bool = True

    def bucket(self, now: float) -> int:
        return int(now // DAY_SECONDS) * DAY_SECONDS

    def oldest(self, now: float) -> int:
        return self.bucket(now)

    def leaves_at(self, bucket: int) -> int:
        return bucket + DAY_SECONDS


class Month(NamedTuple):
    """The UTC month, a bucket named by its first second."""

    name: str = "month"
    is_calendar: bool = True

    def bucket(self, now: float) -> int:
        return month_of(int(now // DAY_SECONDS))[0]

    def oldest(self, now: float) -> int:
        return self.bucket(now)

    def leaves_at(self, bucket: int) -> int:
        return month_of(bucket // DAY_SECONDS)[1]


@lru_cache(maxsize=128)  # dates cost more than the rest of an admission
def month_of(day: int) -> tuple[int, int]:
    """When the month that holds a day (since 1970) begins, and when the next one does."""
    date = datetime.fromtimestamp(day * DAY_SECONDS, UTC)
    begins = datetime(date.year, date.month, 1, tzinfo=UTC)
    ends = datetime(date.year + date.month // 12, date.month % 12 + 1, 1, tzinfo=UTC)
    return int(begins.timestamp()), int(ends.timestamp())


def edges(window: Window, now: float) -> tuple[int, int, int, int]:
    """Where the calendar window before this one begins, this one, the next one and the one after it."""
    begins = window.bucket(now)
    ends = window.leaves_at(begins)
    return window.bucket(begins - 1), begins, ends, window.leaves_at(ends)


WINDOWS: dict[str, Window] = {
    "minute": Sliding("minute", 60, 1),
    "hour": Sliding("hour", 3600, 60),
    "day": Day(),
    "month": Month(),
}


class Count:
    """What was used in one window, by bucket, oldest first.

    `base` is the part of it that is known from elsewhere, of the bucket of `since`. It tells of use before `since`,
    which so is not counted here.
    """

    __slots__ = ("all_free_at", "base", "buckets", "drops_at", "read_at", "since", "used", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self.buckets: deque[list[int]] = deque()  # [bucket, used in it]
        self.used = 0
        self.base = 0
        self.since = float("-inf")
        self.read_at = float("-inf")  # when `base` was
        self.drops_at = 0  # when the oldest of it leaves the window
        self.all_free_at = 0  # when the last of it does, if nothing more is used

    def drop_old(self, now: float) -> None:
        if now < self.drops_at:
            return
        oldest = self.window.oldest(now)
        while self.buckets and self.buckets[0][0] < oldest:
            self.used -= self.buckets.popleft()[1]
        if self.base and self.window.bucket(self.since) < oldest:
            self.used -= self.base
            self.base = 0
        if self.buckets:
            self.drops_at = self.window.leaves_at(self.buckets[0][0])

    def add(self, amount: int, now: float) -> None:
        """Count use at `now`. Where the clock stepped back, it counts in the last bucket."""
        bucket = self.window.bucket(now)
        if self.buckets and self.buckets[-1][0] >= bucket:
            self.buckets[-1][1] += amount
        else:
            self.buckets.append([bucket, amount])
            self.all_free_at = self.window.leaves_at(bucket)
            if len(self.buckets) == 1:
                self.drops_at = self.all_free_at
        self.used += amount

    def adjust(self, amount: int, at: float, now: float) -> None:
        """Add to what was used at a moment before, unless that has left the window or was not counted here."""
        bucket = self.window.bucket(at)
        if at < self.since or bucket < self.window.oldest(now):
            return
        for held in self.buckets:
            if held[0] >= bucket:  # a later one where the clock stepped back
                held[1] += amount
                self.used += amount
                return

    def copy(self) -> "Count":
        """The same, of what was counted here."""
        other = Count(self.window)
        other.buckets = deque([*bucket] for bucket in self.buckets)
        other.used = self.used - self.base
        other.drops_at, other.all_free_at = self.drops_at, self.all_free_at
        return other

    @property
    def is_known(self) -> bool:
        """Whether it is known what was used before it was counted here. Of sliding windows nobody asks."""
        return self.since >= 0

    def forget(self) -> None:
        """Know nothing any more."""
        self.buckets.clear()
        self.used = self.base = 0
        self.since = self.read_at = float("-inf")

    def learn(self, base: int, since: float, now: float) -> None:
        """Take what the use before `since` was, as read at `now`. What was counted without knowing it is in it."""
        if not self.is_known:
            self.forget()
        self.used += base - self.base
        self.base, self.since, self.read_at = base, since, now
        self.drops_at = self.window.leaves_at(self.window.bucket(since))
        self.all_free_at = max(self.all_free_at, self.drops_at)

    def frees_at(self, amount: int) -> int:
        """When `amount` of what is used now will have left the window. Asks for no more than `used`."""
        if self.base >= amount:
            return self.window.leaves_at(self.window.bucket(self.since))
        freed = self.base
        for bucket, used in self.buckets:
            freed += used
            if freed >= amount:
                return self.window.leaves_at(bucket)
        raise ValueError(f"Only {freed} are used, so {amount} cannot be freed.")
