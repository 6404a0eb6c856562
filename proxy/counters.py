"""Events counted where limits are: in Redis for all workers, or in the process. accounts slows sign-ins by it."""

import uuid
from typing import TYPE_CHECKING

from accounts.errors import StoreUnavailable
from accounts.usage import Tally

from .stores import Claim, Meter
from .windows import Sliding

if TYPE_CHECKING:
    from .gateway import Gateway

BUCKETS = 60  # of a window


class StoreCounter:
    """accounts' EventCounter. While the store is out of reach nothing is counted, and nothing refused."""

    def __init__(self, gateway: "Gateway") -> None:
        self.gateway = gateway

    def count(self, what: str, seconds: int) -> Tally:
        meter = meter_of(seconds, None)
        try:
            verdict = self.gateway.call(self.gateway.store.read, what, [meter])
        except (StoreUnavailable, TimeoutError):
            return Tally(0, 0.0)
        return Tally(verdict.readings[0].used, verdict.readings[0].resets_in)

    def add(self, what: str, seconds: int, limit: int | None = None) -> bool:
        return self.claim(what, seconds, limit) == 0

    def claim(self, what: str, seconds: int, limit: int | None) -> int:
        try:
            return self.gateway.call(self.aclaim, what, seconds, limit)
        except TimeoutError:
            return 0

    async def aclaim(self, what: str, seconds: int, limit: int | None) -> int:
        store = self.gateway.store
        try:
            verdict = await store.admit(Claim(what, (meter_of(seconds, limit),), None, uuid.uuid4().hex))
        except StoreUnavailable:
            return 0
        if verdict.grant is None:
            return verdict.retry_after or seconds
        await store.settle(verdict.grant, 0)
        return 0


def meter_of(seconds: int, limit: int | None) -> Meter:
    width = max(1, seconds // BUCKETS)
    return Meter(f"events:{seconds}", Sliding(f"{seconds} s", seconds, width), limit, "events", "")
