"""The API as an OpenAPI document, for /schema and /docs. What /v1 takes is read from the schemas that check it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema

from accounts.errors import GatewayError, PasswordNeeded, TooManyKeys, UnknownKey

from . import errors  # noqa: F401  # its classes are looked for below
from .endpoints import Endpoint
from .examples import EXAMPLES, Example
from .schemas import Schema

Json = dict[str, Any]

API = ("/v1/", "/auth/")

HEADERS = {
    "x-request-id": "Names this answer in the gateway's log.",
    "x-ratelimit-limit-requests": "Of the tightest quota of requests; -tokens is that of tokens.",
    "x-ratelimit-remaining-requests": "What is left of it.",
    "x-ratelimit-reset-requests": "When all of it will be free again.",
    "RateLimit": "What is left of every quota (IETF draft).",
    "RateLimit-Policy": "Every quota (IETF draft).",
    "x-cache": "hit, miss, joined or bypass: whether the answer was computed for this call.",
    "x-max-tokens": "The longest answer, where that is not what was asked.",
    "x-dropped-params": "Fields, and kinds of parts, items and tools, that were left out or became text.",
}
CALLERS_ERRORS = (400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504)  # of /v1
AUTH_ERRORS = (400, 401, 403, 404, 429, 503)
OF_KEYS = (PasswordNeeded, TooManyKeys, UnknownKey)  # of /auth/keys alone


class Bearer(OpenApiAuthenticationExtension):
    target_class = "accounts.authentication.TokenAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> Json:
        return {"type": "http", "scheme": "bearer", "description": "An access token of /auth/token, or an API key."}


class KeyHeader(OpenApiAuthenticationExtension):
    target_class = "accounts.authentication.ApiKeyHeaderAuthentication"
    name = "x-api-key"

    def get_security_requirement(self, auto_schema: Any) -> list[Json]:
        return [{self.name: []}, {Bearer.name: []}]

    def get_security_definition(self, auto_schema: Any) -> Json:
        return {
            "type": "apiKey",
            "in": "header",
            "name": "x-api-key",
            "description": "The same, as Anthropic's SDK has it.",
        }


class GatewaySchema(AutoSchema):
    """Operations of /v1 from their endpoints; those of /auth from their serializers. All with their errors."""

    def get_tags(self) -> list[str]:
        return ["v1"] if self.is_relayed else ["auth"]

    def get_request_serializer(self) -> Any:
        return None if self.is_relayed else super().get_request_serializer()

    def get_response_serializers(self) -> Any:
        return None if self.is_relayed else super().get_response_serializers()

    @property
    def is_relayed(self) -> bool:
        return bool(self.path.startswith("/v1/"))

    def get_operation(self, path: str, path_regex: str, path_prefix: str, method: str, registry: Any) -> Json | None:
        operation: Json | None = super().get_operation(path, path_regex, path_prefix, method, registry)
        if operation is None:
            return None
        if self.is_relayed:
            endpoint = getattr(self.view, "endpoint", None)
            told = told_of(endpoint) if endpoint else models(path)
            operation |= told
            operation["responses"] |= error_answers(CALLERS_ERRORS, lambda error: error not in OF_KEYS)
        else:
            operation["responses"] |= error_answers(AUTH_ERRORS, lambda error: error.__module__ == "accounts.errors")
        return operation


def told_of(endpoint: Endpoint) -> Json:
    """An operation that a llama-server answers."""
    example = EXAMPLES[endpoint.name]
    return {
        "operationId": endpoint.name,
        "summary": example.summary,
        "description": example.description,
        "requestBody": {"required": True, "content": {"application/json": body_of(endpoint.schema, example)}},
        "responses": {"200": answer_of(endpoint, example)},
    }


def body_of(schema: Schema, example: Example) -> Json:
    properties = {name: kind.shape for name, kind in sorted(schema.fields.items())}
    shape: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    if example.required:
        shape["required"] = list(example.required)
    return {"schema": shape, "examples": {name: {"value": value} for name, value in example.bodies.items()}}


def answer_of(endpoint: Endpoint, example: Example) -> Json:
    shape = {"type": "object", "properties": {name: {} for name in example.answers}, "required": list(example.answers)}
    content: Json = {"application/json": {"schema": shape}}
    if "stream" in endpoint.schema.fields:
        told = (
            "With `stream`: server-sent events, the last of which is `data: [DONE]` in OpenAI's chat and completions."
        )
        content["text/event-stream"] = {"schema": {"type": "string", "description": told}}
    return {"description": "The answer.", "content": content, "headers": headers()}


def models(path: str) -> Json:
    """The two operations that llama-servers are not asked for."""
    texts, numbers = ("id", "object", "owned_by"), ("created", "context_length", "max_model_len", "context_window")
    properties = {name: {"type": "string"} for name in texts} | {name: {"type": "integer"} for name in numbers}
    model = {"type": "object", "properties": properties, "required": [*texts, "created"]}
    if path.endswith("models"):
        summary, name = "List the models that you may use", "models"
        shape: Json = {"type": "object", "properties": {"object": {}, "data": {"type": "array", "items": model}}}
    else:
        summary, name, shape = "See whether you may use a model", "model", model
    answer = {"description": "The answer.", "content": {"application/json": {"schema": shape}}, "headers": headers()}
    told = "Costs no quota. With `anthropic-version` or `x-api-key` it is answered in Anthropic's shape."
    return {"operationId": name, "summary": summary, "description": told, "responses": {"200": answer}}


def headers() -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}


def error_answers(statuses: Iterable[int], is_told: Callable[[type[GatewayError]], bool]) -> Json:
    """The answers of these statuses, with the codes of those errors that are told of."""
    codes: dict[int, set[str]] = defaultdict(set)
    for error in all_errors(GatewayError):
        if is_told(error):
            codes[error.status].add(error.code)
    return {str(status): error_answer(status, codes[status]) for status in statuses if codes[status]}


def all_errors(error: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield error
    for each in error.__subclasses__():
        yield from all_errors(each)


def error_answer(status: int, codes: Iterable[str]) -> Json:
    told = {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", "Retry-After")}
    return {
        "description": ", ".join(f"`{code}`" for code in sorted(codes)),
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        "headers": told if status in (429, 503) else {"x-request-id": told["x-request-id"]},
    }


ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What is wrong, and what to do, for people."},
                "type": {"type": "string"},
                "param": {"type": "string", "nullable": True, "description": "The field that is at fault."},
                "code": {"type": "string", "description": "What is wrong, for programs."},
            },
        }
    },
}


def only_the_api(endpoints: list[Any]) -> list[Any]:
    """A hook of drf-spectacular: pages and health are no part of the API."""
    return [each for each in endpoints if each[0].startswith(API)]


def add_components(result: Json, **_: Any) -> Json:
    """A hook of drf-spectacular: what operations refer to."""
    components = result.setdefault("components", {})
    components.setdefault("schemas", {})["Error"] = ERROR
    told = {**HEADERS, "Retry-After": "Seconds until it is worth another try."}
    components["headers"] = {name: {"description": text, "schema": {"type": "string"}} for name, text in told.items()}
    return result
