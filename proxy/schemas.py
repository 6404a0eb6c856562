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
    BIASES,
    COUNT,
    DOCUMENTS,
    FLAG,
    INPUT,
    INT32,
    INT64,
    LABEL,
    MAX_CHOICES,
    MAX_LOGPROBS,
    MAX_LOOKBACK,
    OBJECT,
    OBJECTS,
    STOP,
    STOPS,
    TEXT,
    TEXT_OR_OBJECTS,
    TOKENS,
    TOOL_CHOICE,
    TOOLS,
    UINT64,
    Fields,
    integer,
    number,
    one_of,
)
from .parts import Omissions

Rewrite = Callable[[Body, Omissions], Body]

STREAMED = MappingProxyType(
    {
        "stream": True,  # a leaving client frees its slot at once, which it does not from a whole answer
        "stream_options": {"include_usage": True},
        "timings_per_token": True,  # so that a cut answer is known to the token
        "return_progress": True,  # and a cut prompt, too
    }
)


def as_it_is(body: Body, omitted: Omissions) -> Body:  # noqa: ARG001  # a Rewrite
    return body


@dataclass(frozen=True, slots=True)
class Schema:
    """One kind of body.

    `checks` run in order once every field is of its kind, then `rewrite` spells the body for llama-server and raises
    InvalidRequest for what cannot be spelled. `refused` are fields that ask for what cannot be done without, each with
    what a caller may still say. `limits` are the names of the longest answer, the first given wins, and goes out as
    `limit`. `fixed` goes into every body that is sent. A body that runs no model has no prompt, and `prompt_bound`
    counts what was spelled.
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


# -- chat/completions and completions ------------------------------------------------------------------------------

SHARE = number(0, 1)
WEIGHT = number(0, 100)
PENALTY = number(-100, 100)
LOOKBACK = integer(-1, MAX_LOOKBACK)  # -1: as far as there is anything
TOP_K = integer(-1, INT32)  # 0 and, for some clients, -1: all
LOGPROBS = integer(0, MAX_LOGPROBS)

# The ranges are those that a sampler can make sense of, and no narrower: llama-server's clients know temperatures of 5.
SAMPLING: Fields = {
    "temperature": WEIGHT,
    "top_p": SHARE,
    "top_k": TOP_K,
    "min_p": SHARE,
    "typical_p": SHARE,
    "top_n_sigma": number(-1, 100),
    "seed": integer(-INT64 - 1, UINT64),
    "stop": STOP,
    "presence_penalty": PENALTY,
    "frequency_penalty": PENALTY,
    "repeat_penalty": number(0.01, 100),  # logits are divided by it
    "repeat_last_n": LOOKBACK,
    "dry_multiplier": WEIGHT,
    "dry_base": WEIGHT,
    "dry_allowed_length": integer(0, MAX_LOOKBACK),
    "dry_penalty_last_n": LOOKBACK,
    "xtc_probability": SHARE,
    "xtc_threshold": SHARE,
    "mirostat": integer(0, 2),
    "mirostat_tau": WEIGHT,
    "mirostat_eta": WEIGHT,
    "logit_bias": BIASES,
    "grammar": TEXT,
    "json_schema": OBJECT,
}
CHOICES = integer(1, MAX_CHOICES)
STREAMING: Fields = {"model": TEXT, "stream": FLAG, "stream_options": OBJECT}
LIMITS = ("max_completion_tokens", "max_tokens", "n_predict")
LENGTHS: Fields = dict.fromkeys(LIMITS, COUNT)

CHAT = Schema(
    fields={
        **STREAMING,
        **LENGTHS,
        **SAMPLING,
        "messages": OBJECTS,
        "n": CHOICES,
        "logprobs": FLAG,
        "top_logprobs": LOGPROBS,
        "tools": TOOLS,
        "tool_choice": TOOL_CHOICE,
        "parallel_tool_calls": FLAG,
        "response_format": OBJECT,
        "chat_template_kwargs": OBJECT,
        "reasoning_effort": LABEL,
        "reasoning_format": one_of("none", "auto", "deepseek", "deepseek-legacy"),
    },
    checks=(require("messages"), contents.check_choices),
    rewrite=contents.spell_chat,
    takes_pictures=True,
    prompt_bound=bounds.of_chat,
    limits=LIMITS,
    limit="max_tokens",
)

COMPLETION = Schema(
    fields={**STREAMING, **LENGTHS, **SAMPLING, "prompt": INPUT, "n": CHOICES, "logprobs": LOGPROBS},
    checks=(require("prompt"), contents.check_choices),
    rewrite=contents.spell_lookback,
    prompt_bound=bounds.of_prompt,
    limits=LIMITS,
    limit="max_tokens",
)

# -- responses -----------------------------------------------------------------------------------------------------

RESPONSE = Schema(
    fields={
        "model": TEXT,
        "stream": FLAG,
        "input": TEXT_OR_OBJECTS,
        "instructions": TEXT,
        "max_output_tokens": COUNT,
        "temperature": WEIGHT,
        "top_p": SHARE,
        "tools": TOOLS,
        "tool_choice": TOOL_CHOICE,
        "parallel_tool_calls": FLAG,
        "text": OBJECT,
        "reasoning": OBJECT,
    },
    checks=(require("input"),),
    rewrite=contents.spell_response,
    takes_pictures=True,
    prompt_bound=bounds.of_chat,
    refused={"previous_response_id": None, "conversation": None, "prompt": None, "background": False},
    limits=("max_output_tokens",),
    limit="max_output_tokens",
)

# -- messages ------------------------------------------------------------------------------------------------------

MESSAGE_FIELDS: Fields = {
    "model": TEXT,
    "messages": OBJECTS,
    "system": TEXT_OR_OBJECTS,
    "tools": TOOLS,
    "tool_choice": OBJECT,
    "thinking": OBJECT,
}
MESSAGE_CHECKS = (require("messages"), contents.check_thinking)

MESSAGE = Schema(
    fields={
        **MESSAGE_FIELDS,
        "stream": FLAG,
        "max_tokens": COUNT,
        "temperature": WEIGHT,
        "top_p": SHARE,
        "top_k": TOP_K,
        "stop_sequences": STOPS,
    },
    checks=MESSAGE_CHECKS,
    rewrite=contents.spell_message,
    takes_pictures=True,
    prompt_bound=bounds.of_chat,
    limits=("max_tokens",),
    limit="max_tokens",
)

# -- answered whole ------------------------------------------------------------------------------------------------

MESSAGE_COUNT = Schema(
    fields=MESSAGE_FIELDS, checks=MESSAGE_CHECKS, rewrite=contents.spell_message, takes_pictures=True, fixed={}
)

EMBEDDING = Schema(
    fields={"model": TEXT, "input": INPUT, "encoding_format": one_of("float", "base64")},
    checks=(require("input"), contents.limit_inputs("input")),
    prompt_bound=bounds.of_input,
    fixed={},
)


def spell_documents(body: Body, omitted: Omissions) -> Body:  # noqa: ARG001  # a Rewrite
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
