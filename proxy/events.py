"""Server-sent events, as llama-server writes them: split from bytes, read, written. Pure."""

from typing import Any

import orjson

from .errors import UpstreamError
from .refusals import refusal_of

DATA = b"data: "
DONE = b"data: [DONE]\n\n"
NOTHING = b"data: null\n\n"  # how the stream of several prompts begins
COMMENT = b":\n\n"  # a heartbeat, for proxies and clients that give up on silence
NO_ANSWER = "The llama-server sent something that is no answer."
UNREADABLE = (KeyError, IndexError, TypeError, ValueError, AttributeError)  # of an event that is not as it should be


class EventSplitter:
    """Bytes as they come in, complete events out. An event ends with an empty line."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are complete now, each with its empty line; what is not yet complete is kept."""
        if self.rest:
            data = self.rest + data
        *events, self.rest = data.split(b"\n\n")
        return [event + b"\n\n" for event in events]


def read(event: bytes) -> dict[str, Any] | None:
    """The JSON object of an event; None for a comment, for [DONE] and for nothing.

    Raises what an error event means, or UpstreamError where it is no event of a llama-server.
    """
    if event.startswith(b":") or event in (DONE, NOTHING):
        return None
    try:
        chunk = orjson.loads(event[event.index(DATA) + len(DATA) :])
        error = chunk.get("error")
        if error and chunk.get("type", "error") == "error":  # a response has one, too, mostly null
            raise refusal_of(error)
    except (ValueError, AttributeError) as exc:
        raise UpstreamError(NO_ANSWER) from exc
    return chunk


def event_of(chunk: dict[str, Any], name: str = "") -> bytes:
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + DATA + orjson.dumps(chunk) + b"\n\n"
