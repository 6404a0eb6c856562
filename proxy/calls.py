"""A request body, parsed once into a frozen Call. Values in, values out: no Django, no network.

llama-server takes whatever it is sent: unknown fields, `"verbose": true` that prints the prompt, limits of -1. So
the body that goes upstream is made anew from the fields that are named here, each checked.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson

from .errors import InvalidJson, InvalidValue, MissingParameter, RequestTooLarge

Check = Callable[[Any], bool]

REASONING_FORMATS = ("none", "auto", "deepseek", "deepseek-legacy")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def is_object(value: Any) -> bool:
    return isinstance(value, dict)


def is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def is_stop(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def is_tool_choice(value: Any) -> bool:
    return isinstance(value, dict) or value in ("none", "auto", "required")


def is_reasoning_format(value: Any) -> bool:
    return value in REASONING_FORMATS


NUMBER = (is_number, "a number")
COUNT = (is_count, "an integer of 1 or more")
INTEGER = (is_integer, "an integer")
TEXT = (is_text, "a string")
FLAG = (is_flag, "true or false")
OBJECT = (is_object, "an object")
OBJECTS = (is_list_of_objects, "an array of objects")

CHAT_FIELDS: Mapping[str, tuple[Check, str]] = MappingProxyType(
    {
        "messages": OBJECTS,
        "model": TEXT,
        "stream": FLAG,
        "stream_options": OBJECT,
        "max_tokens": COUNT,
        "max_completion_tokens": COUNT,
        "n": COUNT,
        "temperature": NUMBER,
        "top_p": NUMBER,
        "top_k": INTEGER,
        "min_p": NUMBER,
        "typical_p": NUMBER,
        "seed": INTEGER,
        "stop": (is_stop, "a string or an array of strings"),
        "presence_penalty": NUMBER,
        "frequency_penalty": NUMBER,
        "repeat_penalty": NUMBER,
        "repeat_last_n": INTEGER,
        "logit_bias": OBJECT,
        "logprobs": FLAG,
        "top_logprobs": INTEGER,
        "tools": OBJECTS,
        "tool_choice": (is_tool_choice, '"none", "auto", "required" or an object'),
        "parallel_tool_calls": FLAG,
        "response_format": OBJECT,
        "json_schema": OBJECT,
        "grammar": TEXT,
        "chat_template_kwargs": OBJECT,
        "reasoning_effort": TEXT,
        "reasoning_format": (is_reasoning_format, "one of " + ", ".join(REASONING_FORMATS)),
    }
)
REBUILT = frozenset({"model", "stream", "stream_options", "max_tokens", "max_completion_tokens"})
DATA_URL = "data:"
IMAGE = re.compile(rb'"data:[^"]{1024,}"')  # smaller ones may count as text


@dataclass(frozen=True, slots=True)
class Call:
    """One inference call. `model` is blank where the caller named none; `max_tokens` None where it set no limit."""

    model: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    fields: Mapping[str, Any]

    @classmethod
    def parse_chat(cls, body: bytes) -> "Call":
        """Parse the body of a chat completion. Raises InvalidJson, MissingParameter or InvalidValue."""
        sent = parse_object(body)
        check_fields(sent, CHAT_FIELDS)
        check_messages(sent)
        check_tools(sent)
        options = sent.get("stream_options") or {}
        return cls(
            model=sent.get("model") or "",
            stream=sent.get("stream") or False,
            include_usage=options.get("include_usage") is True,
            max_tokens=sent.get("max_completion_tokens") or sent.get("max_tokens"),
            fields={name: sent[name] for name in CHAT_FIELDS.keys() & sent.keys() - REBUILT if sent[name] is not None},
        )

    def body(self, model: str, max_output_tokens: int | None) -> bytes:
        """The body to send upstream: always a stream with usage, so that a leaving client frees its slot.

        Raises InvalidValue where it is nested too deeply to be written.
        """
        limits = [limit for limit in (self.max_tokens, max_output_tokens) if limit is not None]
        body = {**self.fields, "model": model, "stream": True, "stream_options": {"include_usage": True}}
        if limits:
            body["max_tokens"] = min(limits)
        try:
            return orjson.dumps(body)
        except orjson.JSONEncodeError as exc:
            raise InvalidValue("The body is nested too deeply.") from exc


def check_text(body: bytes, limit: int) -> None:
    """Raise RequestTooLarge where the body without its images is larger than the limit. Costs no parsing."""
    text = len(body) - sum(len(image.group()) for image in IMAGE.finditer(body))
    if text > limit:
        raise RequestTooLarge(f"The body holds {text} bytes of text, and {limit} is the most.")


def parse_object(body: bytes) -> dict[str, Any]:
    try:
        sent = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidJson(f"The body is not valid JSON: {exc}.") from exc
    if not isinstance(sent, dict):
        raise InvalidJson("The body must be a JSON object.")
    return sent


def check_fields(sent: dict[str, Any], known: Mapping[str, tuple[Check, str]]) -> None:
    for name in known.keys() & sent.keys():
        check, expected = known[name]
        if sent[name] is not None and not check(sent[name]):
            raise InvalidValue(f"'{name}' must be {expected}.", param=name)


def check_messages(sent: dict[str, Any]) -> None:
    messages = sent.get("messages")
    if messages is None:
        raise MissingParameter("'messages' is required.", param="messages")
    if not messages:
        raise InvalidValue("'messages' must hold at least one message.", param="messages")
    for place, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise InvalidValue("Every message needs a 'role', as a string.", param=f"messages[{place}].role")
        check_content(message.get("content"), f"messages[{place}].content")


def check_content(content: Any, param: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not is_list_of_objects(content):
        raise InvalidValue("'content' must be a string or an array of parts.", param=param)
    for part in content:
        if not isinstance(part.get("type"), str):
            raise InvalidValue("Every part of 'content' needs a 'type'.", param=param)
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise InvalidValue("A part of type 'text' needs a 'text'.", param=param)
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if url is not None and not str(url).startswith(DATA_URL):
            raise InvalidValue("Images are taken as data: URLs only; the gateway fetches nothing.", param=param)


def check_tools(sent: dict[str, Any]) -> None:
    for place, tool in enumerate(sent.get("tools") or ()):
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidValue("Every tool needs a 'function' with a 'name'.", param=f"tools[{place}].function")
