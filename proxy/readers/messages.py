"""The stream of messages, in Anthropic's grammar: message_start, blocks, message_delta, message_stop."""

import uuid
from typing import Any

import orjson

from accounts.errors import GatewayError
from proxy import envelopes
from proxy.events import event_of, read
from proxy.usage import Usage, believed, object_of, sum_of

from . import Asked, Reader

LAST = b"event: message_stop\n"
DELTA = b"event: content_block_delta\n"  # passes as it is
TEXTS = ("text", "thinking", "partial_json")
JOINED = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


class MessageReader(Reader):
    """llama-server gives no timings here, so the tokens of a cut answer are those of its text so far.

    It also loses the start of a message, and with it the count of the prompt, where the first token is only a part
    of a character.
    """

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._prompt: int | None = None
        self._cached: int | None = None
        self._completion: int | None = None
        self._deltas = 0
        self._text = bytearray()  # all that came, of every kind, in UTF-8
        self._message: dict[str, Any] = {}
        self._arguments: dict[int, str] = {}  # of the tool_use block with this index, as JSON that still comes in
        self._stopped = False

    @staticmethod
    def is_last(event: bytes) -> bool:
        return event.startswith(LAST)

    def lacks_start(self, first: bytes) -> bool:
        return not first.startswith((b"event: message_start\n", b"event: error\n", b"data: ", b":"))

    def start(self, prompt_tokens: int | None) -> bytes:
        usage = {"input_tokens": prompt_tokens, "output_tokens": 0}
        message = {
            "id": uuid.uuid4().hex,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self.asked.model,
        }
        reasons = {"stop_reason": None, "stop_sequence": None}
        return event_of({"type": "message_start", "message": {**message, **reasons, "usage": usage}}, "message_start")

    @property
    def uncounted(self) -> str:
        return self._text.decode() if self._completion is None else ""

    def counted(self, tokens: int) -> None:
        self._deltas = max(self._deltas, tokens)

    def pass_on(self, event: bytes) -> bytes:
        chunk = self._noted(event)
        if event.startswith(DELTA):
            return event
        return event_of(chunk, chunk["type"]) if chunk else b""

    def fold(self, event: bytes) -> bool:
        chunk = self._noted(event)
        if chunk is None:
            return False
        match chunk["type"]:
            case "message_start":
                self._message = chunk["message"]
            case "content_block_start":
                self._message["content"].append(chunk["content_block"])
            case "content_block_delta":
                self._add_delta(chunk["index"], chunk["delta"])
            case "message_delta":
                self._message.update(chunk["delta"])
                self._message["usage"] |= chunk.get("usage", {})
            case "message_stop":
                self._stopped = True
        return True

    def error_event(self, error: GatewayError) -> bytes:
        return event_of(envelopes.anthropic(error), "error")

    def _add_delta(self, index: int, delta: dict[str, Any]) -> None:
        block = self._message["content"][index]
        if delta["type"] == "input_json_delta":
            self._arguments[index] = self._arguments.get(index, "") + delta["partial_json"]
        elif name := JOINED.get(delta["type"]):
            block[name] = block.get(name, "") + delta[name]

    def _noted(self, event: bytes) -> dict[str, Any] | None:
        chunk = read(event)
        if chunk is None:
            return None
        if chunk["type"] == "content_block_delta":
            self._deltas += 1
            self._text += next((v for n, v in chunk["delta"].items() if n in TEXTS), "").encode()
        elif chunk["type"] == "content_block_start" and chunk["content_block"].get("type") == "tool_use":
            chunk["content_block"].setdefault("input", {})
        elif chunk["type"] == "message_start":
            self._note_prompt(chunk["message"])
        elif chunk["type"] == "message_delta" and (usage := chunk.get("usage")):
            self._completion = believed(object_of(usage).get("output_tokens"))
            self.tally.ended(0, self._prompt, self._cached, self._completion)
            if self._completion is None:
                chunk["usage"] = {**object_of(usage), "output_tokens": self.usage.completion}
        return chunk

    def _note_prompt(self, message: dict[str, Any]) -> None:
        """Note the prompt's tokens. Anthropic's `input_tokens` leave out those that were cached."""
        usage = object_of(message.get("usage"))
        self._cached = believed(usage.get("cache_read_input_tokens", 0))
        self._prompt = sum_of(believed(usage.get("input_tokens")), self._cached or 0)
        self.tally.so_far(0, self._prompt, self._cached, 0)
        if not self.asked.shows_timings or None in (self._prompt, self._cached):
            output = believed(usage.get("output_tokens")) or 0
            message["usage"] = {"input_tokens": self._prompt or 0, "output_tokens": output}
        message["id"] = "msg_" + message["id"].removeprefix("chatcmpl-")

    @property
    def usage(self) -> Usage:
        if self._deltas and self.tally.usage.is_estimated:
            completion = self._deltas if self._completion is None else self._completion
            self.tally.so_far(0, self._prompt, self._cached, completion)
        return super().usage

    @property
    def is_complete(self) -> bool:
        return self._stopped and bool(self._message.get("stop_reason"))

    @property
    def answer(self) -> dict[str, Any]:
        for index, arguments in self._arguments.items():
            self._message["content"][index]["input"] = arguments_of(arguments)
        return self._message


def arguments_of(text: str) -> Any:
    """The input of a tool; nothing of one that the length of the answer cut."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
