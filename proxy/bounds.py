"""How many tokens a prompt has at most, without the model that knows. Pure.

No text has more tokens than bytes in UTF-8: the vocabularies of llama.cpp's models fall back on single bytes. What a
chat template puts around it is allowed for. tests/proxy/test_bounds.py holds this against a real llama-server.
"""

import json
from collections.abc import Mapping
from typing import Any

from .fields import inputs_of
from .parts import media, size_of

PER_ENTRY = 8  # tokens around a message, a part, or a property of a tool
PER_CALL = 128  # tokens of a template's own: a system prompt where there is none, a date
PER_TOOLS = 512  # tokens that say how tools are to be called
PER_MEDIUM = 4096  # tokens of a picture or a sound
PER_TEXT = 4  # tokens around a text that stands alone
NUMBER_SIZE = 24  # bytes of a number

Body = Mapping[str, Any]

HTML_SIGNS = "<>&'"  # written as \\u003c and the like by some templates
ESCAPE_SIZE = 5  # bytes that such a sign grows by

SAID = ("messages", "input", "system", "instructions", "reasoning_effort")
WRITTEN = ("tools", "response_format", "json_schema", "chat_template_kwargs")  # shown to the model by some
WRITTEN_PARTS = ("tool_calls", "arguments")


def of_chat(body: Body) -> int:
    """Of a chat, a response or a message, as it is spelled for llama-server."""
    own = PER_CALL + (PER_TOOLS if body.get("tools") else 0)
    said = sum(of_value(body[name]) for name in SAID if name in body)
    for data in media(body):
        said += PER_MEDIUM - size_of(data)
    return own + said + sum(of_json(body[name]) for name in WRITTEN if name in body)


def of_value(value: Any) -> int:
    """Of messages, their parts and texts."""
    if isinstance(value, str):
        return size_of(value)
    if isinstance(value, dict):
        parts = (of_json(each) if is_written(name, each) else of_value(each) for name, each in value.items())
        return PER_ENTRY + sum(PER_ENTRY + len(name) for name in value) + sum(parts)
    if isinstance(value, list):
        return sum(map(of_value, value))
    return NUMBER_SIZE


def is_written(name: str, part: Any) -> bool:
    """Whether a template writes a part of a message as JSON: a call of a tool."""
    return name in WRITTEN_PARTS or (name == "input" and isinstance(part, dict))


def of_json(value: Any) -> int:
    """Of what a template writes as JSON: its escapes are longer than the text, and it may be indented."""
    text = json.dumps(value)
    escaped = sum(text.count(sign) for sign in HTML_SIGNS)
    return len(text) + ESCAPE_SIZE * escaped + PER_ENTRY * (text.count(",") + text.count("{") + text.count("["))


def of_prompt(body: Body) -> int:
    return of_texts(body["prompt"])


def of_input(body: Body) -> int:
    return of_texts(body["input"])


def of_texts(given: Any) -> int:
    """Of texts that stand alone, or that are tokens already."""
    return sum(PER_TEXT + (len(each) if isinstance(each, list) else of_value(each)) for each in inputs_of(given))


def of_ranking(body: Body) -> int:
    """Each document is read with the query."""
    query = PER_TEXT + of_value(body["query"])
    return sum(query + PER_TEXT + of_value(each) for each in body["documents"])


def nothing(_: Body) -> int:
    """Of what runs no model."""
    return 0
