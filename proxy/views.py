"""/v1: each view is a list of gates, and then the relay."""

import time

from django.conf import settings
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from .answers import EventStream, json_answer
from .calls import Call, check_text
from .gates import GatedView
from .permissions import MayUseModel
from .relay import Relay


class ChatCompletions(GatedView):
    permission_classes = (MayUseModel,)

    async def parse(self, request: Request) -> None:
        await request._request.read_body(settings.MAX_BODY_BYTES)  # type: ignore[attr-defined]  # a RelayRequest
        check_text(request._request.body, settings.MAX_TEXT_BYTES)
        self.call = Call.parse_chat(request._request.body)
        self.model = self.gateway.pool.resolve(self.call.model, settings.DEFAULT_MODEL)
        self.body = self.call.body(self.model, self.tier.max_output_tokens)

    async def post(self, request: Request) -> HttpResponseBase:
        relay = Relay(self.gateway.pool, request._request.endings)  # type: ignore[attr-defined]  # a RelayRequest
        sent = "/v1/chat/completions", self.model, self.body
        if self.call.stream:
            return EventStream(await relay.stream(*sent, include_usage=self.call.include_usage))
        return json_answer(await relay.whole(*sent))


class Models(GatedView):
    """The models that the caller may use. What a llama-server tells of itself beyond their names stays inside."""

    async def get(self, request: Request) -> HttpResponseBase:
        names = [name for name in self.gateway.pool.models if self.tier.allows(name)]
        now = int(time.time())
        data = [{"id": name, "object": "model", "created": now, "owned_by": "llama.cpp"} for name in names]
        return json_answer({"object": "list", "data": data})
