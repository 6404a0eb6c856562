"""Where use is counted: the interface that every store keeps, and the values that pass through it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from proxy.windows import Window


class Meter(NamedTuple):
    """One quota as a store sees it: `name` tells it apart among the meters of one caller."""

    name: str
    window: Window
    limit: int | None
    metric: str
    model: str


class Claim(NamedTuple):
    """What a call asks for: one request on each meter, and a lease while it runs."""

    account: str
    meters: tuple[Meter, ...]
    max_concurrent: int | None


class Reading(NamedTuple):
    """A meter after a decision. `resets_in` is in seconds: when the whole window will be free again."""

    meter: Meter
    used: int
    resets_in: float

    @property
    def remaining(self) -> int | None:
        return None if self.meter.limit is None else max(0, self.meter.limit - self.used)


class Verdict(NamedTuple):
    """Admitted, or refused by a meter or, where `refused_by` is None, by the number of running calls.

    `retry_after` is the earliest whole second at which the call would fit if nobody else called, or None where
    it never would.
    """

    admitted: bool
    readings: tuple[Reading, ...]
    refused_by: Meter | None = None
    retry_after: int | None = None


class Store(Protocol):
    async def admit(self, claim: Claim) -> Verdict:
        """Charge every meter and take the lease, or do neither, in one atomic step."""
        ...

    async def release(self, claim: Claim) -> None:
        """Give the lease of an admitted claim back."""
        ...

    def read(self, account: str, meters: Sequence[Meter]) -> tuple[Reading, ...]:
        """The meters as they stand, charging nothing. Safe from any thread."""
        ...
