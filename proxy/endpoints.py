"""The endpoints of /v1 that llama-servers answer: one row each. Pure.

A new one is a row: what its body may hold (schemas.py), how its streamed answer is read (readers/), and, where it is
answered whole, how its tokens are counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import schemas
from .readers import Reader
from .readers.choices import ChatReader, CompletionReader
from .readers.messages import MessageReader
from .readers.responses import ResponseReader
from .replays import ChatReplay, ChoicesReplay, MessageReplay, Replay, ResponseReplay
from .schemas import Schema
from .usage import Usage, of_whole


def count_nothing(_: dict[str, Any]) -> Usage:
    """It needs no slot and runs no model."""
    return Usage()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`name` is the route's, in metrics and ledger; `url` is what follows /v1/; `path` is llama-server's.

    `counting_path` says how many tokens the prompt of a body has; without one its texts have to be tokenized.
    Without a `replay` its answers are not kept: they cost next to nothing.
    """

    name: str
    url: str
    path: str
    schema: Schema
    reader: type[Reader] | None = None
    count: Callable[[dict[str, Any]], Usage] = count_nothing
    is_anthropic: bool = False
    counting_path: str = ""
    replay: Replay | None = None

    @property
    def takes_slot(self) -> bool:
        """Whether a model is run. The rest is answered beside the work."""
        return self.replay is not None


ENDPOINTS = (
    Endpoint(
        "chat-completions",
        "chat/completions",
        "/v1/chat/completions",
        schemas.CHAT,
        ChatReader,
        counting_path="/v1/chat/completions/input_tokens",
        replay=ChatReplay(),
    ),
    Endpoint(
        "completions",
        "completions",
        "/v1/completions",
        schemas.COMPLETION,
        CompletionReader,
        replay=ChoicesReplay(),
    ),
    Endpoint(
        "responses",
        "responses",
        "/v1/responses",
        schemas.RESPONSE,
        ResponseReader,
        counting_path="/v1/responses/input_tokens",
        replay=ResponseReplay(),
    ),
    Endpoint(
        "messages",
        "messages",
        "/v1/messages",
        schemas.MESSAGE,
        MessageReader,
        is_anthropic=True,
        counting_path="/v1/messages/count_tokens",
        replay=MessageReplay(),
    ),
    Endpoint(
        "count-tokens",
        "messages/count_tokens",
        "/v1/messages/count_tokens",
        schemas.MESSAGE_COUNT,
        is_anthropic=True,
    ),
    Endpoint("embeddings", "embeddings", "/v1/embeddings", schemas.EMBEDDING, count=of_whole, replay=Replay()),
    Endpoint("rerank", "rerank", "/v1/rerank", schemas.RERANK, count=of_whole, replay=Replay()),
    Endpoint("tokenize", "tokenize", "/tokenize", schemas.TOKENIZE),
    Endpoint("detokenize", "detokenize", "/detokenize", schemas.DETOKENIZE),
)
