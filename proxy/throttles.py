"""The DRF throttle class that enforces tiers and quotas."""

import uuid
from contextlib import suppress
from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts.callers import Caller, Policies
from accounts.errors import StoreUnavailable

from .admission import calendars_of, claim_of, meters_for, refusal_reason, token_limits
from .errors import UpstreamUnavailable
from .gateway import gateway
from .metrics import REJECTIONS
from .reservations import Ask
from .stores import Verdict


class TierThrottle(BaseThrottle):
    """Admits a call where every quota of the caller and its concurrency have room, and charges them.

    `verdict` tells what was decided. A view of the relay lane settles its grant when the call ends; for a stock
    APIView, which tells nobody of its end, that is done at once.
    """

    charges = True  # gates.py lets one charging class into a view
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
            await gateway().admission.settle(verdict.grant, 0)
        return verdict

    async def admit(self, caller: Caller, view: Any, policies: Policies) -> Verdict:
        """Raises StoreUnavailable where it cannot be decided."""
        tier = policies.tiers[caller.tier_id].name
        try:
            is_counted = counting_is_due(caller, view, policies) and await view.count_prompt()
            verdict = await self._asked(caller, view, policies)
            if not is_counted and counting_may_help(verdict, view):
                with suppress(UpstreamUnavailable):  # then it is refused as it is
                    verdict = await self._asked(caller, view, policies) if await view.count_prompt() else verdict
        except StoreUnavailable:
            REJECTIONS.labels("store", tier).inc()
            raise
        if not verdict.admitted:
            reason = refusal_reason(verdict)
            REJECTIONS.labels(reason, tier).inc()
            gateway().ledger.add_refusal(caller.user_id, reason)
        return verdict

    async def _asked(self, caller: Caller, view: Any, policies: Policies) -> Verdict:
        ask, lease = getattr(view, "ask", Ask()), getattr(view, "lease", None) or uuid.uuid4().hex
        claim = claim_of(caller, getattr(view, "model", ""), policies, lease, ask)
        return await gateway().admission.admit(claim, caller.user_id, calendars_of(caller, policies))


def counting_is_due(caller: Caller, view: Any, policies: Policies) -> bool:
    """Whether the bound of a prompt is too much for a quota of the caller, so that it has to be counted first."""
    limits = token_limits(meters_for(caller, getattr(view, "model", ""), policies))
    return bool(limits) and hasattr(view, "count_prompt") and view.ask.is_cramped(limits)


def counting_may_help(verdict: Verdict, view: Any) -> bool:
    """Whether a call that the bound of its prompt keeps out for now might fit if the prompt were counted."""
    meter = verdict.refused_by
    if meter is None or verdict.retry_after is None or not meter.counts_tokens or not hasattr(view, "count_prompt"):
        return False
    ask: Ask = view.ask
    room = next(each.remaining or 0 for each in verdict.readings if each.meter == meter)
    return ask.may_fit(room, ask.enough)
