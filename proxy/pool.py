"""The llama-servers: which are up, what they serve, how busy they are, and which one takes a call."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from accounts.errors import GatewayError

from .errors import MissingParameter, ModelNotFound, UpstreamUnavailable
from .identities import identity_of
from .metrics import UPSTREAM_ERRORS, UPSTREAM_UP
from .models import ANY
from .upstream import UpstreamClient

logger = logging.getLogger(__name__)

LOOK_TIMEOUT = 5.0  # seconds that a llama-server has to say what it serves
MARKER = "media_marker"  # of /props: made anew at each start
FIRST_LOOK = 2.0  # seconds that a start waits for the first look at the llama-servers


@dataclass(slots=True, eq=False)
class Upstream:
    """One llama-server. `models` are the names it answers to, the first of each being its own."""

    base_url: str
    api_key: str = ""
    is_up: bool | None = None  # None until it was looked at
    models: dict[str, str] = field(default_factory=dict)  # name or alias -> the model's own name
    context: int | None = None  # tokens of a prompt and its answer, at most
    identity: str | None = None  # of what answers there; None where that is not known
    props: dict[str, Any] = field(default_factory=dict)
    adapters: Any = None  # as it tells them; None until it was asked
    in_flight: int = 0

    @property
    def name(self) -> str:
        return urlsplit(self.base_url).netloc


@dataclass(slots=True, eq=False)
class Lease:
    """A call's place at an upstream, until it is released."""

    upstream: Upstream

    def __post_init__(self) -> None:
        self.upstream.in_flight += 1

    def release(self) -> None:
        self.upstream.in_flight -= 1


class Pool:
    """All upstreams. A look at `/v1/models` says at once whether one is up and what it serves."""

    def __init__(self, upstreams: Iterable[Upstream], client: UpstreamClient, interval: float) -> None:
        self.upstreams = tuple(upstreams)
        self.client = client
        self.interval = interval
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK):
                await self.look()
        self._tasks = [asyncio.create_task(self._watch(upstream), name="pool") for upstream in self.upstreams]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, upstream: Upstream) -> None:
        while True:
            await asyncio.sleep(self.interval)
            await self._look_at(upstream)

    async def look(self) -> None:
        """Look at every upstream once."""
        await asyncio.gather(*(self._look_at(upstream) for upstream in self.upstreams))

    async def _look_at(self, upstream: Upstream) -> None:
        try:
            answer = await self._get(upstream, "/v1/models")
            models = {
                name: model["id"] for model in answer["data"] for name in (model["id"], *model.get("aliases", ()))
            }
            identity = await self._identity(upstream, answer["data"])
        except (GatewayError, KeyError, TypeError, AttributeError) as exc:
            self.mark_down(upstream, str(exc))
        else:
            if not upstream.is_up:
                logger.info("llama-server %s is up and serves %s.", upstream.name, ", ".join(models))
            upstream.models = models
            upstream.context = max((meta_of(model).get("n_ctx") or 0 for model in answer["data"]), default=0) or None
            upstream.identity = identity
            upstream.is_up = True
            UPSTREAM_UP.labels(upstream.name).set(1)

    async def _identity(self, upstream: Upstream, models: list[dict[str, Any]]) -> str | None:
        """What answers there. Adapters are asked for after a start, or where it has some: asking wakes it."""
        before = upstream.props
        try:
            props = await self._get(upstream, "/props")
            is_known = upstream.is_up and upstream.adapters == [] and before.get(MARKER) == props.get(MARKER)
            if not is_known:
                asleep = props.get("is_sleeping")
                upstream.adapters = None if asleep else await self._get(upstream, "/lora-adapters")
            upstream.props = props
            return None if upstream.adapters is None else identity_of(models, props, upstream.adapters)
        except (GatewayError, AttributeError, TypeError):  # a llama-server that keeps this to itself
            return None

    async def _get(self, upstream: Upstream, path: str) -> Any:
        return await self.client.get(upstream.base_url + path, upstream.api_key, LOOK_TIMEOUT)

    def mark_down(self, upstream: Upstream, reason: str) -> None:
        """Give it no calls until a look finds it well again."""
        if upstream.is_up is not False:
            logger.warning("llama-server %s is down: %s", upstream.name, reason)
            UPSTREAM_ERRORS.labels(upstream.name, "down").inc()
        upstream.is_up = False
        UPSTREAM_UP.labels(upstream.name).set(0)

    @property
    def is_up(self) -> bool:
        return any(upstream.is_up for upstream in self.upstreams)

    @property
    def models(self) -> list[str]:
        """The models' own names, each once. Those of upstreams that are down now stay known."""
        return list(dict.fromkeys(own for upstream in self.upstreams for own in upstream.models.values()))

    def resolve(self, name: str, default: str, aliases: Mapping[str, str]) -> str:
        """The model that a call means by `name`. Raises ModelNotFound, MissingParameter or UpstreamUnavailable.

        An alias goes before a model's own name, and the alias "*" is for names that nothing else knows.
        """
        models = self.models
        if not models:
            raise UpstreamUnavailable
        wanted = name or default or (models[0] if len(models) == 1 else aliases.get(ANY, ""))
        if not wanted:
            raise MissingParameter(f"'model' is required. Models here: {', '.join(models)}.", param="model")
        for candidate in (aliases.get(wanted, wanted), aliases.get(ANY)):
            for upstream in self.upstreams:
                if candidate in upstream.models:
                    return upstream.models[candidate]
        raise ModelNotFound(
            f"There is no model '{wanted[:100]}' here. GET /v1/models lists those there are.", param="model"
        )

    def context(self, model: str) -> int | None:
        """Tokens that a prompt of the model and its answer may have; None where no llama-server says."""
        return max((each.context for each in self.upstreams if each.context and model in each.models), default=None)

    def identity(self, model: str) -> str | None:
        """What may answer a call of the model now, of all that are up; None where none is, or one does not tell."""
        identities = {each.identity for each in self.fit(model)}
        told = sorted(each for each in identities if each)
        return ",".join(told) if identities and len(told) == len(identities) else None

    def fit(self, model: str, tried: Sequence[Upstream] = ()) -> list[Upstream]:
        """The upstreams that are up, serve the model and were not tried yet."""
        return [each for each in self.upstreams if each.is_up and model in each.models and each not in tried]

    def lease(self, model: str, tried: Sequence[Upstream]) -> Lease:
        """A place at the least busy upstream that fits. Raises UpstreamUnavailable."""
        fit = self.fit(model, tried)
        if not fit:
            raise UpstreamUnavailable
        return Lease(min(fit, key=lambda upstream: upstream.in_flight))


def meta_of(model: dict[str, Any]) -> dict[str, Any]:
    meta = model.get("meta")
    return meta if isinstance(meta, dict) else {}
