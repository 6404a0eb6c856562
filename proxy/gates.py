"""DRF's gates on the event loop: the policy classes of an APIView, awaited in order, without a thread.

DRF is synchronous: it asks `if not throttle.allow_request(...)`, and a coroutine is always true, so that a careless
asynchronous throttle admits everybody. Hence every policy class of a view here must have the asynchronous method,
and exactly one throttle must limit the callers: TierThrottle, which charges their quotas, or, for what is only read,
ReadThrottle. A view that breaks this is refused when it is defined.
"""

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from inspect import iscoroutinefunction
from typing import Any

from django.core.exceptions import ImproperlyConfigured, RequestAborted
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.authentication import TokenAuthentication
from accounts.callers import Caller
from accounts.errors import GatewayError, RateLimitExceeded, StoreUnavailable
from accounts.throttles import ReadThrottle

from . import envelopes
from .admission import account_of, lease_of, meters_for, refusal
from .answers import Envelope, answer_to, error_of
from .cache import Result
from .endings import Endings, was_cut
from .errors import MethodNotAllowed, Stopping
from .gateway import Gateway, gateway
from .metrics import REJECTIONS
from .rates import rate_headers
from .records import Record
from .reservations import Ask
from .stores import Grant
from .throttles import TierThrottle

Policies = Sequence[type[Any]]

ASYNC_METHODS = {
    "authentication_classes": "aauthenticate",
    "permission_classes": "ahas_permission",
    "throttle_classes": "aallow_request",
}


def check_policy_classes(view: "type[GatedView]") -> None:
    """Raise ImproperlyConfigured for a view whose policy classes would let callers pass unasked."""
    for kind, method in ASYNC_METHODS.items():
        for policy in getattr(view, kind):
            if not iscoroutinefunction(getattr(policy, method, None)):
                raise ImproperlyConfigured(f"{policy.__name__} in {view.__name__}.{kind} has no async {method}().")
    limiting = [throttle for throttle in view.throttle_classes if getattr(throttle, "limits", False)]
    if view.authentication_classes and len(limiting) != 1:
        raise ImproperlyConfigured(f"{view.__name__} has {len(limiting)} throttles that limit, and needs one.")
    if limiting and view.throttle_classes[-1] is not limiting[0]:
        raise ImproperlyConfigured(f"The throttle that limits must be the last of {view.__name__}.")
    if view.authentication_classes and hasattr(view, "post") and not getattr(limiting[0], "charges", False):
        raise ImproperlyConfigured(f"{view.__name__} takes POST, so its throttle must be one that charges.")


class GatedView(APIView):
    """An APIView of the relay lane. Its gates, in order: method, authenticate, parse, permit, look, throttle."""

    authentication_classes: Policies = (TokenAuthentication,)
    permission_classes: Policies = ()
    throttle_classes: Policies = (TierThrottle,)
    envelope: Envelope = staticmethod(envelopes.openai)
    gateway: Gateway
    caller: Caller | None = None
    record: Record | None = None  # of an admitted call
    model = ""  # which one the call is for; views that have one set it when they parse
    streamed = False  # and so they do this
    ask = Ask()  # and this: the tokens that it may use
    lease = ""  # the name of the call, while it runs

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_policy_classes(cls)

    async def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:  # type: ignore[override]
        self.gateway = gateway()
        self.request = drf_request = Request(request)
        self.extra_headers: dict[str, str] = {}
        self.has_rate_headers = False
        try:
            handler = self.handler(request)
            await self.authenticate(drf_request)
            await self.parse(drf_request)
            await self.permit(drf_request)
            await self.look(drf_request)
            await self.throttle(drf_request)
            response = await handler(drf_request, *args, **kwargs)
            if self.record and not response.streaming:
                self.record.answered(response.status_code)
        except RequestAborted:
            raise
        except asyncio.CancelledError as exc:
            if not was_cut(exc):
                raise
            response = await self.refused(Stopping())
        except Exception as exc:
            response = await self.refused(error_of(exc, request))
        for name, value in self.extra_headers.items():
            response[name] = value
        return response

    async def refused(self, error: GatewayError) -> HttpResponseBase:
        """The answer to a call that failed, with what the caller has left."""
        if self.record:
            self.record.answered(error.status, error.code)
        if self.caller is not None and not self.has_rate_headers:
            with suppress(StoreUnavailable):
                self.extra_headers |= await self.rate_headers(self.caller)
        return answer_to(error, envelope=self.envelope)

    def handler(self, request: HttpRequest) -> Any:
        method = "get" if request.method == "HEAD" else (request.method or "").lower()  # the server drops its body
        if method not in ("get", "post") or not hasattr(self, method):
            allowed = [name.upper() for name in ("get", "post") if hasattr(self, name)]
            raise MethodNotAllowed(request.method or "", allowed)
        return getattr(self, method)

    async def authenticate(self, request: Request) -> None:
        for authentication in self.authentication_classes:
            caller, token = await authentication().aauthenticate(request, self.gateway.snapshot)
            self.caller = request.user = caller
            self.extra_headers["x-cache"] = Result.BYPASS.value
            request.auth = token
            self.tier = self.gateway.snapshot.policies.tiers[caller.tier_id]
            vars(request._request).update(tier_name=self.tier.name, caller_name=caller.username)  # for log and metrics

    @property
    def is_charged(self) -> bool:
        return bool(self.throttle_classes) and getattr(self.throttle_classes[-1], "charges", False)

    async def parse(self, request: Request) -> None:
        """Read what is asked for. A view that takes a body overrides this."""

    async def permit(self, request: Request) -> None:
        for permission in self.permission_classes:
            if not await permission().ahas_permission(request, self):
                self.permission_denied(request)

    async def look(self, request: Request) -> None:
        """See whether the answer is known already. Nothing is told yet: a refused caller reads nothing for free."""

    async def throttle(self, request: Request) -> None:
        """Stop at the first throttle that refuses. The last in line is the one that limits.

        What was charged is recorded: from here on a call has a row in the ledger, whatever becomes of it.
        """
        record = self.record
        if self.caller is not None and self.is_charged:
            self.gateway.ledger.check_room()
            record = record or self.new_record(request._request, self.caller)
            self.lease = lease_of(record.facts | {"prompt": self.ask.prompt})
        for throttle in [throttle_class() for throttle_class in self.throttle_classes]:
            try:
                admitted = await throttle.aallow_request(request, self)
            except StoreUnavailable:
                self.has_rate_headers = True  # all there are: limits are not known, and asking again would take time
                raise
            if verdict := getattr(throttle, "verdict", None):
                self.extra_headers |= rate_headers(verdict.readings)
                self.has_rate_headers = True
            if not admitted:
                raise refusal(verdict) if verdict else self.rejected_by(throttle)
            if verdict and record:
                self.take(record, verdict.grant, request._request.endings)  # type: ignore[attr-defined]  # a RelayRequest

    def rejected_by(self, throttle: Any) -> GatewayError:
        """The error of a throttle that charges nothing, counted by its `reason`."""
        reason, error = getattr(throttle, "reason", "other"), getattr(throttle, "error", RateLimitExceeded)
        REJECTIONS.labels(reason, self.tier.name if self.caller else "none").inc()
        wait = throttle.wait()
        return error(retry_after=None if wait is None else math.ceil(wait))

    def take(self, record: Record, grant: Grant, endings: Endings) -> None:
        """Begin an admitted call: whatever becomes of it, it is settled when it ends."""
        record.grant = grant
        if self.record is None:
            self.record = record
            endings.push_async_callback(record.settle, self.gateway.store, self.gateway.ledger.add)

    async def readmit(self, request: Request, ask: Ask) -> None:
        """Give back what an admitted call was charged, and have it admitted anew for more. Raises what refuses it."""
        assert self.record is not None
        assert self.record.grant is not None
        grant, self.record.grant, self.record.known = self.record.grant, None, None
        await self.gateway.store.settle(grant, 0, requests=0)
        self.ask = ask
        await self.throttle(request)

    async def count_prompt(self) -> bool:
        """Have the tokens of a prompt counted whose bound was too much. True where that made it less.

        Raises UpstreamUnavailable where that cannot be done now.
        """
        return False

    def new_record(self, request: Any, caller: Caller) -> Record:
        endpoint = request.resolver_match.url_name
        return Record(request.id, caller, self.tier.name, endpoint, self.model, self.streamed, request.began)

    async def rate_headers(self, caller: Caller) -> dict[str, str]:
        """What an authenticated caller has left, for a call that ended before it was charged."""
        meters = meters_for(caller, self.model, self.gateway.snapshot.policies)
        return rate_headers(await self.gateway.admission.read(account_of(caller), meters))


class ReadView(GatedView):
    """A view that only reads: it charges no quota and has no row in the ledger. It tells the quotas as they stand."""

    throttle_classes = (ReadThrottle,)

    async def throttle(self, request: Request) -> None:
        await super().throttle(request)
        assert self.caller is not None
        self.has_rate_headers = True  # all there are, also where the store is out of reach
        with suppress(StoreUnavailable):
            self.extra_headers |= await self.rate_headers(self.caller)


class OpenView(GatedView):
    """A view of the relay lane that asks nobody who they are."""

    authentication_classes = ()
    throttle_classes = ()
