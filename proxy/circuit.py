"""A circuit: when an upstream is left alone because it fails, and when it is tried again. Pure; time is an argument.

While it is closed, calls go there. While it is open, none does. When it is half-open they go one at a time, until one
is answered. Source: M. Nygard, Release It!, 2007, "Circuit Breaker".
"""

from enum import StrEnum

FAILURES = 3  # in a row, that open it
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0  # seconds until one that failed is tried again; twice as many each time


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Circuit:
    def __init__(self) -> None:
        self.state = State.CLOSED
        self.reason = ""  # what was wrong last
        self._failures = 0  # since the last call that ended well
        self._opened_at = 0.0
        self._pause = 0.0  # seconds that it stays open at least
        self._next_pause = FIRST_PAUSE

    @property
    def is_open(self) -> bool:
        return self.state is State.OPEN

    def refused(self, now: float, reason: str) -> None:
        """Nobody is there: that is certain at once, and will be seen as soon as it changes."""
        self._open(now, reason, 0.0)

    def failed(self, now: float, reason: str) -> None:
        """It was cut or silent. One such failure may be a call's own fault."""
        if self.state is State.OPEN:  # of a call from before
            return
        self._failures += 1
        self.reason = reason
        if self.state is State.HALF_OPEN or self._failures >= FAILURES:
            self._open(now, reason, self._next_pause)
            self._next_pause = min(2 * self._next_pause, LONGEST_PAUSE)

    def found_well(self, now: float) -> None:
        """A probe was answered."""
        if self.state is State.OPEN and now - self._opened_at >= self._pause:
            self.state = State.HALF_OPEN

    def answered(self) -> None:
        """A call was answered, at least in part."""
        if self.state is State.HALF_OPEN:
            self.state, self._failures = State.CLOSED, 0

    def ended_well(self) -> None:
        """A call was answered in full."""
        self.answered()
        if self.state is State.CLOSED:
            self._failures, self._next_pause = 0, FIRST_PAUSE

    def _open(self, now: float, reason: str, pause: float) -> None:
        self.state, self.reason, self._failures = State.OPEN, reason, 0
        self._opened_at, self._pause = now, pause
