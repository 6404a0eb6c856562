"""How many tokens a prompt has, as a llama-server counts them: for calls that its upper bound alone would refuse."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import orjson

from accounts.errors import GatewayError

from .attempts import Attempt, Errand
from .bounds import PER_TEXT
from .errors import UpstreamUnavailable
from .events import UNREADABLE
from .fields import inputs_of
from .pool import Pool
from .usage import believed, tokens_listed

COUNT_TIMEOUT = 5.0  # seconds until a prompt is counted, those of the same caller before it included; 2 MB take one


class PromptCounter:
    """Asks llama-servers, but about one call of a caller after the other: refused calls are free.

    Bodies of more than `most` bytes hold pictures, and these are not worth the work.
    """

    def __init__(self, pool: Pool, most: int) -> None:
        self.pool = pool
        self.most = most
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()  # by user

    async def count(self, user_id: int, errand: Errand) -> int | None:
        """Tokens of the prompt; None where it is too large to be counted.

        Raises UpstreamUnavailable where no llama-server says so in time.
        """
        path, body = question(errand)
        if len(body) > self.most:
            return None
        turn = self._turns.setdefault(user_id, asyncio.Lock())
        try:
            async with asyncio.timeout(COUNT_TIMEOUT), turn:
                for member in self.pool.fit(errand.asked.model):
                    with suppress(GatewayError, *UNREADABLE):
                        told = await Attempt(errand, member, self.pool.client).ask(path, body)
                        return tokens_in(told, errand)
        except TimeoutError:
            pass
        raise UpstreamUnavailable("No llama-server can count this prompt at the moment. Try again shortly.")


def question(errand: Errand) -> tuple[str, bytes]:
    """Where to ask, and what."""
    if errand.endpoint.counting_path:
        return errand.endpoint.counting_path, errand.body
    texts = [each for each in inputs_read(errand.asked.call.fields) if isinstance(each, str)]
    return "/tokenize", orjson.dumps({"content": "\n".join(texts), "parse_special": True})


def tokens_in(told: Any, errand: Errand) -> int:
    """Tokens of a prompt by what a llama-server told of it. Raises ValueError where that cannot be believed."""
    if errand.endpoint.counting_path:
        return known(believed(told["input_tokens"]))
    inputs = list(inputs_read(errand.asked.call.fields))
    counted = sum(len(each) for each in inputs if isinstance(each, list))
    return known(tokens_listed(told)) + counted + PER_TEXT * len(inputs)


def known(tokens: int | None) -> int:
    if tokens is None:
        raise ValueError("The llama-server told no number of tokens that can be believed.")
    return tokens


def inputs_read(fields: Any) -> Iterator[str | list[int]]:
    """What the model reads of a call without a chat: texts, or tokens already."""
    if "documents" not in fields:
        yield from inputs_of(fields.get("prompt", fields.get("input")))
        return
    for each in fields["documents"]:
        yield fields["query"]
        yield each["text"] if isinstance(each, dict) else each
