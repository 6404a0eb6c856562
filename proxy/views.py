"""/v1: each view is a list of gates, and then the relay."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from accounts.authentication import ApiKeyHeaderAuthentication

from . import envelopes, listings
from .admission import full_length, granted_length, meters_for
from .answers import EventStream, events_answer, json_answer
from .attempts import Errand
from .cache import Kept, Result
from .cache.answers import Seat
from .cache.policy import is_deterministic, key_of, space_of, wish_of
from .calls import Call, check_text, limited
from .endings import Endings
from .endpoints import ENDPOINTS, Endpoint
from .errors import ModelNotFound
from .gates import GatedView, ReadView
from .listings import Page
from .metrics import CACHE
from .models import ANY
from .permissions import MayUseModel
from .readers import Asked
from .relay import Relay
from .reservations import Ask
from .sharing import Hit, Sharing, Terms
from .telling import Telling
from .usage import Usage


class Inference(GatedView):
    """A call that a llama-server answers. `endpoint` says all that is its own."""

    endpoint: Endpoint = ENDPOINTS[0]
    permission_classes = (MayUseModel,)
    found: Kept | Seat | None = None  # in the cache; None where it was not looked into

    async def parse(self, request: Request) -> None:
        await request._request.read_body(settings.MAX_BODY_BYTES)  # type: ignore[attr-defined]  # a RelayRequest
        body = request._request.body
        check_text(body, self.endpoint.schema, settings.MAX_TEXT_BYTES)
        self.call = Call.parse(body, self.endpoint.schema)
        if len(body) > settings.MAX_TEXT_BYTES:
            self.call.check_text(settings.MAX_TEXT_BYTES)
        self.streamed = self.call.stream
        if told := self.call.dropped_names:
            self.extra_headers["x-dropped-params"] = told
        await self.gateway.pool.loaded(within=self.longest_wait)
        self.model = self.gateway.pool.resolve(self.call.model, settings.DEFAULT_MODEL, self.gateway.aliases)
        self.ask = self.call.ask(self.tier.max_output_tokens, self.gateway.pool.context(self.model))
        self.body = self.call.body(self.model)
        if len(self.body) > settings.MAX_TEXT_BYTES >= len(body):  # a note is longer than what it stands for
            self.call.check_text(settings.MAX_TEXT_BYTES)

    def errand(self, length: int | None) -> Errand:
        """What a llama-server is to do, its answers no longer than that."""
        asked = Asked(self.call, self.model, length, shows_timings=settings.SHOW_TIMINGS)
        return Errand(self.endpoint, asked, limited(self.body, self.endpoint.schema, length))

    async def look(self, request: Request) -> None:
        self.wish = wish_of(request.META.get("HTTP_CACHE_CONTROL", ""))
        if not (settings.CACHE_TTL > 0 and self.wish.keeps and self.is_cacheable):
            return
        assert self.caller is not None
        self.identity = self.gateway.pool.identity(self.model)
        if self.identity is None:  # no telling whether what is kept is still what would be answered
            return
        self.full_ask = self.ask
        self.shared = self.errand(
            full_length(self.ask, meters_for(self.caller, self.model, self.gateway.snapshot.policies))
        )
        space = space_of(settings.CACHE_SCOPE, self.caller.user_id, self.caller.tier_id)
        key = key_of(space, self.endpoint.name, self.identity, self.shared.body)
        cache = self.gateway.cache
        self.found = await (cache.look(key) if self.wish.reads else cache.anew(key))
        if isinstance(self.found, Seat):
            request._request.endings.push_async_callback(cache.give_back, self.found)  # type: ignore[attr-defined]  # a RelayRequest
        if self.result in (Result.HIT, Result.JOINED):
            self.ask = Ask(settings.CACHE_HIT_TOKENS)

    @property
    def is_cacheable(self) -> bool:
        return self.tier.uses_cache and is_deterministic(self.endpoint, self.call, seeded=settings.CACHE_SEEDED)

    @property
    def result(self) -> Result:
        """How the call is answered, as far as it is known when it has looked."""
        match self.found:
            case None:
                return Result.BYPASS
            case Kept():
                return Result.HIT
            case Seat(leads=True):
                return Result.MISS if self.wish.reads else Result.BYPASS
        return Result.JOINED

    async def count_prompt(self) -> bool:
        if self.result in (Result.HIT, Result.JOINED):
            return False
        assert self.caller is not None
        counted = await self.gateway.prompt_counter.count(self.caller.user_id, self.errand(None))
        if counted is None or counted >= self.ask.prompt:
            return False
        self.ask = self.ask._replace(prompt=counted)
        return True

    async def post(self, request: Request) -> HttpResponseBase:
        assert self.record is not None
        self.record.cache = self.result
        CACHE.labels(self.record.cache).inc()
        telling = self.telling(request)
        if isinstance(telling, Hit):
            response: HttpResponseBase = (events_answer if self.call.stream else json_answer)(await telling.whole())
        elif self.call.stream:
            response = EventStream(await telling.stream(settings.HEARTBEAT_AFTER))
        else:
            response = json_answer(await telling.whole())
        if telling.length != self.call.max_tokens:
            self.extra_headers["x-max-tokens"] = str(telling.length)
        self.extra_headers["x-cache"] = self.record.cache.value
        return response

    def telling(self, request: Request) -> Telling:
        """Where the answer comes from: what was kept, a flight, or a llama-server for this call alone."""
        assert self.record is not None
        endings: Endings = request._request.endings  # type: ignore[attr-defined]  # a RelayRequest
        queue, cache = self.gateway.queue, self.gateway.cache
        price = Usage(settings.CACHE_HIT_TOKENS)
        if self.result in (Result.HIT, Result.JOINED):
            self.record.known = Usage()  # until it is told
        if isinstance(self.found, Kept):
            self.extra_headers["Age"] = str(self.found.age)
            return Hit(self.shared, endings, self.record, price, self.found)
        granted = self.granted()
        if self.found is None:
            return Relay(granted, queue, endings, self.record, self.longest_wait)

        async def readmit() -> Errand:
            await self.readmit(request, self.full_ask)
            return self.granted()

        def is_current() -> bool:
            return queue.pool.identity(self.model) == self.identity

        terms = Terms(queue, cache, granted, readmit, is_current, self.longest_wait, settings.CACHE_TTL)
        return Sharing(self.shared, endings, self.record, price, self.found, terms)

    @property
    def longest_wait(self) -> float:
        """Seconds that the call may wait for a slot."""
        of_tier = self.tier.max_queue_seconds
        return settings.QUEUE_TIMEOUT if of_tier is None else of_tier

    def granted(self) -> Errand:
        """What the call was admitted to ask a llama-server for."""
        assert self.record is not None
        assert self.record.grant is not None
        return self.errand(granted_length(self.ask, self.record.grant))


class AnthropicInference(Inference):
    """The same for clients that speak Anthropic's language."""

    authentication_classes = (ApiKeyHeaderAuthentication,)
    envelope = staticmethod(envelopes.anthropic)


def inference(endpoint: Endpoint) -> Any:
    """The view of an endpoint."""
    return (AnthropicInference if endpoint.is_anthropic else Inference).as_view(endpoint=endpoint)


class Models(ReadView):
    """The models that the caller may use. All else that a llama-server tells of itself, but the context, stays inside.

    A caller who sends `anthropic-version` or `x-api-key` is answered in Anthropic's shape, errors too.
    """

    authentication_classes = (ApiKeyHeaderAuthentication,)
    speaks_anthropic = False

    async def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:  # type: ignore[override]
        if "HTTP_ANTHROPIC_VERSION" in request.META or "HTTP_X_API_KEY" in request.META:
            self.speaks_anthropic = True
            self.envelope = envelopes.anthropic
        return await super().dispatch(request, *args, **kwargs)

    async def get(self, request: Request) -> HttpResponseBase:
        shown = [self.shown(name, model) for name, model in self.models.items()]
        if self.speaks_anthropic:
            return json_answer(Page.parse(request.query_params).of(shown))
        return json_answer({"object": "list", "data": shown})

    @property
    def models(self) -> dict[str, str]:
        """The model that each name means: own names first, then aliases, but not the alias of all unknown names."""
        allowed = {name: name for name in self.gateway.pool.models if self.tier.allows(name)}
        aliases = self.gateway.aliases.items()
        return allowed | {name: model for name, model in aliases if model in allowed and name != ANY}

    def shown(self, name: str, model: str) -> dict[str, Any]:
        context = self.gateway.pool.context(model)
        if self.speaks_anthropic:
            return listings.anthropic(name, context, self.tier.max_output_tokens)
        return listings.openai(name, context)


class Model(Models):
    async def get(self, request: Request, name: str) -> HttpResponseBase:  # type: ignore[override]
        model = self.models.get(name)
        if model is None:
            raise ModelNotFound(
                f"Model '{name[:100]}' does not exist or your tier may not use it. GET /v1/models lists yours."
            )
        return json_answer(self.shown(name, model))
