"""A circuit: when an upstream is left alone because it fails, and when it is tried again. Pure; time is an argument.

While it is closed, calls go there. While it is open, none does. When it is half-open they go one at a time, until one
is answered. Source: M. Nygard, Release It!, 2007, "Circuit Breaker".

It opens for failures of the connection, and by ejection: for calls that fail here and that others answer. Source:
Envoy's outlier detection, https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier
"""

from collections import deque
from enum import StrEnum

FAILURES = 3  # cut or silent calls in a row, that open it
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0  # seconds until one that failed is tried again; twice as many each time
RECENT = 10  # calls that are remembered
FAILED_CALLS = 3  # of them, and more than half, that eject it
MEMORY = 60.0  # seconds for which a failed call counts
FIRST_EJECTION, LONGEST_EJECTION = 1.0, 5.0  # seconds; twice as many each time
REFUSALS = 5  # in a row: from then on it is asked of another upstream whether it is the calls' fault
ANSWERED = float("-inf")  # among the times of failed calls: one that does not count


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Circuit:
    def __init__(self) -> None:
        self.state = State.CLOSED
        self.reason = ""  # of the last failure, in words that follow "it": "refused the connection"
        self.is_ejected = False  # open or half-open for calls that others answered
        self.is_doubted = False  # a call failed, and none has ended well since
        self._failures = 0  # since the last call that ended well
        self._refusals = 0  # since the last call that ended well
        self._recent: deque[float] = deque(maxlen=RECENT)  # ANSWERED, or when a call failed
        self._opened_at = 0.0
        self._pause = 0.0  # seconds that it stays open at least
        self._next_pause = FIRST_PAUSE
        self._next_ejection = FIRST_EJECTION

    @property
    def is_open(self) -> bool:
        return self.state is State.OPEN

    def tried_in(self, now: float) -> float:
        """Seconds until an open one may be tried again."""
        return max(0.0, self._opened_at + self._pause - now)

    # -- the connection ------------------------------------------------------------------------------------------

    def refused(self, now: float, reason: str) -> None:
        """Nobody is there: that is certain at once, and will be seen as soon as it changes."""
        self._open(now, reason, 0.0)
        self.is_ejected = False

    def failed(self, now: float, reason: str) -> None:
        """It was cut or silent. One such failure may be a call's own fault."""
        if self.state is State.OPEN:  # of a call from before
            return
        self._failures += 1
        self.is_doubted = True
        self.reason = reason
        if self.state is State.HALF_OPEN or self._failures >= FAILURES:
            self._open(now, reason, self._next_pause)
            self.is_ejected = False
            self._next_pause = min(2 * self._next_pause, LONGEST_PAUSE)

    # -- calls that it answered, with anything but an answer -----------------------------------------------------

    def doubted(self, now: float, reason: str) -> None:
        """A call failed here, and goes on to another upstream. On trial, that is enough to wait for another one."""
        self.is_doubted = True
        self.reason = reason
        if self.state is State.HALF_OPEN:
            self._eject(now, reason)

    def convicted(self, now: float, reason: str) -> None:
        """A call failed here, and that was not the call's fault."""
        if self.state is State.CLOSED:
            self._recent.append(now)
            self.is_doubted = True
            self.reason = reason

    def acquitted(self) -> None:
        """A call failed here and elsewhere alike, so the fault was its own. Where it was a trial, it is repeated."""
        self._refusals = 0
        if self.is_ejected:
            self._pause = 0.0

    def refused_call(self) -> None:
        """It said that a call is wrong, which is mostly true."""
        self._refusals += 1
        self.answered()

    @property
    def is_refusing(self) -> bool:
        """True where its refusals are to be compared with those of another upstream: they are all that it has said."""
        return self.is_ejected or self._refusals >= REFUSALS

    def fails(self, now: float) -> bool:
        """True where most of its last calls failed."""
        failed = sum(at > now - MEMORY for at in self._recent)
        return failed >= FAILED_CALLS and 2 * failed > len(self._recent)

    def eject(self, now: float) -> None:
        """Take it out of turn for the calls that failed."""
        if self.state is State.CLOSED:
            self._eject(now, self.reason)

    def _eject(self, now: float, reason: str) -> None:
        self._open(now, reason, self._next_ejection)
        self._next_ejection = min(2 * self._next_ejection, LONGEST_EJECTION)
        self.is_ejected = True
        self._recent.clear()
        self._recent.extend([now] * (FAILED_CALLS - 1))  # once it is back, one more failure is enough

    # -- signs of life -------------------------------------------------------------------------------------------

    def found_well(self, now: float) -> None:
        """A probe was answered."""
        if self.state is State.OPEN and not self.tried_in(now):
            self.state = State.HALF_OPEN

    def answered(self) -> None:
        """A call was answered, at least in part."""
        if self.state is State.HALF_OPEN:
            self.close()

    def ended_well(self) -> None:
        """A call was answered in full."""
        if self.state is State.HALF_OPEN:
            self.close()
        if self.state is State.CLOSED:
            self._recent.append(ANSWERED)
            self._failures = self._refusals = 0
            self.is_doubted = False
            self._next_pause, self._next_ejection = FIRST_PAUSE, FIRST_EJECTION

    def close(self) -> None:
        """Let calls go there."""
        self.state, self._failures, self.is_ejected = State.CLOSED, 0, False

    def _open(self, now: float, reason: str, pause: float) -> None:
        self.state, self.reason, self._failures = State.OPEN, reason, 0
        self._opened_at, self._pause = now, pause
