"""One attempt of a call: sent to one upstream, its answer as it comes in, and what else must be asked about it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from accounts.errors import GatewayError

from .calls import Call
from .endpoints import Endpoint
from .errors import BrokenOff
from .events import UNREADABLE, EventSplitter
from .pool import Upstream
from .readers import Reader
from .upstream import Answer, UpstreamClient

COUNT_TIMEOUT = 2.0  # seconds that a llama-server has to count the tokens of a cut answer

Portion = list[bytes]  # complete events that came in together
Portions = AsyncGenerator[Portion, None]


@dataclass(frozen=True, slots=True)
class Errand:
    """What is to be done: a call of an endpoint, and the body to send for it."""

    endpoint: Endpoint
    call: Call
    model: str
    body: bytes
    shows_timings: bool = False

    def new_reader(self) -> Reader:
        assert self.endpoint.reader is not None
        return self.endpoint.reader(self.call, self.model, shows_timings=self.shows_timings)


class Attempt:
    """An errand at one upstream."""

    def __init__(self, errand: Errand, upstream: Upstream, client: UpstreamClient) -> None:
        self.errand = errand
        self.upstream = upstream
        self.client = client

    async def post(self) -> Answer:
        """Send the call. Whoever takes the answer closes it. Raises as UpstreamClient.post does."""
        return await self._post(self.errand.endpoint.path, self.errand.body)

    async def portions(self, answer: Answer, reader: Reader) -> Portions:
        """The complete events of an answer, up to its last. An end without that is BrokenOff.

        Where the start of an answer was lost, what it would have told is asked for, and it is put before the rest.
        """
        splitter = EventSplitter()
        has_begun = False
        async for data in answer.parts():
            if events := splitter.feed(data):
                if not has_begun and reader.lacks_start(events[0]):
                    counted = await self._ask(self.errand.endpoint.counting_path, self.errand.body)
                    events.insert(0, reader.start(counted["input_tokens"]))
                has_begun = True
                yield events
                if reader.is_last(events[-1]):
                    return
        raise BrokenOff("The llama-server ended its answer before it was complete.")

    async def count_rest(self, reader: Reader) -> None:
        """Have the text of a cut answer counted, where its events do not say how many tokens they are."""
        if text := reader.uncounted:
            with suppress(GatewayError, TimeoutError, *UNREADABLE):
                async with asyncio.timeout(COUNT_TIMEOUT):
                    told = await self._ask("/tokenize", orjson.dumps({"content": text}))
                    reader.counted(len(told["tokens"]))

    async def _ask(self, path: str, body: bytes) -> Any:
        """What the upstream answers at once, without a slot, as JSON."""
        answer = await self._post(path, body)
        try:
            return await answer.whole()
        finally:
            await answer.aclose()

    async def _post(self, path: str, body: bytes) -> Answer:
        return await self.client.post(self.upstream.base_url + path, self.upstream.api_key, body)
