"""The kinds of values that a body's fields hold: a check, how an error names it, its JSON Schema. Pure."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Check = Callable[[Any], bool]

MAX_CHOICES = 8  # answers to one call: `n` times its prompts
MAX_INPUTS = 2048  # texts in one call for embeddings or a ranking
MAX_STOPS = 64
MAX_LOGPROBS = 20  # tokens told of at each place of an answer; OpenAI's limit
MAX_LOOKBACK = 131_072  # tokens that a penalty looks back; a llama-server allocates memory for each of them
MAX_BIASES = 4096  # tokens in one `logit_bias`
MAX_BIAS = 1000
MAX_LABEL = 64  # characters of a word that a chat template prints
INT32, INT64, UINT64 = 2**31 - 1, 2**63 - 1, 2**64 - 1


class Kind(NamedTuple):
    """A kind of value. `shape` is its JSON Schema, which allows at least what `check` does."""

    check: Check
    expected: str
    shape: dict[str, Any]


Fields = Mapping[str, Kind]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """Also of one that is written as a float, as some clients do: 8.0."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INT32


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_label(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_LABEL


def is_tool_list(value: Any) -> bool:
    """Objects; some clients leave a null where they took one out."""
    return isinstance(value, list) and all(item is None or isinstance(item, dict) for item in value)


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def is_object(value: Any) -> bool:
    return isinstance(value, dict)


def is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(is_size(item) for item in value)


def is_stop(value: Any) -> bool:
    return is_text(value) or (is_list_of_texts(value) and len(value) <= MAX_STOPS)


def is_text_or_objects(value: Any) -> bool:
    return is_text(value) or is_list_of_objects(value)


def is_input(value: Any) -> bool:
    """One text or prompt of token ids, or a list of either."""
    if isinstance(value, list):
        return bool(value) and (is_tokens(value) or all(is_text(item) or (is_tokens(item) and item) for item in value))
    return is_text(value)


def is_documents(value: Any) -> bool:
    """Texts, or objects that hold one as `text`."""
    if not isinstance(value, list) or not value:
        return False
    return all(is_text(item.get("text") if isinstance(item, dict) else item) for item in value)


def is_biases(value: Any) -> bool:
    """Tokens, each with a number that is added to its logit, or false: llama-server's word for never."""
    if not isinstance(value, dict) or len(value) > MAX_BIASES:
        return False
    return all(bias is False or (is_number(bias) and -MAX_BIAS <= bias <= MAX_BIAS) for bias in value.values())


def one_of(*words: str) -> Kind:
    return Kind(lambda value: value in words, "one of " + ", ".join(words), {"type": "string", "enum": list(words)})


def number(least: float, most: float) -> Kind:
    """A number of a range, its ends included."""
    shape = {"type": "number", "minimum": least, "maximum": most}
    return Kind(lambda value: is_number(value) and least <= value <= most, f"a number from {least} to {most}", shape)


def integer(least: int, most: int) -> Kind:
    """A whole number of a range, its ends included."""
    shape = {"type": "integer", "minimum": least, "maximum": most}
    return Kind(lambda value: is_integer(value) and least <= value <= most, f"an integer from {least} to {most}", shape)


def inputs_of(value: Any) -> list[Any]:
    """The single texts or prompts of a field that `is_input`."""
    return value if isinstance(value, list) and not is_tokens(value) else [value]


ANY_OBJECT = {"type": "object", "additionalProperties": True}
STRING = {"type": "string"}

COUNT = integer(1, INT32)
TEXT = Kind(is_text, "a string", STRING)
LABEL = Kind(is_label, f"a string of up to {MAX_LABEL} characters", {**STRING, "maxLength": MAX_LABEL})
FLAG = Kind(is_flag, "true or false", {"type": "boolean"})
OBJECT = Kind(is_object, "an object", ANY_OBJECT)
OBJECTS = Kind(is_list_of_objects, "an array of objects", {"type": "array", "items": ANY_OBJECT})
TOOLS = Kind(is_tool_list, "an array of objects", {"type": "array", "items": {**ANY_OBJECT, "nullable": True}})
STOP = Kind(
    is_stop,
    f"a string or an array of up to {MAX_STOPS} strings",
    {"oneOf": [STRING, {"type": "array", "items": STRING, "maxItems": MAX_STOPS}]},
)
STOPS = Kind(
    lambda value: isinstance(value, list) and is_stop(value),
    f"an array of up to {MAX_STOPS} strings",
    {"type": "array", "items": STRING, "maxItems": MAX_STOPS},
)
TEXT_OR_OBJECTS = Kind(
    is_text_or_objects,
    "a string or an array of objects",
    {"oneOf": [STRING, {"type": "array", "items": {"type": "object"}}]},
)
INPUT = Kind(
    is_input,
    "a string, an array of token ids, or an array of either that is not empty",
    {"oneOf": [STRING, {"type": "array", "items": {}, "minItems": 1}]},
)
DOCUMENTS = Kind(is_documents, "an array of strings that is not empty", {"type": "array", "items": {}, "minItems": 1})
TOKENS = Kind(is_tokens, "an array of token ids", {"type": "array", "items": {"type": "integer"}})
TOOL_CHOICE = Kind(
    lambda value: is_object(value) or value in ("none", "auto", "required"),
    '"none", "auto", "required" or an object',
    {"oneOf": [{"type": "string", "enum": ["none", "auto", "required"]}, {"type": "object"}]},
)
BIASES = Kind(
    is_biases,
    f"an object of up to {MAX_BIASES} numbers from -{MAX_BIAS} to {MAX_BIAS}, or false, each under its token",
    {
        "type": "object",
        "maxProperties": MAX_BIASES,
        "additionalProperties": {
            "oneOf": [{"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS}, {"type": "boolean"}]
        },
    },
)
