"""The DRF throttle class that enforces tiers and quotas."""

from typing import Any

from asgiref.sync import async_to_sync
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts.callers import Policies

from .admission import claim_of, refusal_reason
from .gateway import gateway
from .metrics import REJECTIONS
from .stores import Verdict


class TierThrottle(BaseThrottle):
    """Admits a call where every quota of the caller and its concurrency have room, and charges them.

    `verdict` tells what was decided. On the relay lane the lease goes back when the call ends; on a stock APIView,
    which tells nobody of its end, at once.
    """

    charges = True  # gates.py lets one charging class into a view
    verdict: Verdict | None = None

    async def aallow_request(self, request: Request, view: APIView) -> bool:
        return await self.admit(request, view, gateway().snapshot.policies)

    def allow_request(self, request: Request, view: APIView) -> bool:
        return async_to_sync(self.admit)(request, view, gateway().policies)

    def wait(self) -> float | None:
        return self.verdict.retry_after if self.verdict else None

    async def admit(self, request: Any, view: Any, policies: Policies) -> bool:
        claim = claim_of(request.user, getattr(view, "model", ""), policies)
        store = gateway().store
        self.verdict = await store.admit(claim)
        if not self.verdict.admitted:
            reason = refusal_reason(self.verdict)
            REJECTIONS.labels(reason, policies.tiers[request.user.tier_id].name).inc()
            gateway().ledger.add_refusal(request.user.user_id, reason)
            return False
        if endings := getattr(request, "endings", None):
            endings.push_async_callback(store.release, claim)
        else:
            await store.release(claim)
        return True
