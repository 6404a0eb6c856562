"""Errors that are answers: what can go wrong with a call.

GatewayError (accounts/errors.py)
├── InvalidRequest           400 invalid_request_error
│   ├── InvalidJson              invalid_json
│   ├── MissingParameter         missing_required_parameter
│   ├── InvalidValue             invalid_value
│   ├── UnsupportedParameter     unsupported_parameter
│   ├── ContextLengthExceeded    context_length_exceeded
│   └── RequestExceedsQuota      request_exceeds_quota
├── ModelNotAllowed          403 model_not_allowed
├── ModelNotFound            404 model_not_found
├── UnknownUrl               404 unknown_url
├── MethodNotAllowed         405 method_not_allowed
├── RequestTimeout           408 request_timeout
├── RequestTooLarge          413 request_too_large
├── RateLimitExceeded (accounts/errors.py)
│   └── InsufficientQuota    429 insufficient_quota
├── UpstreamError            502 upstream_error
│   └── BrokenOff                (the connection broke; what came so far may be less than all)
├── Overloaded               503 overloaded
├── Stopping                     (503 overloaded; the gateway is about to stop)
├── UpstreamUnavailable      503 upstream_unavailable
│   └── NeverSent                (another llama-server may take it)
│       └── StillLoading             (and so may this one, soon)
└── UpstreamTimeout          504 upstream_timeout
"""

from accounts.errors import GatewayError, InvalidRequest, RateLimitExceeded


class InvalidJson(InvalidRequest):
    code = "invalid_json"
    sentence = "The body is not valid JSON."


class MissingParameter(InvalidRequest):
    code = "missing_required_parameter"


class InvalidValue(InvalidRequest):
    code = "invalid_value"


class UnsupportedParameter(InvalidRequest):
    """It asks for something that neither the gateway nor a llama-server does, and that it cannot do without."""

    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class RequestExceedsQuota(InvalidRequest):
    """The call would not fit an unused quota either, so there is no moment to come back at."""

    code = "request_exceeds_quota"


class ModelNotAllowed(GatewayError):
    status = 403
    type = "permission_error"
    code = "model_not_allowed"


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"


class UnknownUrl(InvalidRequest):
    status = 404
    code = "unknown_url"


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, allowed: list[str]) -> None:
        super().__init__(f"{method} is not allowed here. Allowed: {', '.join(allowed)}.")
        self.allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        return {"Allow": ", ".join(self.allowed)}


class RequestTimeout(InvalidRequest):
    status = 408
    code = "request_timeout"
    sentence = "The body did not come in time."

    @property
    def headers(self) -> dict[str, str]:
        return {"Connection": "close"}


class RequestTooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"

    @property
    def headers(self) -> dict[str, str]:
        return {"Connection": "close"}


class InsufficientQuota(RateLimitExceeded):
    """A day's or a month's quota is used up: trying again soon is of no use, and SDKs are told so."""

    type = "insufficient_quota"
    code = "insufficient_quota"

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "x-should-retry": "false"}


class UpstreamError(GatewayError):
    status = 502
    code = "upstream_error"
    sentence = "The llama-server failed while it worked on this call."


class UpstreamUnavailable(GatewayError):
    status = 503
    code = "upstream_unavailable"
    sentence = "No llama-server can take this call at the moment. Try again shortly."
    retry_after = 2


class Overloaded(GatewayError):
    """All slots are busy, for longer than the call may wait. It was not begun, and costs nothing."""

    status = 503
    code = "overloaded"
    sentence = "All slots are busy. Try again later."
    retry_after = 1


class Stopping(GatewayError):
    """The gateway is about to stop, and the call was not begun, or had not ended in time."""

    status = 503
    code = "overloaded"
    sentence = "This gateway is about to stop. Try again: another one takes the call."
    retry_after = 1


class BrokenOff(UpstreamError):
    """The llama-server ended the connection before the answer was complete."""

    sentence = "The llama-server broke the connection."


class NeverSent(UpstreamUnavailable):
    """The call did not reach the llama-server: another may take it."""


class StillLoading(NeverSent):
    """The llama-server turned it away, since it loads its model: it may take it when it has."""

    sentence = "The llama-server is loading its model. Try again shortly."


class UpstreamTimeout(GatewayError):
    status = 504
    code = "upstream_timeout"
    sentence = "The llama-server did not answer in time."
