"""Where use is counted: the interface that every store keeps, and the values that pass through it.

A call is admitted by a claim: one request and some tokens on each meter of its caller, and a lease while it runs.
The tokens are a reservation; when the call has ended its grant is settled, and what was not used goes back.
Times are Unix times, in seconds of the store's own clock.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from proxy.windows import Window

LONGEST_CALL = 3600.0  # seconds
LEDGER_LAG = 3.0  # seconds until the row of an ended call is surely written


class Meter(NamedTuple):
    """One quota as a store sees it: `name` tells it apart among the meters of one caller."""

    name: str
    window: Window
    limit: int | None
    metric: str
    model: str

    @property
    def counts_tokens(self) -> bool:
        return self.metric == "tokens"


class AccountId(NamedTuple):
    """A user's, since its quotas were last reset: that begins a new one, and what the old one holds is forgotten.

    `reset_at` is a Unix time.
    """

    user_id: int
    reset_at: float | None = None

    @property
    def name(self) -> str:
        return f"user:{self.user_id}" if self.reset_at is None else f"user:{self.user_id}:{self.reset_at:.6f}"


class Claim(NamedTuple):
    """What a call asks for. `lease` names it, among the calls of its account, until it is settled.

    It is not run with fewer tokens than `least`, and takes up to `most` where there is room.
    """

    account: str
    meters: tuple[Meter, ...]
    max_concurrent: int | None
    lease: str
    least: int = 0
    most: int = 0


class Grant(NamedTuple):
    """An admitted claim: when it was, how many tokens are reserved, and its lease as the store keeps it."""

    claim: Claim
    admitted_at: float
    tokens: int
    lease: str


class Lost(NamedTuple):
    """A lease that lapsed, since its holder died or is cut off: what was charged for it stays until it is settled."""

    lease: str
    admitted_at: float
    tokens: int


class Reading(NamedTuple):
    """A meter after a decision. `resets_in` is in seconds: when the whole window will be free again."""

    meter: Meter
    used: int
    resets_in: float

    @property
    def remaining(self) -> int | None:
        return None if self.meter.limit is None else max(0, self.meter.limit - self.used)


class Verdict(NamedTuple):
    """Admitted, with a grant, or refused by a meter or, where `refused_by` is None, by the number of running calls.

    `retry_after` is the earliest whole second at which the call would fit if nobody else called and every
    reservation were used in full, or None where it never would. Where `unknown` names meters, nothing was decided: the
    store must be told first what was used of them. It should be told anew of those in `stale`, each with when the
    store began to count it, since calls from before then may have ended meanwhile. `lost` are leases that lapsed.
    """

    grant: Grant | None
    readings: tuple[Reading, ...] = ()
    refused_by: Meter | None = None
    retry_after: int | None = None
    unknown: tuple[Meter, ...] = ()
    stale: tuple[tuple[Meter, float], ...] = ()
    lost: tuple[Lost, ...] = ()

    @property
    def admitted(self) -> bool:
        return self.grant is not None


def is_stale(since: float, read_at: float, now: float) -> bool:
    """Whether a ledger should be asked anew what was used before `since`, after it was at `read_at`.

    Calls from before then end one after the other and come into the ledger: soon most of them, some only after an hour.
    """
    return read_at - since < LONGEST_CALL and now - since > 2 * (read_at - since) + LEDGER_LAG


class Store(Protocol):
    clock: Callable[[], float]

    @property
    def admits(self) -> bool:
        """Whether calls can be admitted at all."""
        return True

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def admit(self, claim: Claim) -> Verdict:
        """Charge every meter and take the lease, or do neither, in one atomic step."""
        ...

    async def settle(self, grant: Grant, tokens: int, requests: int = 1) -> None:
        """Put what a call used in place of what was reserved, and give its lease back. Once: later ones do nothing."""
        ...

    async def learn(self, account: str, uses: Mapping[Meter, int], read_at: float, since: float | None = None) -> None:
        """Learn what was used of calendar meters before the store counts them, as a ledger said at `read_at`.

        That is from now on for meters that it does not count yet. Of others it is told anew what was used before
        `since`; where that is not when the store began to count one, it has been lost again, and nothing changes.
        """
        ...

    async def note(self, account: str, lost: Sequence[Lost]) -> None:
        """Take note of what was told of as lost, so that it is not told again."""

    async def read(self, account: str, meters: Sequence[Meter]) -> Verdict:
        """The meters as they stand, charging nothing: a verdict without a grant."""
        ...
