"""How fast a model's slots become free, and how long who waits for one will have to. Pure; time is an argument.

Each slot serves one call after the other, so that with `slots` of them, busy for a mean of S seconds a call, one
becomes free every S / slots seconds, and who has n before them waits (n + 1) S / slots.
"""

WEIGHT = 0.1  # of a call that ends, in the running mean


class Service:
    """The calls of one model that hold a slot, and the mean time that those before them held one."""

    def __init__(self) -> None:
        self.running = 0
        self._begun = 0.0  # the sum of when they began
        self._mean: float | None = None  # seconds

    def begin(self, now: float) -> None:
        self.running += 1
        self._begun += now

    def end(self, began: float, now: float) -> None:
        self.running -= 1
        self._begun = self._begun - began if self.running else 0.0
        seconds = now - began
        self._mean = seconds if self._mean is None else self._mean + WEIGHT * (seconds - self._mean)

    def seconds(self, now: float) -> float:
        """How long a call holds a slot: as those that ended lately did, no less than those that run now have so far."""
        age = now - self._begun / self.running if self.running else 0.0
        return max(self._mean or 0.0, age)

    def wait(self, ahead: int, slots: int, now: float) -> float:
        """Seconds until a slot is free for a call with so many before it."""
        return (ahead + 1) * self.seconds(now) / max(1, slots)
