"""The stream of responses: named events, each with its place in the answer, up to response.completed.

llama-server's events lack what OpenAI's have and SDKs count on: sequence numbers, the indexes of items and parts, and
all of a response but its output. They are filled in here.
"""

import time
from typing import Any

from accounts.errors import GatewayError
from proxy import envelopes
from proxy.events import event_of, read
from proxy.usage import object_of, of_progress, of_responses

from . import Asked, Reader

LAST = (b"event: response.completed\n", b"event: response.incomplete\n", b"event: response.failed\n")
PARTS = ("response.content_part.", "response.output_text.", "response.reasoning_text.", "response.refusal.")
ECHOED = ("instructions", "max_output_tokens", "temperature", "top_p", "tools", "tool_choice", "parallel_tool_calls")
DEFAULTS: dict[str, Any] = {
    "background": False,
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": False,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "usage": None,
}


class ResponseReader(Reader):
    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._created_at = int(time.time())
        self._sequence = 0
        self._items: dict[str, int] = {}  # the index of each item of the output
        self._progressed = False
        self._answer: dict[str, Any] = {}

    @staticmethod
    def is_last(event: bytes) -> bool:
        return event.startswith(LAST)

    def pass_on(self, event: bytes) -> bytes:
        chunk = self._filled(event)
        return event_of(chunk, chunk["type"]) if chunk else b""

    def fold(self, event: bytes) -> bool:
        chunk = self._filled(event)
        if chunk and event.startswith(LAST):
            self._answer = chunk["response"]
        return chunk is not None

    def error_event(self, error: GatewayError) -> bytes:
        """OpenAI's `error` event, with the envelope beside its fields, which SDKs raise."""
        envelope = envelopes.openai(error)
        told = {"type": "error", **envelope["error"], **envelope, "sequence_number": self._sequence}
        return event_of({**told, "type": "error"}, "error")

    def _filled(self, event: bytes) -> dict[str, Any] | None:
        """An event as OpenAI's API has it, its counts noted; None for one that tells of progress only."""
        chunk = read(event)
        if chunk is None:
            return None
        timings = chunk.get("timings") if self.asked.shows_timings else chunk.pop("timings", None)
        progress = chunk.pop("prompt_progress", None)
        if progress:
            self.tally.so_far(0, *of_progress(progress))
            if self._progressed:
                return None
            self._progressed = True
        else:
            self.tally.events += "delta" in chunk
            self.tally.timed(0, timings)
        self._place(chunk)
        if response := chunk.get("response"):
            chunk["response"] = self._whole(response)
            if chunk["response"].get("status") == "incomplete":
                chunk["type"] = "response.incomplete"
        chunk["sequence_number"] = self._sequence
        self._sequence += 1
        return chunk

    def _place(self, chunk: dict[str, Any]) -> None:
        """Say where in the output an event belongs."""
        kind = chunk["type"]
        item_id = chunk.get("item_id") or chunk.get("item", {}).get("id")
        if item_id is None:
            return
        chunk["output_index"] = self._items.setdefault(item_id, len(self._items))
        if kind.startswith(PARTS):
            chunk.setdefault("content_index", 0)
        if kind.startswith("response.output_text."):
            chunk.setdefault("logprobs", [])
        if part := chunk.get("part"):
            part.setdefault("annotations", [])

    def _whole(self, response: dict[str, Any]) -> dict[str, Any]:
        """A response with all of its fields."""
        if usage := response.get("usage"):
            self.tally.ended(0, *of_responses(usage))
            counted = self.tally.choices[0]
            told = {"input_tokens": counted.prompt, "output_tokens": counted.completion, "total_tokens": counted.total}
            details = {"input_tokens_details": {"cached_tokens": counted.cached if self.asked.shows_timings else 0}}
            response["usage"] = {
                "output_tokens_details": {"reasoning_tokens": 0},
                **object_of(usage),
                **told,
                **details,
            }
            is_believed = not counted.is_estimated
            if self.asked.length and is_believed and counted.completion >= self.asked.length:  # it says "completed"
                response["status"] = "incomplete"
                response["incomplete_details"] = {"reason": "max_output_tokens"}
        return filled(response, self.asked, self._created_at)

    @property
    def is_complete(self) -> bool:
        return bool(self._answer)

    @property
    def answer(self) -> dict[str, Any]:
        return self._answer


def filled(response: dict[str, Any], asked: Asked, created_at: int) -> dict[str, Any]:
    """A response with all fields that OpenAI's has, and what it repeats of its request."""
    said = asked.call.fields
    repeated = {name: said[name] for name in (*ECHOED, "text") if name in said}
    own = {"created_at": created_at, "model": asked.model, "output": []}
    return {**DEFAULTS, **own, **repeated, "max_output_tokens": asked.length, **response}
