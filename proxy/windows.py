"""Quota windows, as arithmetic on buckets. No clock, no store, no Django.

Use is counted in buckets, and a window holds the buckets that overlap it. A sliding window counts the oldest
bucket in full although the window covers only its end, so that no stretch of the window's length ever holds more
than the limit; room comes back at worst one bucket late. A calendar window is one bucket.

Times are Unix times in seconds. A bucket is named by an integer that grows with time.
"""

from collections import deque
from datetime import UTC, datetime
from typing import NamedTuple, Protocol


class Window(Protocol):
    @property
    def name(self) -> str: ...

    def bucket(self, now: float) -> int:
        """The bucket that use at `now` counts in."""
        ...

    def oldest(self, now: float) -> int:
        """The oldest bucket that the window ending at `now` still holds."""
        ...

    def leaves_at(self, bucket: int) -> float:
        """When the window no longer holds the bucket."""
        ...


class Sliding(NamedTuple):
    """The last `seconds`, in buckets of `width` seconds."""

    name: str
    seconds: int
    width: int

    def bucket(self, now: float) -> int:
        return int(now // self.width)

    def oldest(self, now: float) -> int:
        return int((now - self.seconds) // self.width)

    def leaves_at(self, bucket: int) -> float:
        return float((bucket + 1) * self.width + self.seconds)


class Day(NamedTuple):
    """The UTC day."""

    name: str = "day"

    def bucket(self, now: float) -> int:
        return int(now // 86400)

    def oldest(self, now: float) -> int:
        return self.bucket(now)

    def leaves_at(self, bucket: int) -> float:
        return float((bucket + 1) * 86400)


class Month(NamedTuple):
    """The UTC month."""

    name: str = "month"

    def bucket(self, now: float) -> int:
        date = datetime.fromtimestamp(now, UTC)
        return date.year * 12 + date.month - 1

    def oldest(self, now: float) -> int:
        return self.bucket(now)

    def leaves_at(self, bucket: int) -> float:
        year, month = divmod(bucket + 1, 12)
        return datetime(year, month + 1, 1, tzinfo=UTC).timestamp()


WINDOWS: dict[str, Window] = {
    "minute": Sliding("minute", 60, 1),
    "hour": Sliding("hour", 3600, 60),
    "day": Day(),
    "month": Month(),
}


class Count:
    """What was used in one window, by bucket, oldest first."""

    __slots__ = ("buckets", "used", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self.buckets: deque[tuple[int, int]] = deque()  # (bucket, used in it)
        self.used = 0

    def drop_old(self, now: float) -> None:
        oldest = self.window.oldest(now)
        while self.buckets and self.buckets[0][0] < oldest:
            self.used -= self.buckets.popleft()[1]

    def add(self, amount: int, now: float) -> None:
        bucket = self.window.bucket(now)
        if self.buckets and self.buckets[-1][0] >= bucket:  # also where the clock stepped back
            last, used = self.buckets[-1]
            self.buckets[-1] = (last, used + amount)
        else:
            self.buckets.append((bucket, amount))
        self.used += amount

    def frees_at(self, amount: int) -> float:
        """When `amount` of what is used now will have left the window. Asks for no more than `used`."""
        freed = 0
        for bucket, used in self.buckets:
            freed += used
            if freed >= amount:
                return self.window.leaves_at(bucket)
        raise ValueError(f"Only {freed} are used, so {amount} cannot be freed.")
