"""What both lanes do around every request: name it, count it, time it."""

import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache
from time import perf_counter
from typing import Any

from asgiref.sync import markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware import common
from django_prometheus.middleware import Metrics

from accounts.errors import GatewayError
from proxy import metrics
from proxy.answers import new_request_id

from .addresses import client_address, scope_of
from .pages import answer

GetResponse = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

access = logging.getLogger("llmgateway.access")

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "OPTIONS", "CONNECT", "PATCH")
CLIENT_LEFT = 499  # nginx's number for a request whose client left before it was answered


class AsyncMiddleware:
    """A middleware of the event loop, good for both lanes."""

    async_capable = True
    sync_capable = False

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        markcoroutinefunction(self)  # type: ignore[type-var]  # an object with an async __call__ is meant to be


class RequestId(AsyncMiddleware):
    """Gives each request an id of ours, never the client's, and says it in the answer."""

    async def __call__(self, request: Any) -> HttpResponseBase:
        request.id = new_request_id()
        response = await self.get_response(request)
        response["x-request-id"] = request.id
        return response


class OwnOriginOnly(AsyncMiddleware):
    """Tells browsers to load nothing from elsewhere, and to show no page inside of another site's."""

    POLICY = "; ".join(
        (
            "default-src 'self'",
            "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # what unfold's Alpine and Swagger UI need
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )

    async def __call__(self, request: Any) -> HttpResponseBase:
        response = await self.get_response(request)
        response["Content-Security-Policy"] = self.POLICY
        return response


class RequestMetrics(AsyncMiddleware):
    """One line in the log, api_requests_total and api_request_duration_seconds, once the answer has ended."""

    async def __call__(self, request: Any) -> HttpResponseBase:
        outcome = Outcome(request)
        endings = getattr(request, "endings", None)  # the relay lane's
        if endings is not None:
            endings.callback(outcome.record)
        response = await self.get_response(request)
        outcome.status = response.status_code
        if endings is None:
            outcome.record()
        return response


class Outcome:
    """What became of a request, for the log and the metrics."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.status = CLIENT_LEFT
        self.began = perf_counter()

    def record(self) -> None:
        seconds = perf_counter() - self.began
        endpoint, tier = route_of(self.request), getattr(self.request, "tier_name", "none")
        count, duration = request_series(endpoint, self.status, tier)
        count.inc()
        duration.observe(seconds)
        if access.isEnabledFor(logging.INFO):
            caller, address = getattr(self.request, "caller_name", "-"), client_address(scope_of(self.request))
            told = (self.request.id, address, self.request.method, endpoint, self.status, caller, tier, seconds * 1000)
            access.info("%s %s %s %s %s user=%s tier=%s %.0fms", *told)


def route_of(request: HttpRequest) -> str:
    """The name of the route: bounded, unlike the path. The admin's many pages are one."""
    match = request.resolver_match
    if match is None:
        return "unknown"
    return match.app_name or match.url_name or "unnamed"


@lru_cache(maxsize=4096)  # looking a label up costs more than counting
def request_series(endpoint: str, status: int, tier: str) -> tuple[Any, Any]:
    return metrics.REQUESTS.labels(endpoint, status, tier), metrics.DURATION.labels(endpoint, tier)


class DjangoMetrics(AsyncMiddleware):
    """django-prometheus's series of requests, responses and latency, for the lane that its middleware is not on."""

    async def __call__(self, request: Any) -> HttpResponseBase:
        own = Metrics.get_instance()
        own.requests_total.inc()
        began = perf_counter()
        response = await self.get_response(request)
        own.responses_total.inc()
        own.requests_latency_before.observe(perf_counter() - began)
        scheme = request.scope["scheme"]
        requests, latency = django_series(route_of(request), method_of(request), scheme, response.status_code)
        for series in requests:
            series.inc()
        latency.observe(perf_counter() - began)
        return response


def method_of(request: HttpRequest) -> str:
    """The method, where it is one: a client can make some up, and each would be a series of its own."""
    return request.method if request.method in METHODS else "<invalid method>"


@lru_cache(maxsize=4096)
def django_series(view: str, method: str, scheme: str, status: int) -> tuple[list[Any], Any]:
    own = Metrics.get_instance()
    counters = [
        own.requests_by_method.labels(method=method),
        own.requests_by_transport.labels(transport=scheme),
        own.requests_by_view_transport_method.labels(view=view, transport=scheme, method=method),
        own.responses_by_status.labels(status=str(status)),
        own.responses_by_status_view_method.labels(status=str(status), view=view, method=method),
    ]
    return counters, own.requests_latency_by_view_method.labels(view=view, method=method)


class GatewayErrors:
    """Answers what a page or a form raised that is an answer: a sign-in that comes too often, for one."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        return answer(request, exception) if isinstance(exception, GatewayError) else None


class CommonMiddleware(common.CommonMiddleware):
    """Django's, with /metrics exempt from the host check: Prometheus calls machines by their addresses."""

    def process_request(self, request: HttpRequest) -> Any:
        return None if request.path == "/metrics" else super().process_request(request)
