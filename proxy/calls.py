"""A request body, parsed once into a frozen Call. Values in, values out: no Django, no network.

llama-server takes whatever it is sent: unknown fields, `"verbose": true` that prints the prompt, limits of -1. So
the body that goes upstream is made anew from the fields that a schema names, each checked.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from .canonical import canonical
from .errors import InvalidJson, InvalidValue, RequestTooLarge, UnsupportedParameter
from .fields import Fields, inputs_of
from .parts import Omissions, text_size
from .reservations import Ask
from .schemas import Schema

REBUILT = frozenset({"model", "stream", "stream_options"})  # said anew in every body
MEDIUM = re.compile(  # OpenAI's or Anthropic's; a small one counts as text
    rb'"data(?::[\w/.+-]+;base64,|":\s*")[\w/+=-]{1024,}"'
)
HEADER_SAFE = re.compile(r"[\w.\[\]-]{1,64}", re.ASCII)
DROPPED_SHOWN = 20
NOT_STORED = "'{}' is not supported: nothing is stored here. Send all there is with each call; in SDKs, `store: false`."
TOO_DEEP = "The body is nested too deeply."


@dataclass(frozen=True, slots=True)
class Call:
    """One inference call. `model` is blank where the caller named none; `max_tokens` None where it set no limit.

    `n` answers are asked for to each of `prompts` prompts. `fields` are the caller's own, and `sent` is how they are
    spelled for llama-server: what is sent is what is counted. `dropped` names the fields that do not pass, and the
    kinds of parts, items and tools that were left out or became text.
    """

    schema: Schema
    model: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    n: int
    prompts: int
    fields: Mapping[str, Any]
    sent: Mapping[str, Any]
    dropped: tuple[str, ...]

    @classmethod
    def parse(cls, body: bytes, schema: Schema) -> "Call":
        """Parse a body. Raises InvalidJson, MissingParameter, InvalidValue or UnsupportedParameter."""
        given = {name: value for name, value in parse_object(body).items() if value is not None}
        sent = {name: value for name, value in given.items() if name in schema.fields}
        check_fields(sent, schema.fields)
        for name, harmless in schema.refused.items():
            if given.get(name, harmless) != harmless:
                raise UnsupportedParameter(NOT_STORED.format(name), param=name)
        for check in schema.checks:
            check(sent)
        limits = [sent[name] for name in schema.limits if name in sent]
        fields = {name: value for name, value in sent.items() if name not in REBUILT and name not in schema.limits}
        omitted = Omissions()
        spelled = schema.rewrite(fields, omitted)
        return cls(
            schema=schema,
            model=sent.get("model", ""),
            stream=sent.get("stream", False),
            include_usage=(sent.get("stream_options") or {}).get("include_usage") is True,
            max_tokens=limits[0] if limits else None,
            n=sent.get("n", 1),
            prompts=len(inputs_of(sent.get("prompt"))),
            fields=fields,
            sent=spelled,
            dropped=(*(name for name in given if name not in schema.fields), *omitted.told()),
        )

    @property
    def dropped_names(self) -> str:
        """The dropped fields and kinds, as a header may tell them."""
        return ", ".join([name for name in self.dropped if HEADER_SAFE.fullmatch(name)][:DROPPED_SHOWN])

    @property
    def choices(self) -> int:
        return self.n * self.prompts

    def check_text(self, limit: int) -> None:
        """Raise RequestTooLarge where what only looked like pictures is too much text."""
        check_size(text_size(self.sent), limit)

    def ask(self, max_output_tokens: int | None, context: int | None = None) -> Ask:
        """The tokens that the call may use, its answers no longer than the caller, its tier and a context allow.

        Raises InvalidValue where the body is nested too deeply to be counted.
        """
        try:
            prompt = self.schema.prompt_bound(self.sent)
        except RecursionError as exc:
            raise InvalidValue(TOO_DEEP) from exc
        if not self.schema.limit:
            return Ask(prompt)
        told = [limit for limit in (self.max_tokens, max_output_tokens) if limit is not None]
        limits = [*told, context] if told and context else told
        return Ask(prompt, self.choices, min(limits, default=None))

    def body(self, model: str) -> bytes:
        """The body to send upstream, in its one spelling; `limited` sets how long its answer may be.

        Raises InvalidValue where it is nested too deeply to be written.
        """
        body = {**self.sent, **self.schema.fixed}
        if self.schema.names_model:
            body["model"] = model
        try:
            return orjson.dumps(canonical(body))
        except orjson.JSONEncodeError as exc:
            raise InvalidValue(TOO_DEEP) from exc


def limited(body: bytes, schema: Schema, length: int | None) -> bytes:
    """A body whose answers may have so many tokens. None: as many as the model makes."""
    return body if length is None else body[:-1] + f',"{schema.limit}":{length}}}'.encode()


def check_text(body: bytes, schema: Schema, limit: int) -> None:
    """Raise RequestTooLarge where a body without its pictures is larger than the limit. Costs no parsing."""
    if len(body) <= limit:
        return
    media = MEDIUM.finditer(body) if schema.takes_pictures else ()
    check_size(len(body) - sum(len(each.group()) for each in media), limit)


def check_size(text: int, limit: int) -> None:
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


def check_fields(sent: dict[str, Any], known: Fields) -> None:
    """Raise InvalidValue for a field of another kind. Integers that are written as floats become integers."""
    for name, value in sent.items():
        kind = known[name]
        if not kind.check(value):
            raise InvalidValue(f"'{name}' must be {kind.expected}.", param=name)
        if isinstance(value, float) and kind.shape.get("type") == "integer":
            sent[name] = int(value)
