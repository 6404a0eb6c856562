"""Server-sent events, as llama-server writes them: split from bytes, recognised, tidied. Pure."""

from typing import Any

import orjson

DATA = b"data: "
DONE = b"data: [DONE]\n\n"
HIDDEN = ("timings", "__verbose")  # timings tell tenants about each other's prompts

# A token's event starts with its choices and has none of these in it, so it can pass unread.
PLAIN_START = b'data: {"choices":[{'
NOT_PLAIN = (b'"timings"', b'"usage"', b'"error"')


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


def is_plain(event: bytes) -> bool:
    """True for an event that holds a token and nothing that would have to be looked at."""
    return event.startswith(PLAIN_START) and not any(mark in event for mark in NOT_PLAIN)


def payload(event: bytes) -> dict[str, Any] | None:
    """The JSON object of an event; None for a comment and for [DONE]. Raises ValueError for anything else."""
    if not event.startswith(DATA) or event == DONE:
        return None
    value = orjson.loads(event[len(DATA) :])
    if not isinstance(value, dict):
        raise ValueError("An event of the llama-server holds no object.")
    return value


def without_hidden(chunk: dict[str, Any]) -> dict[str, Any]:
    """A chunk without what the gateway keeps to itself."""
    for name in HIDDEN:
        chunk.pop(name, None)
    if usage := chunk.get("usage"):
        usage.pop("prompt_tokens_details", None)
    return chunk


def event_of(chunk: dict[str, Any]) -> bytes:
    return DATA + orjson.dumps(chunk) + b"\n\n"
