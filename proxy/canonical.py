"""A request in its one spelling, so that what means the same to a llama-server is sent as the same bytes. Pure.

Only what is outermost is touched: the order of names inside of a tool or a JSON schema reaches the model.
"""

from typing import Any

EXACT = 2**53  # up to here a whole float and an integer are the same
LISTS = frozenset({"stop"})  # a text alone stands for a list of one
TAKEN_FOR_GRANTED: dict[str, Any] = {  # what a llama-server does anyway, whatever its command line says
    "n": 1,
    "logprobs": False,
    "stop": [],
    "stop_sequences": [],
    "tools": [],
    "logit_bias": {},
    "response_format": {"type": "text"},
}


def canonical(body: dict[str, Any]) -> dict[str, Any]:
    """The body with its names in order, whole numbers as integers, and nothing said that goes without saying."""
    spelled = {name: spelling(name, body[name]) for name in sorted(body)}
    for name in TAKEN_FOR_GRANTED.keys() & spelled.keys():
        if spelled[name] == TAKEN_FOR_GRANTED[name]:
            del spelled[name]
    return spelled


def spelling(name: str, value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return int(value)
    if name in LISTS and isinstance(value, str):
        return [value]
    return value
