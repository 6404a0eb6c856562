"""The chunks of a stream with choices, folded into the one answer that a caller without `stream` expects. Pure."""

from abc import ABC, abstractmethod
from typing import Any

HEAD = ("id", "created", "model", "system_fingerprint")

Choice = dict[str, Any]


class Fold(ABC):
    """Takes chunks in order; `answer` is the completion, but for its usage."""

    object: str

    def __init__(self) -> None:
        self.head: dict[str, Any] = {}
        self.choices: dict[int, Choice] = {}

    def add(self, chunk: dict[str, Any]) -> None:
        if not self.head:
            self.head = {name: chunk[name] for name in HEAD if name in chunk}
        for part in chunk["choices"]:
            index = part["index"]
            choice = self.choices.get(index)
            if choice is None:
                choice = self.choices[index] = {"index": index, **self.fresh(), "finish_reason": None}
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
            add_logprobs(choice, part.get("logprobs") or {})
            self.add_part(choice, part)

    @abstractmethod
    def fresh(self) -> Choice:
        """A choice of which nothing has come yet."""

    @abstractmethod
    def add_part(self, choice: Choice, part: dict[str, Any]) -> None:
        """What a chunk adds to the text of its choice."""

    def complete(self, choice: Choice) -> Choice:
        """A choice as it is when all of it has come."""
        return choice

    @property
    def finished(self) -> int:
        """How many choices have come to their end."""
        return sum(choice["finish_reason"] is not None for choice in self.choices.values())

    @property
    def answer(self) -> dict[str, Any]:
        choices = [self.complete(self.choices[index]) for index in sorted(self.choices)]
        return {**self.head, "object": self.object, "choices": choices}


class TextFold(Fold):
    object = "text_completion"

    def fresh(self) -> Choice:
        return {"text": "", "logprobs": None}

    def add_part(self, choice: Choice, part: dict[str, Any]) -> None:
        choice["text"] += part.get("text") or ""


class ChatFold(Fold):
    """Text, reasoning and tool calls."""

    object = "chat.completion"

    def fresh(self) -> Choice:
        return {"message": {"role": "assistant", "content": None}}

    def add_part(self, choice: Choice, part: dict[str, Any]) -> None:
        add_delta(choice["message"], part.get("delta", {}))

    def complete(self, choice: Choice) -> Choice:
        """An empty answer is an empty text; where tools are called there may be none."""
        message = choice["message"]
        if message["content"] is None and "tool_calls" not in message:
            message["content"] = ""
        return choice


def add_logprobs(choice: Choice, logprobs: dict[str, Any]) -> None:
    for name, tokens in logprobs.items():
        if tokens:
            choice["logprobs"] = choice.get("logprobs") or {}
            choice["logprobs"].setdefault(name, []).extend(tokens)


def add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            for call in value:
                add_tool_call(message.setdefault("tool_calls", []), call)
        elif name == "role":
            message["role"] = value
        elif isinstance(value, str):
            message[name] = (message.get(name) or "") + value


def add_tool_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    """A tool call comes in parts of one index: the first names it, the others carry on its arguments."""
    index = part.get("index", 0)
    if not 0 <= index <= len(calls):
        raise IndexError(f"Tool call {index} comes after {len(calls)} others.")
    if index == len(calls):
        calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    call.update({name: part[name] for name in ("id", "type") if name in part})
    for name, value in part.get("function", {}).items():
        call["function"][name] += value or ""
