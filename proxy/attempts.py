"""One attempt of a call: sent to one upstream, its answer as it comes in, and what else must be asked about it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from accounts.errors import GatewayError

from .endpoints import Endpoint
from .errors import BrokenOff, NeverSent, Overloaded, UpstreamError
from .events import NO_ANSWER, UNREADABLE, EventSplitter
from .members import Member
from .readers import Asked, Reader
from .upstream import Answer, UpstreamClient
from .usage import believed, tokens_listed

COUNT_TIMEOUT = 2.0  # seconds that a llama-server has to count the tokens of a cut answer

Portion = list[bytes]  # complete events that came in together
Portions = AsyncGenerator[Portion, None]


@dataclass(frozen=True, slots=True)
class Errand:
    """What is to be done: a call of an endpoint, and the body to send for it."""

    endpoint: Endpoint
    asked: Asked
    body: bytes

    def new_reader(self) -> Reader:
        assert self.endpoint.reader is not None
        return self.endpoint.reader(self.asked)


class Attempt:
    """An errand at one upstream."""

    def __init__(self, errand: Errand, member: Member, client: UpstreamClient) -> None:
        self.errand = errand
        self.member = member
        self.client = client

    async def post(self) -> Answer:
        """Send the call. The caller closes the answer. Raises as UpstreamClient.post does."""
        return await self._post(self.errand.endpoint.path, self.errand.body)

    async def portions(self, answer: Answer, reader: Reader) -> Portions:
        """The complete events of an answer, up to its last. An end without that is BrokenOff, or UpstreamError where
        something else than events came.

        Where the start of an answer was lost, what it would have told is asked for, and it is put before the rest.
        """
        splitter = EventSplitter()
        member = self.member
        has_begun = False
        async for data in answer.parts():
            member.is_heard = True
            if events := splitter.feed(data):
                if not has_begun and (told := [event for event in events if not event.startswith(b":")]):
                    has_begun = True
                    if reader.lacks_start(told[0]):
                        events.insert(0, reader.start(await self._count_prompt()))
                yield events
                if reader.is_last(events[-1]):
                    return
        if not has_begun and splitter.rest:
            raise UpstreamError(NO_ANSWER)
        raise BrokenOff("The llama-server ended its answer before it was complete.", reason="broke its answer off")

    async def _count_prompt(self) -> int | None:
        """The tokens of the prompt; None where the llama-server says nothing that can be believed."""
        try:
            counted = await self.ask(self.errand.endpoint.counting_path, self.errand.body)
        except (NeverSent, Overloaded) as exc:  # the call itself was sent
            raise UpstreamError(reason="could not be asked for the count of a prompt") from exc
        try:
            return believed(counted["input_tokens"])
        except UNREADABLE as exc:
            raise UpstreamError(NO_ANSWER) from exc

    async def count_rest(self, reader: Reader) -> None:
        """Have the text of a cut answer counted, where its events do not say how many tokens they are."""
        if text := reader.uncounted:
            with suppress(GatewayError, TimeoutError, *UNREADABLE):
                async with asyncio.timeout(COUNT_TIMEOUT):
                    told = await self.ask("/tokenize", orjson.dumps({"content": text}))
                    if (tokens := tokens_listed(told)) is not None:
                        reader.counted(tokens)

    async def ask(self, path: str, body: bytes) -> Any:
        """What the upstream answers at once, without a slot, as JSON."""
        answer = await self._post(path, body)
        try:
            return await answer.whole()
        finally:
            await answer.aclose()

    async def _post(self, path: str, body: bytes) -> Answer:
        return await self.client.post(self.member.url + path, self.member.spec.api_key, body)
