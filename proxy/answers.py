"""The one place that turns errors into answers, and answers into what ASGI sends."""

import logging
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from django.core.exceptions import SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework import exceptions

from accounts.errors import GatewayError, InvalidApiKey, InvalidRequest, RateLimitExceeded, StoreUnavailable

from . import envelopes
from .errors import InvalidJson, MethodNotAllowed, UnknownUrl

logger = logging.getLogger(__name__)

EVENTS = "text/event-stream"
UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Envelope = Callable[[GatewayError], dict[str, Any]]


class EventStream(HttpResponseBase):
    """A stream of server-sent events, for the relay lane to send."""

    streaming = True

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(content_type=EVENTS, headers=UNBUFFERED)
        self.events = events


def json_answer(content: bytes | dict[str, Any], status: int = 200) -> HttpResponse:
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    return HttpResponse(body, status=status, content_type="application/json", headers={"Content-Length": len(body)})


def events_answer(content: bytes) -> HttpResponse:
    """A stream of which all is there already."""
    return HttpResponse(content, content_type=EVENTS, headers={**UNBUFFERED, "Content-Length": len(content)})


def answer_to(exc: Exception, request: Any = None, envelope: Envelope = envelopes.openai) -> HttpResponse:
    """The answer to any exception. What nobody foresaw is logged whole and told as nothing but `internal_error`."""
    error = error_of(exc, request)
    response = json_answer(envelope(error), error.status)
    for name, value in error.headers.items():
        response[name] = value
    return response


def error_of(exc: Exception, request: Any = None) -> GatewayError:
    """The error that an exception means."""
    error = known_error(exc)
    if error is None:
        logger.error("Unforeseen, in %s.", getattr(request, "id", "no request"), exc_info=exc)
        return GatewayError()
    return error


def known_error(exc: Exception) -> GatewayError | None:
    """What Django's and DRF's exceptions are here; None for what is neither theirs nor ours."""
    match exc:
        case GatewayError():
            return exc
        case Http404():
            return UnknownUrl("There is nothing at this URL.")
        case exceptions.ParseError():
            return InvalidJson()
        case exceptions.ValidationError():
            return invalid_field(exc.detail)
        case exceptions.MethodNotAllowed():
            return InvalidRequest(str(exc.detail))
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return InvalidApiKey()
        case exceptions.Throttled():
            return RateLimitExceeded(str(exc.detail), retry_after=int(getattr(exc, "wait", None) or 1))
        case exceptions.APIException():
            return with_status(InvalidRequest(str(exc.detail)), exc.status_code)
        case OperationalError() | InterfaceError():
            return StoreUnavailable("The gateway's database does not answer. Try again shortly.")
        case RecursionError():
            return InvalidJson("The body is nested too deeply.")
        case SuspiciousOperation():
            return InvalidRequest(str(exc))
    return None


def with_status(error: GatewayError, status: int) -> GatewayError:
    error.status = status
    return error


def invalid_field(detail: Any) -> InvalidRequest:
    """DRF's first complaint, about the field that it is about."""
    if isinstance(detail, dict) and detail:
        name, complaints = next(iter(detail.items()))
        first = complaints[0] if isinstance(complaints, list) else complaints
        return InvalidRequest(f"'{name}': {first}", param=None if name == "non_field_errors" else name)
    return InvalidRequest(str(detail[0] if isinstance(detail, list) and detail else detail))


def answer_in_drf(exc: Exception, context: dict[str, Any]) -> HttpResponse:
    """DRF's EXCEPTION_HANDLER."""
    if isinstance(exc, exceptions.MethodNotAllowed):
        return answer_to(MethodNotAllowed(context["request"].method, context["view"].allowed_methods))
    return answer_to(exc, context["request"]._request)


# -- and into what ASGI sends --------------------------------------------------------------------------------------


def asgi_start(response: HttpResponseBase) -> dict[str, Any]:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    return {"type": "http.response.start", "status": response.status_code, "headers": headers}


def new_request_id() -> str:
    return f"req_{uuid.uuid4().hex}"


async def send_whole(response: HttpResponse, send: Any) -> None:
    response.headers.setdefault("x-request-id", new_request_id())
    await send(asgi_start(response))
    await send({"type": "http.response.body", "body": response.content})
