"""How many tokens a prompt has at most, without the model that knows. Pure.

No text has more tokens than bytes in UTF-8: the vocabularies of llama.cpp's models fall back on single bytes. What a
chat template puts around it is allowed for. tests/proxy/test_bounds.py holds this against a real llama-server.
"""

from typing import Any

from .contents import MEDIA, Body
from .fields import inputs_of

PER_ENTRY = 8  # tokens around a message, a part, or a property of a tool
PER_CALL = 128  # tokens of a template's own: a system prompt where there is none, a date
PER_TOOLS = 512  # tokens that say how tools are to be called
PER_MEDIUM = 4096  # tokens of a picture or a sound
PER_TEXT = 4  # tokens around a text that stands alone
NUMBER_SIZE = 24  # bytes of a number

IN_PROMPT = (
    *("messages", "input", "system", "instructions", "tools"),
    *("response_format", "json_schema", "text", "chat_template_kwargs"),  # some templates show them to the model
)


def of_chat(body: Body) -> int:
    """Of a chat, a response or a message."""
    own = PER_CALL + (PER_TOOLS if body.get("tools") else 0)
    return own + sum(of_value(body[name]) for name in IN_PROMPT if name in body)


def of_value(value: Any) -> int:
    """Of a value that becomes a part of a prompt."""
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    if isinstance(value, dict):
        if value.get("type") in MEDIA:
            return PER_MEDIUM
        return PER_ENTRY + sum(PER_ENTRY + of_value(name) + of_value(each) for name, each in value.items())
    if isinstance(value, list):
        return sum(map(of_value, value))
    return NUMBER_SIZE


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
