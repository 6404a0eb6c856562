"""What the body of each endpoint may hold, what is checked in it, and how it is spelled for llama-server. Pure.

A field that is not named here does not pass. A new endpoint starts with its Schema.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from . import bounds, contents
from .contents import Body, require
from .fields import (
    COUNT,
    DOCUMENTS,
    FLAG,
    INPUT,
    INTEGER,
    NUMBER,
    OBJECT,
    OBJECTS,
    STOP,
    STOPS,
    TEXT,
    TEXT_OR_OBJECTS,
    TOKENS,
    TOOL_CHOICE,
    Fields,
    one_of,
)

Rewrite = Callable[[Body], Body]

STREAMED = MappingProxyType(
    {
        "stream": True,  # a leaving client frees its slot at once, which it does not from a whole answer
        "stream_options": {"include_usage": True},
        "timings_per_token": True,  # so that a cut answer is known to the token
        "return_progress": True,  # and a cut prompt, too
    }
)


def as_it_is(body: Body) -> Body:
    return body


@dataclass(frozen=True, slots=True)
class Schema:
    """One kind of body.

    `checks` run in order once every field is of its kind. `refused` are fields that ask for what cannot be done
    without, each with what a caller may still say. `limits` are the names of the longest answer, the first given
    wins, and goes out as `limit`. `fixed` goes into every body that is sent. A body that runs no model has no prompt.
    """

    fields: Fields
    checks: tuple[Callable[[Body], None], ...]
    rewrite: Rewrite = as_it_is
    refused: Mapping[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    limit: str = ""
    fixed: Mapping[str, Any] = field(default_factory=lambda: STREAMED)
    takes_pictures: bool = False  # or sounds: they do not count as text
    names_model: bool = True  # llama-server's own tokenize knows no models
    prompt_bound: Callable[[bounds.Body], int] = bounds.nothing  # tokens of the prompt, at most


def only(names: tuple[str, ...], messages: list[Body]) -> list[Body]:
    """Messages of these fields."""
    return [{name: message[name] for name in names if name in message} for message in messages]


# -- chat/completions and completions ------------------------------------------------------------------------------

SAMPLING: Fields = {
    "temperature": NUMBER,
    "top_p": NUMBER,
    "top_k": INTEGER,
    "min_p": NUMBER,
    "typical_p": NUMBER,
    "top_n_sigma": NUMBER,
    "seed": INTEGER,
    "stop": STOP,
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    "repeat_penalty": NUMBER,
    "repeat_last_n": INTEGER,
    "dry_multiplier": NUMBER,
    "dry_base": NUMBER,
    "dry_allowed_length": INTEGER,
    "dry_penalty_last_n": INTEGER,
    "xtc_probability": NUMBER,
    "xtc_threshold": NUMBER,
    "mirostat": INTEGER,
    "mirostat_tau": NUMBER,
    "mirostat_eta": NUMBER,
    "logit_bias": OBJECT,
    "grammar": TEXT,
    "json_schema": OBJECT,
}
STREAMING: Fields = {"model": TEXT, "stream": FLAG, "stream_options": OBJECT}
LIMITS = ("max_completion_tokens", "max_tokens", "n_predict")
LENGTHS: Fields = dict.fromkeys(LIMITS, COUNT)

MESSAGE_NAMES = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")


def spell_chat(body: Body) -> Body:
    return {**body, "messages": only(MESSAGE_NAMES, body["messages"])}


CHAT = Schema(
    fields={
        **STREAMING,
        **LENGTHS,
        **SAMPLING,
        "messages": OBJECTS,
        "n": COUNT,
        "logprobs": FLAG,
        "top_logprobs": INTEGER,
        "tools": OBJECTS,
        "tool_choice": TOOL_CHOICE,
        "parallel_tool_calls": FLAG,
        "response_format": OBJECT,
        "chat_template_kwargs": OBJECT,
        "reasoning_effort": TEXT,
        "reasoning_format": one_of("none", "auto", "deepseek", "deepseek-legacy"),
    },
    checks=(require("messages"), contents.check_messages, contents.check_tools, contents.check_choices),
    rewrite=spell_chat,
    takes_pictures=True,
    prompt_bound=bounds.of_chat,
    limits=LIMITS,
    limit="max_tokens",
)

COMPLETION = Schema(
    fields={**STREAMING, **LENGTHS, **SAMPLING, "prompt": INPUT, "n": COUNT, "logprobs": INTEGER},
    checks=(require("prompt"), contents.check_choices),
    prompt_bound=bounds.of_prompt,
    limits=LIMITS,
    limit="max_tokens",
)

# -- responses -----------------------------------------------------------------------------------------------------


def spell_response(body: Body) -> Body:
    """OpenAI's spelling, where llama-server reads only the chat's, or only one of several."""
    sent = {name: value for name, value in body.items() if name not in ("text", "reasoning")}
    if isinstance(sent["input"], list):
        sent["input"] = [spell_item(item) for item in sent["input"] if item.get("type") != "reasoning"]
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") == "json_schema":
        schema = {name: form[name] for name in ("name", "schema", "strict") if name in form}
        sent["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form.get("type") == "json_object":
        sent["response_format"] = {"type": "json_object"}
    if effort := (body.get("reasoning") or {}).get("effort"):
        sent["reasoning_effort"] = effort
    choice = sent.get("tool_choice")
    if isinstance(choice, dict) and choice.get("name"):
        sent["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    return sent


ITEM_FIELDS = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
}


def spell_item(item: Body) -> Body:
    """An item of no more than its kind has: llama-server goes by what it finds in one, and not by its type.

    It wants an assistant's message with its type said, and the text as a part of output.
    """
    kind = item.get("type") or "message"
    item = {name: item[name] for name in ITEM_FIELDS[kind] if name in item}
    if item.get("role") != "assistant":
        return {**item, "type": kind}
    content = item["content"]
    parts = [{"text": content}] if isinstance(content, str) else content
    return {**item, "type": "message", "content": [{**part, "type": "output_text"} for part in parts]}


RESPONSE = Schema(
    fields={
        "model": TEXT,
        "stream": FLAG,
        "input": TEXT_OR_OBJECTS,
        "instructions": TEXT,
        "max_output_tokens": COUNT,
        "temperature": NUMBER,
        "top_p": NUMBER,
        "tools": OBJECTS,
        "tool_choice": TOOL_CHOICE,
        "parallel_tool_calls": FLAG,
        "text": OBJECT,
        "reasoning": OBJECT,
    },
    checks=(require("input"), contents.check_items, contents.check_named_tools, contents.check_response_options),
    rewrite=spell_response,
    takes_pictures=True,
    prompt_bound=bounds.of_chat,
    refused={"previous_response_id": None, "conversation": None, "prompt": None, "background": False},
    limits=("max_output_tokens",),
    limit="max_output_tokens",
)

# -- messages ------------------------------------------------------------------------------------------------------


def spell_message(body: Body) -> Body:
    """`tool_choice: none` is unknown to llama-server, which would offer the tools all the same."""
    body = {**body, "messages": only(("role", "content"), body["messages"])}
    if body.get("tool_choice", {}).get("type") == "none":
        return {name: value for name, value in body.items() if name not in ("tools", "tool_choice")}
    return body


MESSAGE_FIELDS: Fields = {
    "model": TEXT,
    "messages": OBJECTS,
    "system": TEXT_OR_OBJECTS,
    "tools": OBJECTS,
    "tool_choice": OBJECT,
    "thinking": OBJECT,
}
MESSAGE_CHECKS = (require("messages"), contents.check_anthropic_messages, contents.check_named_tools)

MESSAGE = Schema(
    fields={
        **MESSAGE_FIELDS,
        "stream": FLAG,
        "max_tokens": COUNT,
        "temperature": NUMBER,
        "top_p": NUMBER,
        "top_k": INTEGER,
        "stop_sequences": STOPS,
    },
    checks=MESSAGE_CHECKS,
    rewrite=spell_message,
    takes_pictures=True,
    prompt_bound=bounds.of_chat,
    limits=("max_tokens",),
    limit="max_tokens",
)

# -- answered whole ------------------------------------------------------------------------------------------------

MESSAGE_COUNT = Schema(
    fields=MESSAGE_FIELDS, checks=MESSAGE_CHECKS, rewrite=spell_message, takes_pictures=True, fixed={}
)

EMBEDDING = Schema(
    fields={"model": TEXT, "input": INPUT, "encoding_format": one_of("float", "base64")},
    checks=(require("input"), contents.limit_inputs("input")),
    prompt_bound=bounds.of_input,
    fixed={},
)


def spell_documents(body: Body) -> Body:
    texts = [each["text"] if isinstance(each, dict) else each for each in body["documents"]]
    return {**body, "documents": texts}


RERANK = Schema(
    fields={"model": TEXT, "query": TEXT, "documents": DOCUMENTS, "top_n": COUNT},
    checks=(require("query"), require("documents"), contents.limit_inputs("documents")),
    rewrite=spell_documents,
    prompt_bound=bounds.of_ranking,
    fixed={},
)

TOKENIZE = Schema(
    fields={"model": TEXT, "content": TEXT, "add_special": FLAG, "parse_special": FLAG, "with_pieces": FLAG},
    checks=(require("content"),),
    fixed={},
    names_model=False,
)

DETOKENIZE = Schema(fields={"model": TEXT, "tokens": TOKENS}, checks=(require("tokens"),), fixed={}, names_model=False)
