"""From policies to a claim, from a claim to a verdict of the store, and from that to the answer of a refusal."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import orjson

from accounts.callers import Caller, Limit, Policies
from accounts.errors import GatewayError, RateLimitExceeded, StoreUnavailable
from accounts.usage import QuotaUse

from .errors import InsufficientQuota, RequestExceedsQuota
from .history import NOT_KNOWN, History
from .reservations import Ask
from .stores import AccountId, Claim, Grant, Lost, Meter, Reading, Store, Verdict
from .windows import WINDOWS

TRIES = 5  # times that a store is asked, and learns what it needs to know
PATIENCE = 5.0  # seconds that a call waits for the ledger; what it says later is learned all the same


class Admission:
    """Admits calls, by a store that may have to learn what the ledger knows.

    `lost` takes the calls whose holder died.
    """

    def __init__(self, store: Store, history: History, lost: Callable[[Lost], None]) -> None:
        self.store = store
        self.history = history
        self.lost = lost
        self._teaching: dict[str, asyncio.Task[None]] = {}  # by account
        self._noting: set[asyncio.Task[None]] = set()

    async def admit(self, claim: Claim, who: AccountId, all_meters: Callable[[], Sequence[Meter]]) -> Verdict:
        """Where the store has to learn of a meter, it is told of all that the account has.

        Raises StoreUnavailable where the store, or the ledger that it has to learn from, is out of reach.
        """
        verdict = await self._answered(who, all_meters, lambda: self.store.admit(claim))
        if verdict.stale and who.name not in self._teaching:
            since = verdict.stale[0][1]
            self._teach(who, [meter for meter, began in verdict.stale if began == since], since)
        return verdict

    async def read(self, who: AccountId, meters: Sequence[Meter]) -> tuple[Reading, ...]:
        verdict = await self._answered(who, lambda: meters, lambda: self.store.read(who.name, meters))
        return verdict.readings

    async def _answered(
        self,
        who: AccountId,
        all_meters: Callable[[], Sequence[Meter]],
        ask: Callable[[], Awaitable[Verdict]],
    ) -> Verdict:
        """The answer of the store, once it knows what it must."""
        give_up_at: float | None = None
        for _ in range(TRIES):
            verdict = await ask()
            if verdict.lost:
                self._take_note(who.name, verdict.lost)
            if not verdict.unknown:
                return verdict
            if who.name not in self._teaching:
                self._teach(who, [meter for meter in all_meters() if meter.window.is_calendar], None)
            give_up_at = give_up_at or asyncio.get_running_loop().time() + PATIENCE
            try:
                async with asyncio.timeout_at(give_up_at):
                    await asyncio.shield(self._teaching[who.name])
            except TimeoutError as exc:
                raise StoreUnavailable(NOT_KNOWN) from exc
        raise StoreUnavailable("What this account has used is not known at the moment. Try again shortly.")

    def _teach(self, who: AccountId, meters: Sequence[Meter], since: float | None) -> None:
        """Start to tell the store what was used of these meters: one at a time for an account.

        It is told however long the ledger takes, so that the next call is answered at once.
        """

        async def teach() -> None:
            try:
                now = self.store.clock()
                uses = await self.history.used(who, meters, now, since)
                await self.store.learn(who.name, uses, now, since)
            finally:
                del self._teaching[who.name]

        task = self._teaching[who.name] = asyncio.create_task(teach(), name="history")
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, whoever waited has left

    def _take_note(self, account: str, lost: Sequence[Lost]) -> None:
        for each in lost:
            self.lost(each)
        self._noting.add(task := asyncio.create_task(self.store.note(account, lost), name="store"))
        task.add_done_callback(self._noting.discard)


# -- claims --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def meters_of(limits: tuple[Limit, ...]) -> tuple[Meter, ...]:
    """The meters of a caller's quotas."""
    return tuple(
        Meter(f"{metric}:{window}:{model}", WINDOWS[window], limit, metric, model)
        for metric, window, model, limit in limits
    )


def account_of(caller: Caller) -> AccountId:
    return AccountId(caller.user_id, caller.quotas_reset_at)


def all_meters(caller: Caller, policies: Policies) -> tuple[Meter, ...]:
    """The meters of a caller, of whichever model."""
    return meters_of(policies.limits(caller.tier_id, caller.user_id))


def meters_for(caller: Caller, model: str, policies: Policies) -> tuple[Meter, ...]:
    """The meters that a call of this caller on this model counts on. Quotas of other models do not count it."""
    limits = policies.limits(caller.tier_id, caller.user_id)
    return meters_of(tuple(limit for limit in limits if limit.model in ("", model)))


def token_limits(meters: Iterable[Meter]) -> list[int]:
    return [meter.limit for meter in meters if meter.counts_tokens and meter.limit is not None]


def claim_of(who: AccountId, meters: tuple[Meter, ...], most_at_once: int | None, lease: str, ask: Ask) -> Claim:
    """What one call asks for."""
    return Claim(who.name, meters, most_at_once, lease, ask.least(token_limits(meters)), ask.most)


def full_length(ask: Ask, meters: Iterable[Meter]) -> int | None:
    """How many tokens each answer may have where nothing of a call's quotas is used yet. None: no limit."""
    return ask.wanted if ask.choices and token_limits(meters) else ask.length


def granted_length(ask: Ask, grant: Grant) -> int | None:
    """How many tokens each answer of an admitted call may have. None: as many as the model makes."""
    if ask.choices and token_limits(grant.claim.meters):
        return ask.length_of(grant.tokens)
    return ask.length


def lease_of(facts: dict[str, Any]) -> str:
    """The name of a call's lease: what a row of the ledger needs, for whoever finds the lease when its holder died."""
    return orjson.dumps(facts).decode()


# -- refusals ------------------------------------------------------------------------------------------------------


def refusal(verdict: Verdict) -> GatewayError:
    """The answer to a call that was not admitted."""
    meter = verdict.refused_by
    if meter is None:
        sentence = "You have as many calls running as your tier allows. Wait for one to end."
        return RateLimitExceeded(sentence, retry_after=verdict.retry_after)
    limit = f"{meter.limit} {meter.metric} per {meter.window.name}" + (f" of {meter.model}" if meter.model else "")
    if verdict.retry_after is None:
        hint = " Shorten the prompt." if meter.counts_tokens and meter.limit else ""
        return RequestExceedsQuota(f"Your quota is {limit}, so this call can never be served.{hint}")
    error = InsufficientQuota if meter.window.is_calendar else RateLimitExceeded
    used = "This call needs more than is left of" if meter.counts_tokens else "You have used"
    sentence = f"{used} your quota of {limit}. Try again in {verdict.retry_after} s."
    return error(sentence, retry_after=verdict.retry_after)


def refusal_reason(verdict: Verdict) -> str:
    """The refusing limit, as a metric's label."""
    meter = verdict.refused_by
    return "concurrency" if meter is None else f"{meter.metric}_{meter.window.name}"


def quota_uses(readings: Sequence[Reading]) -> list[QuotaUse]:
    return [
        QuotaUse(meter.metric, meter.window.name, meter.model, meter.limit, used, resets_in)
        for meter, used, resets_in in readings
    ]
