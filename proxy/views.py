"""/v1: each view is a list of gates, and then the relay."""

import time
from typing import Any

from django.conf import settings
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from accounts.authentication import ApiKeyHeaderAuthentication

from . import envelopes
from .admission import granted_length
from .answers import EventStream, json_answer
from .attempts import Errand
from .calls import Call, check_text, limited
from .endpoints import ENDPOINTS, Endpoint
from .errors import ModelNotFound
from .gates import GatedView
from .models import ANY
from .permissions import MayUseModel
from .readers import Asked
from .relay import Relay


class Inference(GatedView):
    """A call that a llama-server answers. `endpoint` says all that is its own."""

    endpoint: Endpoint = ENDPOINTS[0]
    permission_classes = (MayUseModel,)

    async def parse(self, request: Request) -> None:
        await request._request.read_body(settings.MAX_BODY_BYTES)  # type: ignore[attr-defined]  # a RelayRequest
        body = request._request.body
        check_text(body, self.endpoint.schema, settings.MAX_TEXT_BYTES)
        self.call = Call.parse(body, self.endpoint.schema)
        if len(body) > settings.MAX_TEXT_BYTES:
            self.call.check_text(settings.MAX_TEXT_BYTES)
        self.streamed = self.call.stream
        if self.call.dropped:
            self.extra_headers["x-dropped-params"] = self.call.dropped_names
        self.model = self.gateway.pool.resolve(self.call.model, settings.DEFAULT_MODEL, self.gateway.aliases)
        self.ask = self.call.ask(self.tier.max_output_tokens, self.gateway.pool.context(self.model))
        self.body = self.call.body(self.model)

    def errand(self, length: int | None) -> Errand:
        """What a llama-server is to do, its answers no longer than that."""
        asked = Asked(self.call, self.model, length, shows_timings=settings.SHOW_TIMINGS)
        return Errand(self.endpoint, asked, limited(self.body, self.endpoint.schema, length))

    async def count_prompt(self) -> bool:
        assert self.caller is not None
        counted = await self.gateway.prompt_counter.count(self.caller.user_id, self.errand(None))
        if counted is None or counted >= self.ask.prompt:
            return False
        self.ask = self.ask._replace(prompt=counted)
        return True

    async def post(self, request: Request) -> HttpResponseBase:
        assert self.record is not None
        assert self.record.grant is not None
        length = granted_length(self.ask, self.record.grant)
        if length != self.call.max_tokens:
            self.extra_headers["x-max-tokens"] = str(length)
        relay = Relay(self.errand(length), self.gateway.pool, request._request.endings, self.record)  # type: ignore[attr-defined]  # a RelayRequest
        if self.call.stream:
            return EventStream(await relay.stream(settings.HEARTBEAT_AFTER))
        return json_answer(await relay.whole())


class AnthropicInference(Inference):
    """The same for clients that speak Anthropic's language."""

    authentication_classes = (ApiKeyHeaderAuthentication,)
    envelope = staticmethod(envelopes.anthropic)


def inference(endpoint: Endpoint) -> Any:
    """The view of an endpoint."""
    return (AnthropicInference if endpoint.is_anthropic else Inference).as_view(endpoint=endpoint)


class Models(GatedView):
    """The models that the caller may use. What a llama-server tells of itself beyond their names stays inside."""

    async def get(self, request: Request) -> HttpResponseBase:
        return json_answer({"object": "list", "data": [told_of(name) for name in self.names]})

    @property
    def names(self) -> list[str]:
        """Models by their own names, then aliases; but the alias of all unknown names is none to be listed."""
        allowed = [name for name in self.gateway.pool.models if self.tier.allows(name)]
        aliases = [name for name, model in self.gateway.aliases.items() if model in allowed and name != ANY]
        return list(dict.fromkeys([*allowed, *aliases]))


class Model(Models):
    async def get(self, request: Request, name: str) -> HttpResponseBase:  # type: ignore[override]
        if name not in self.names:
            raise ModelNotFound(f"There is no model '{name[:100]}' for you. GET /v1/models lists those there are.")
        return json_answer(told_of(name))


def told_of(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(time.time()), "owned_by": "llama.cpp"}
