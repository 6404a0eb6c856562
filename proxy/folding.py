"""The chunks of a streamed chat completion, folded into the one answer that a caller without `stream` expects."""

from typing import Any


class Fold:
    """Takes chunks in order; `answer` is the completion. Text, reasoning, tool calls, logprobs, several choices."""

    def __init__(self) -> None:
        self.head: dict[str, Any] = {}
        self.usage: dict[str, int] = {}
        self.choices: dict[int, dict[str, Any]] = {}

    def add(self, chunk: dict[str, Any]) -> None:
        if not self.head:
            self.head = {
                name: chunk[name] for name in ("id", "created", "model", "system_fingerprint") if name in chunk
            }
        if usage := chunk.get("usage"):
            self._add_usage(usage["prompt_tokens"], usage["completion_tokens"])
        for part in chunk.get("choices", ()):
            self._add_choice(part)

    def _add_usage(self, prompt: int, completion: int) -> None:
        """One usage chunk comes for each choice, and each counts the one prompt again."""
        completion += self.usage.get("completion_tokens", 0)
        self.usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _add_choice(self, part: dict[str, Any]) -> None:
        index = part["index"]
        fresh = {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}
        choice = self.choices.setdefault(index, fresh)
        choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
        for name, tokens in (part.get("logprobs") or {}).items():
            if tokens:
                choice.setdefault("logprobs", {}).setdefault(name, []).extend(tokens)
        add_delta(choice["message"], part.get("delta", {}))

    @property
    def is_complete(self) -> bool:
        return bool(self.choices) and all(choice["finish_reason"] for choice in self.choices.values())

    @property
    def answer(self) -> dict[str, Any]:
        choices = [self.choices[index] for index in sorted(self.choices)]
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": self.usage}


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
    while len(calls) <= index:
        calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    call.update({name: part[name] for name in ("id", "type") if name in part})
    for name, value in part.get("function", {}).items():
        call["function"][name] += value or ""
