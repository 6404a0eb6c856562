"""The stream of responses: named events, each with its place in the answer, up to response.completed.

llama-server's events lack what OpenAI's have and SDKs count on: sequence numbers, the indexes of items and parts, most
of a response but its output, and the events around reasoning and at the end of calls. They are filled in here.
"""

import time
from collections.abc import Iterator
from typing import Any

from accounts.errors import GatewayError
from proxy import envelopes
from proxy.events import event_of, read
from proxy.usage import object_of, of_progress, of_responses

from . import Asked, Reader

LAST = (b"event: response.completed\n", b"event: response.incomplete\n", b"event: response.failed\n")
PARTS = ("response.content_part.", "response.reasoning_text.", "response.refusal.")
REASONING_DELTA = "response.reasoning_text.delta"
FRAMES = (
    PART_ADDED := "response.content_part.added",
    REASONING_DONE := "response.reasoning_text.done",
    PART_DONE := "response.content_part.done",
    ARGUMENTS_DONE := "response.function_call_arguments.done",
)
ITEM_DONE = "response.output_item.done"
FRAMED = frozenset({*FRAMES, REASONING_DELTA, ITEM_DONE})  # the events that others may lack before them
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
        self._told: set[tuple[str, str]] = set()  # the FRAMES that have come, and of which items
        self._progressed = False
        self._answer: dict[str, Any] = {}

    @staticmethod
    def is_last(event: bytes) -> bool:
        return event.startswith(LAST)

    def pass_on(self, event: bytes) -> bytes:
        told = b""
        for chunk in self._filled(event):
            told += event_of(chunk, chunk["type"])
        return told

    def fold(self, event: bytes) -> bool:
        chunks = self._filled(event)
        if chunks and event.startswith(LAST):
            self._answer = chunks[-1]["response"]
        return bool(chunks)

    def error_event(self, error: GatewayError) -> bytes:
        """OpenAI's `error` event, with the envelope beside its fields, which SDKs raise."""
        envelope = envelopes.openai(error)
        told = {"type": "error", **envelope["error"], **envelope, "sequence_number": self._sequence}
        return event_of({**told, "type": "error"}, "error")

    def _filled(self, event: bytes) -> list[dict[str, Any]]:
        """An event as OpenAI's API has it, after those that it lacks, its counts noted; none for one of progress."""
        chunk = read(event)
        if chunk is None:
            return []
        timings = chunk.get("timings") if self.asked.shows_timings else chunk.pop("timings", None)
        if progress := chunk.pop("prompt_progress", None):
            self.tally.so_far(0, *of_progress(progress))
            if self._progressed:
                return []
            self._progressed = True
        else:
            self.tally.events += "delta" in chunk
            self.tally.timed(0, timings)
        chunks = [*self._lacking(chunk), chunk] if chunk["type"] in FRAMED else [chunk]
        if response := chunk.get("response"):
            chunk["response"] = self._whole(response)
            if chunk["response"].get("status") == "incomplete":
                chunk["type"] = "response.incomplete"
        for each in chunks:
            self._place(each)
            each["sequence_number"] = self._sequence
            self._sequence += 1
        return chunks

    def _lacking(self, chunk: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events that should have come before this one: of reasoning all but its text, of calls their end."""
        kind = chunk["type"]
        if kind == REASONING_DELTA:
            if self._is_new(PART_ADDED, chunk["item_id"]):
                part = {"type": "reasoning_text", "text": ""}
                yield {"type": PART_ADDED, "item_id": chunk["item_id"], "part": part}
        elif kind in FRAMES:
            self._is_new(kind, chunk["item_id"])
        else:
            item = chunk["item"]
            if item["type"] == "function_call" and self._is_new(ARGUMENTS_DONE, item["id"]):
                told = {"name": item["name"], "arguments": item["arguments"]}
                yield {"type": ARGUMENTS_DONE, "item_id": item["id"], **told}
            elif item["type"] == "reasoning" and (PART_ADDED, item["id"]) in self._told:
                part = item["content"][0]
                if self._is_new(REASONING_DONE, item["id"]):
                    yield {"type": REASONING_DONE, "item_id": item["id"], "text": part["text"]}
                if self._is_new(PART_DONE, item["id"]):
                    yield {"type": PART_DONE, "item_id": item["id"], "part": part}

    def _is_new(self, kind: str, item_id: str) -> bool:
        """Note an event of an item. False where it has come already."""
        if (kind, item_id) in self._told:
            return False
        self._told.add((kind, item_id))
        return True

    def _place(self, chunk: dict[str, Any]) -> None:
        """Say where in the output an event belongs."""
        kind = chunk["type"]
        item_id = chunk.get("item_id")
        if item_id is None and (item_id := chunk.get("item", {}).get("id")) is None:
            return
        chunk["output_index"] = self._items.setdefault(item_id, len(self._items))
        if kind.startswith("response.output_text."):
            chunk.setdefault("content_index", 0)
            chunk.setdefault("logprobs", [])
        elif kind.startswith(PARTS):
            chunk.setdefault("content_index", 0)
            if (part := chunk.get("part")) and part["type"] == "output_text":
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
    if "tools" in said:
        repeated["tools"] = asked.call.sent.get("tools", [])  # those that could be called
    own = {"created_at": created_at, "model": asked.model, "output": []}
    return {**DEFAULTS, **own, **repeated, "max_output_tokens": asked.length, **response}
