"""How an error is written: OpenAI's envelope, and Anthropic's on the routes that speak its language. Pure."""

from typing import Any

from accounts.errors import GatewayError

ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def openai(error: GatewayError) -> dict[str, Any]:
    return {"error": {"message": str(error), "type": error.type, "param": error.param, "code": error.code}}


def anthropic(error: GatewayError) -> dict[str, Any]:
    """Anthropic's types, and our codes beside them."""
    kind = ANTHROPIC_TYPES.get(error.status, "api_error")
    told = {"type": kind, "message": str(error), "param": error.param, "code": error.code}
    return {"type": "error", "error": told}
