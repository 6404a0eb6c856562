"""Answers that were kept, told again: whole or as a stream, whichever way they were first asked for. Pure.

What is one telling's own (its id, its time, its timings) is not kept, and is made anew. A stream is as short as its
grammar allows: each text comes in one piece.
"""

import time
import uuid
from collections.abc import Iterator
from typing import Any

import orjson

from .events import DONE, event_of
from .readers import Asked
from .readers.responses import filled

Json = dict[str, Any]
Event = tuple[str, Json]  # its name, and its fields beside that

PREFIXES = {"message": "msg_", "function_call": "fc_", "reasoning": "rs_"}  # of ids, by the type of an item
COMPLETE = ("stop", "length", "tool_calls")


class Replay:
    """Answers that are never streamed: vectors, rankings."""

    own: tuple[str, ...] = ()  # fields that are one telling's

    def is_complete(self, answer: Json) -> bool:  # noqa: ARG002  # others look at it
        """Whether it ended as an answer should, and not because something stopped it."""
        return True

    def kept(self, answer: Json) -> bytes:
        return orjson.dumps({name: value for name, value in answer.items() if name not in self.own})

    def whole(self, kept: bytes, asked: Asked) -> bytes:  # noqa: ARG002
        return kept

    def stream(self, kept: bytes, asked: Asked) -> bytes:
        raise NotImplementedError


class ChoicesReplay(Replay):
    """One choice of a chat or of a completion."""

    own = ("id", "created", "timings")
    chunk = "text_completion"

    def is_complete(self, answer: Json) -> bool:
        return all(choice["finish_reason"] in COMPLETE for choice in answer["choices"])

    def kept(self, answer: Json) -> bytes:
        usage = {name: value for name, value in answer["usage"].items() if name != "prompt_tokens_details"}
        return super().kept({**answer, "usage": usage})

    def whole(self, kept: bytes, asked: Asked) -> bytes:  # noqa: ARG002
        return b'{"id":"%s","created":%d,%s' % (new_id("chatcmpl-").encode(), time.time(), kept[1:])

    def stream(self, kept: bytes, asked: Asked) -> bytes:
        answer = orjson.loads(kept)
        (choice,), usage = answer.pop("choices"), answer.pop("usage")
        head = {**answer, "id": new_id("chatcmpl-"), "created": int(time.time()), "object": self.chunk}
        told = [[part] for part in self.parts(choice)]
        if asked.call.include_usage:
            return events_of_choices(head, *told) + event_of({"choices": [], **head, "usage": usage}) + DONE
        return events_of_choices(head, *told) + DONE

    def parts(self, choice: Json) -> Iterator[Json]:
        """The choices of the chunks that make the answer up."""
        if choice["text"]:
            yield {**choice, "finish_reason": None}
        yield {**choice, "text": "", "logprobs": None}


class ChatReplay(ChoicesReplay):
    chunk = "chat.completion.chunk"

    def parts(self, choice: Json) -> Iterator[Json]:
        message = {name: value for name, value in choice.pop("message").items() if value and name != "role"}
        if "tool_calls" in message:
            message["tool_calls"] = [{"index": n, **call} for n, call in enumerate(message["tool_calls"])]
        reason = choice.pop("finish_reason")
        yield {"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}
        if message:
            yield {**choice, "delta": message, "finish_reason": None}
        yield {"index": 0, "delta": {}, "finish_reason": reason}


class MessageReplay(Replay):
    """A message, in Anthropic's grammar."""

    own = ("id", "timings")

    def is_complete(self, answer: Json) -> bool:
        return answer["stop_reason"] in ("end_turn", "max_tokens", "stop_sequence", "tool_use")

    def kept(self, answer: Json) -> bytes:
        usage = answer["usage"]
        prompt = usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)
        return super().kept({**answer, "usage": {"input_tokens": prompt, "output_tokens": usage["output_tokens"]}})

    def whole(self, kept: bytes, asked: Asked) -> bytes:  # noqa: ARG002
        return b'{"id":"%s",%s' % (new_id("msg_").encode(), kept[1:])

    def stream(self, kept: bytes, asked: Asked) -> bytes:
        message = orjson.loads(self.whole(kept, asked))
        ending = {name: message[name] for name in ("stop_reason", "stop_sequence") if name in message}
        begun = {**message, **dict.fromkeys(ending), "content": [], "usage": {**message["usage"], "output_tokens": 0}}
        events: list[Event] = [("message_start", {"message": begun})]
        for index, block in enumerate(message["content"]):
            events += [(name, {"index": index, **fields}) for name, fields in block_events(block)]
        usage = {"output_tokens": message["usage"]["output_tokens"]}
        events += [("message_delta", {"delta": ending, "usage": usage}), ("message_stop", {})]
        return b"".join(event_of({"type": name, **fields}, name) for name, fields in events)


class ResponseReplay(Replay):
    """A response. What it repeats of its request is the asker's own, and so are the ids of its items."""

    told = ("object", "status", "output", "usage", "incomplete_details")

    def is_complete(self, answer: Json) -> bool:
        return answer["status"] in ("completed", "incomplete")

    def kept(self, answer: Json) -> bytes:
        usage = {**answer["usage"], "input_tokens_details": {"cached_tokens": 0}}
        return orjson.dumps({name: answer[name] for name in self.told if name in answer} | {"usage": usage})

    def whole(self, kept: bytes, asked: Asked) -> bytes:
        return orjson.dumps(self._response(kept, asked))

    def _response(self, kept: bytes, asked: Asked) -> Json:
        now = int(time.time())
        response = orjson.loads(kept)
        output = [{**item, "id": new_id(PREFIXES.get(item["type"], "item_"))} for item in response["output"]]
        return filled({"id": new_id("resp_"), **response, "output": output, "completed_at": now}, asked, now)

    def stream(self, kept: bytes, asked: Asked) -> bytes:
        response = self._response(kept, asked)
        nothing: Json = {"status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
        begun = {**response, **nothing, "completed_at": None}
        events: list[Event] = [(f"response.{name}", {"response": begun}) for name in ("created", "in_progress")]
        for index, item in enumerate(response["output"]):
            events += [(f"response.{name}", {"output_index": index, **told}) for name, told in item_events(item)]
        events.append((f"response.{response['status']}", {"response": response}))
        numbered = enumerate(events)
        return b"".join(event_of({"type": name, **told, "sequence_number": n}, name) for n, (name, told) in numbered)


# -- the parts of streams ------------------------------------------------------------------------------------------


def new_id(prefix: str) -> str:
    return prefix + uuid.uuid4().hex


def events_of_choices(head: Json, *choices: list[Json]) -> bytes:
    return b"".join(event_of({"choices": each, **head}) for each in choices)


def block_events(block: Json) -> Iterator[Event]:
    """A block of a message: begun empty, filled in one step for each kind of text that it has, ended."""
    kinds = {"text": "text_delta", "thinking": "thinking_delta", "signature": "signature_delta"}
    begun = {name: "" if name in kinds else value for name, value in block.items()}
    if "input" in block:
        begun["input"] = {}
    yield "content_block_start", {"content_block": begun}
    if block.get("input"):
        arguments = orjson.dumps(block["input"]).decode()
        yield "content_block_delta", {"delta": {"type": "input_json_delta", "partial_json": arguments}}
    for name, kind in kinds.items():
        if block.get(name):
            yield "content_block_delta", {"delta": {"type": kind, name: block[name]}}
    yield "content_block_stop", {}


def item_events(item: Json) -> Iterator[Event]:
    """An item of a response's output, in the order in which a live one comes."""
    empty = {name: type(item[name])() for name in ("content", "arguments") if name in item}
    yield "output_item.added", {"item": {**item, **empty, "status": "in_progress"}}
    place: Json = {"item_id": item["id"]}
    if "arguments" in item:
        yield "function_call_arguments.delta", {**place, "delta": item["arguments"]}
        yield "function_call_arguments.done", {**place, "arguments": item["arguments"], "name": item["name"]}
    for index, part in enumerate(item.get("content") or ()):
        yield from part_events({**place, "content_index": index}, part)
    yield "output_item.done", {"item": item}


def part_events(place: Json, part: Json) -> Iterator[Event]:
    kind, text = part["type"], part.get("text", "")  # output_text or reasoning_text
    more: Json = {"logprobs": []} if kind == "output_text" else {}
    yield "content_part.added", {**place, "part": {**part, "text": ""}}
    if text:
        yield f"{kind}.delta", {**place, "delta": text, **more}
    yield f"{kind}.done", {**place, "text": text, **more}
    yield "content_part.done", {**place, "part": part}
