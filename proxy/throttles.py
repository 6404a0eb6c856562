"""The DRF throttle class that enforces tiers and quotas."""

import uuid
from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts.callers import Caller, Policies

from .admission import claim_of, refusal_reason
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
        verdict = await self._asked(caller, view, policies)
        count_prompt = getattr(view, "count_prompt", None)
        if verdict.refused_by and verdict.refused_by.counts_tokens and count_prompt and await count_prompt():
            verdict = await self._asked(caller, view, policies)
        if not verdict.admitted:
            reason = refusal_reason(verdict)
            REJECTIONS.labels(reason, policies.tiers[caller.tier_id].name).inc()
            gateway().ledger.add_refusal(caller.user_id, reason)
        return verdict

    async def _asked(self, caller: Caller, view: Any, policies: Policies) -> Verdict:
        ask, lease = getattr(view, "ask", Ask()), getattr(view, "lease", None) or uuid.uuid4().hex
        claim = claim_of(caller, getattr(view, "model", ""), policies, lease, ask)
        return await gateway().admission.admit(claim, caller.user_id)
