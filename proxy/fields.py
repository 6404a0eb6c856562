"""The kinds of values that a body's fields hold: a check, and how an error names what was expected. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]
Kind = tuple[Check, str]
Fields = Mapping[str, Kind]

MAX_CHOICES = 8  # answers to one call: `n` times its prompts
MAX_INPUTS = 2048  # texts in one call for embeddings or a ranking
MAX_STOPS = 64


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    return is_integer(value) and 1 <= value < 2**31


def is_size(value: Any) -> bool:
    return is_integer(value) and 0 <= value < 2**31


def is_text(value: Any) -> bool:
    return isinstance(value, str)


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


def one_of(*words: str) -> Kind:
    return (lambda value: value in words), "one of " + ", ".join(words)


def inputs_of(value: Any) -> list[Any]:
    """The single texts or prompts of a field that `is_input`."""
    return value if isinstance(value, list) and not is_tokens(value) else [value]


NUMBER: Kind = (is_number, "a number")
COUNT: Kind = (is_count, "an integer of 1 or more")
INTEGER: Kind = (is_integer, "an integer")
TEXT: Kind = (is_text, "a string")
FLAG: Kind = (is_flag, "true or false")
OBJECT: Kind = (is_object, "an object")
OBJECTS: Kind = (is_list_of_objects, "an array of objects")
STOP: Kind = (is_stop, f"a string or an array of up to {MAX_STOPS} strings")
STOPS: Kind = (lambda value: isinstance(value, list) and is_stop(value), f"an array of up to {MAX_STOPS} strings")
TEXT_OR_OBJECTS: Kind = (is_text_or_objects, "a string or an array of objects")
INPUT: Kind = (is_input, "a string, an array of token ids, or an array of either that is not empty")
DOCUMENTS: Kind = (is_documents, "an array of strings that is not empty")
TOKENS: Kind = (is_tokens, "an array of token ids")
TOOL_CHOICE: Kind = (
    lambda value: is_object(value) or value in ("none", "auto", "required"),
    '"none", "auto", "required" or an object',
)
