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
├── UpstreamFault                (what a llama-server did, or did not do)
│   ├── UpstreamError        502 upstream_error
│   │   └── BrokenOff            (the connection broke; what came so far may be less than all)
│   ├── UpstreamUnavailable  503 upstream_unavailable
│   │   └── NeverSent            (another llama-server may take it)
│   │       ├── ConnectTimeout       (nobody took the connection)
│   │       └── StillLoading         (and so may this one, soon)
│   └── UpstreamTimeout      504 upstream_timeout
│       └── Hung                 (it is taken for hung: another llama-server may take the call)
├── Overloaded               503 overloaded
│   └── OutOfFiles               (the gateway cannot open a connection)
└── Stopping                     (503 overloaded; the gateway is about to stop)
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


class UpstreamFault(GatewayError):
    """A fault of a llama-server. Callers are told the sentence.

    `reason` is for operators, in words that follow "it"; the class holds some for when there is nothing to add.
    `answered` is the status that it answered with, 0 where it gave none, and `detail` what it said, for the log.
    """

    reason = "cannot take a call"

    def __init__(self, sentence: str = "", *, reason: str = "", answered: int = 0, detail: str = "") -> None:
        super().__init__(sentence)
        if reason:
            self.reason = reason
        self.answered = answered
        self.detail = detail


class UpstreamError(UpstreamFault):
    status = 502
    code = "upstream_error"
    sentence = "The llama-server failed while it worked on this call."
    reason = "sent something that is no answer"


class UpstreamUnavailable(UpstreamFault):
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


class OutOfFiles(Overloaded):
    """This process has as many open files as it may, so that it cannot connect. No llama-server is at fault."""

    sentence = "The gateway is at its limit of open files. Try again later."


class Stopping(GatewayError):
    """The gateway is about to stop, and the call was not begun, or had not ended in time."""

    status = 503
    code = "overloaded"
    sentence = "This gateway is about to stop. Try again: another one takes the call."
    retry_after = 1


class BrokenOff(UpstreamError):
    """The llama-server ended the connection before the answer was complete."""

    sentence = "The llama-server broke the connection."
    reason = "broke the connection"


class NeverSent(UpstreamUnavailable):
    """The call did not reach the llama-server: another may take it."""

    reason = "could not be reached"


class ConnectTimeout(NeverSent):
    """The llama-server did not take the connection in time."""

    reason = "did not take a connection in time"


class StillLoading(NeverSent):
    """The llama-server turned it away, since it loads its model: it may take it when it has."""

    sentence = "The llama-server is loading its model. Try again shortly."
    reason = "loads its model"


class UpstreamTimeout(UpstreamFault):
    status = 504
    code = "upstream_timeout"
    sentence = "The llama-server did not answer in time."
    reason = "did not answer in time"


class Hung(UpstreamTimeout):
    """The llama-server neither answers probes nor sends anything, and nothing of an answer had been passed on."""

    reason = "does not answer any more"
