"""The DRF throttle class that enforces tiers and quotas."""

import uuid
from contextlib import suppress
from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts.callers import Caller, Policies
from accounts.errors import StoreUnavailable

from .admission import account_of, all_meters, claim_of, meters_for, refusal_reason, token_limits
from .errors import UpstreamUnavailable
from .gateway import gateway
from .metrics import REJECTIONS
from .reservations import Ask
from .stores import Meter, Verdict


class TierThrottle(BaseThrottle):
    """Admits a call where every quota of the caller and its concurrency have room, and charges them.

    `verdict` tells what was decided. A view of the relay lane settles its grant when the call ends; for a stock
    APIView, which tells nobody of its end, that is done at once.
    """

    limits = charges = True  # gates.py lets one class that limits into a view
    verdict: Verdict | None = None

    async def aallow_request(self, request: Request, view: APIView) -> bool:
        self.verdict = await self.admit(request.user, view, gateway().snapshot.policies)  # type: ignore[arg-type]  # a Caller
        return self.verdict.admitted

    def allow_request(self, request: Request, view: APIView) -> bool:
        self.verdict = gateway().call(self._charge, request.user, view, gateway().policies)
        return self.verdict.admitted

    def wait(self) -> float | None:
        return self.verdict.retry_after if self.verdict else None

    async def _charge(self, caller: Caller, view: Any, policies: Policies) -> Verdict:
        """Admit a request that ends at once."""
        verdict = await self.admit(caller, view, policies)
        if verdict.grant:
            await gateway().store.settle(verdict.grant, 0)
        return verdict

    async def admit(self, caller: Caller, view: Any, policies: Policies) -> Verdict:
        """Raises StoreUnavailable where it cannot be decided, UpstreamUnavailable where a prompt cannot be counted."""
        tier = policies.tiers[caller.tier_id].name
        meters = meters_for(caller, getattr(view, "model", ""), policies)
        try:
            is_counted = counting_is_due(meters, view) and await view.count_prompt()
            verdict = await self._asked(caller, view, policies, meters)
            if not is_counted and counting_may_help(verdict, view):
                with suppress(UpstreamUnavailable):  # then it is refused as it is
                    if await view.count_prompt():
                        verdict = await self._asked(caller, view, policies, meters)
        except StoreUnavailable:
            REJECTIONS.labels("store", tier).inc()
            raise
        if not verdict.admitted:
            reason = refusal_reason(verdict)
            REJECTIONS.labels(reason, tier).inc()
            gateway().ledger.add_refusal(caller.user_id, reason)
        return verdict

    async def _asked(self, caller: Caller, view: Any, policies: Policies, meters: tuple[Meter, ...]) -> Verdict:
        ask, lease = getattr(view, "ask", Ask()), getattr(view, "lease", None) or uuid.uuid4().hex
        most_at_once = policies.tiers[caller.tier_id].max_concurrent_requests
        who = account_of(caller)
        claim = claim_of(who, meters, most_at_once, lease, ask)
        return await gateway().admission.admit(claim, who, lambda: all_meters(caller, policies))


def counting_is_due(meters: tuple[Meter, ...], view: Any) -> bool:
    """Whether the bound of a prompt is too much for a quota of the caller, so that it has to be counted first."""
    limits = token_limits(meters)
    return bool(limits) and hasattr(view, "count_prompt") and view.ask.is_cramped(limits)


def counting_may_help(verdict: Verdict, view: Any) -> bool:
    """Whether a call that the bound of its prompt keeps out for now might fit if the prompt were counted."""
    meter = verdict.refused_by
    if meter is None or verdict.retry_after is None or not meter.counts_tokens or not hasattr(view, "count_prompt"):
        return False
    ask: Ask = view.ask
    room = next(each.remaining or 0 for each in verdict.readings if each.meter == meter)
    return ask.may_fit(room, ask.enough)
