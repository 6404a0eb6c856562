"""The pulse of this process: whether its event loop stood still. Pure; time is an argument.

A process that was stopped (SIGSTOP, a frozen virtual machine, a busy host) finds all its deadlines run out when it goes
on, before it has read what came meanwhile. Nobody else is to be blamed for these.
"""

EVERY = 0.5  # seconds between two beats
LATE = 1.0  # seconds that a beat may be late on a busy machine
GRACE = 2.0  # seconds after a standstill, in which deadlines say nothing


class Pulse:
    def __init__(self, now: float) -> None:
        self._beat_at = now
        self._stood_still_until = float("-inf")

    def beat(self, now: float) -> None:
        if now - self._beat_at > EVERY + LATE:
            self._stood_still_until = now
        self._beat_at = now

    def has_just_stood_still(self, now: float) -> bool:
        """True where a deadline that runs out now may have run out during a standstill."""
        self.beat(now)
        return now - self._stood_still_until < GRACE
