"""How a llama-server says no, and what that means to the caller. Pure.

It answers 500 to some mistakes of a client's, and these must not count against it.
"""

from typing import Any

import orjson

from accounts.errors import GatewayError, InvalidRequest

from .errors import ContextLengthExceeded, StillLoading, UpstreamError

MESSAGE_SHOWN = 300  # characters of its message that are passed on or logged
CALLERS_FAULT = (  # how a llama-server's 500s begin that are for the caller to mend
    "Failed to parse",
    "Missing ",
    "Unknown ",
    "Unsupported ",
    "unsupported ",
    "Invalid ",
    "'",  # 'messages' is required, 'type' of tool must be 'function', ...
    "Cannot ",
    "image input is not supported",
    "audio input is not supported",
    "input is too large to process",
    "input (",  # ... tokens) is too large to process
)
NO_SUCH_TOKEN = "vector::_M_range_check"  # what detokenize says of an id beyond the vocabulary


def refusal(status: int, body: bytes) -> GatewayError:
    """The meaning of an answer that is not 200."""
    try:
        return refusal_of(orjson.loads(body)["error"], status)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return refusal_of({}, status)


def refusal_of(error: dict[str, Any], status: int | None = None) -> GatewayError:
    """The meaning of an `error` object, of an answer with this status or of an event in a stream."""
    code = error.get("code")
    status = status or (code if isinstance(code, int) and 400 <= code <= 599 else 500)
    message, kind = str(error.get("message", "")), str(error.get("type"))
    shown = message[:MESSAGE_SHOWN]
    if kind == "exceed_context_size_error" or message.startswith("Context size has been exceeded"):
        return ContextLengthExceeded(message)
    if status == 501:
        return InvalidRequest(f"This model's llama-server cannot do that: {shown or 'no reason given'}")
    if message.startswith(NO_SUCH_TOKEN):
        return InvalidRequest("One of these token ids is not in the model's vocabulary.")
    if status == 400 or (status == 500 and message.startswith(CALLERS_FAULT)):
        return InvalidRequest(f"The llama-server refused the request: {shown or 'no reason given'}")
    if status == 503 and (kind == "unavailable_error" or message.startswith("Loading")):
        return StillLoading()
    if status in (401, 403):
        sentence = "The llama-server does not accept the gateway's own key (LLAMA_API_KEY)."
        reason = f"does not accept the gateway's key, and answered {status}"
        return UpstreamError(sentence, reason=reason, answered=status, detail=shown)
    return UpstreamError(reason=f"answered {status}", answered=status, detail=shown)
