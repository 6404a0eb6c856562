"""Models as /v1/models tells of them: in OpenAI's shape and in Anthropic's, a page at a time. Pure.

Neither says where the context stands in OpenAI's shape, so that each server has a name of its own for it, and clients
look for those: OpenRouter's and LM Studio's `context_length`, vLLM's `max_model_len`, Groq's `context_window`,
llama-server's `meta.n_ctx`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .errors import InvalidValue

CREATED = 1_704_067_200  # 2024-01-01, of every model: no llama-server knows when its model was made
CREATED_AT = "2024-01-01T00:00:00Z"
PAGE, LARGEST_PAGE = 20, 1000  # models, as Anthropic has it


def openai(name: str, context: int | None) -> dict[str, Any]:
    told: dict[str, Any] = {"id": name, "object": "model", "created": CREATED, "owned_by": "llama.cpp"}
    if context is not None:
        told |= {"context_length": context, "max_model_len": context, "context_window": context}
        told["meta"] = {"n_ctx": context}
    return told


def anthropic(name: str, context: int | None, longest_answer: int | None) -> dict[str, Any]:
    """`longest_answer`, in tokens, is what the tier allows; no answer is longer than the context."""
    told: dict[str, Any] = {"type": "model", "id": name, "display_name": name, "created_at": CREATED_AT}
    told["lifecycle"] = "active"
    if context is not None:
        told |= {"max_input_tokens": context, "max_tokens": min(context, longest_answer or context)}
    return told


class Page(NamedTuple):
    """A part of the list, in Anthropic's way: `limit` models after or before the one with that id."""

    limit: int
    after_id: str
    before_id: str

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> "Page":
        """Raise InvalidValue for a limit that is no positive whole number, or where both ids are given."""
        limit = query.get("limit", str(PAGE))
        if not (limit.isascii() and limit.isdecimal() and len(limit) < 10 and int(limit) > 0):
            raise InvalidValue("'limit' must be a whole number from 1 on.", param="limit")
        page = cls(min(int(limit), LARGEST_PAGE), query.get("after_id", ""), query.get("before_id", ""))
        if page.after_id and page.before_id:
            raise InvalidValue("Give 'after_id' or 'before_id', but not both.", param="before_id")
        return page

    def of(self, models: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The answer that holds this part of all models. Raise InvalidValue for an id that none of them has."""
        if self.before_id:
            before = models[: self._place(models, "before_id", self.before_id)]
            data, has_more = before[-self.limit :], len(before) > self.limit
        else:
            after = models[self._place(models, "after_id", self.after_id) + 1 :] if self.after_id else models
            data, has_more = after[: self.limit], len(after) > self.limit
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return {"data": list(data), "has_more": has_more, "first_id": first, "last_id": last}

    @staticmethod
    def _place(models: Sequence[dict[str, Any]], param: str, name: str) -> int:
        for place, model in enumerate(models):
            if model["id"] == name:
                return place
        raise InvalidValue(f"'{param}' names no model of this list.", param=param)
