"""The streams of chat/completions and completions: chunks with choices, then [DONE]."""

from typing import Any

from proxy.events import DONE, event_of, read
from proxy.folding import ChatFold, Fold, TextFold
from proxy.usage import Usage, of_openai, of_progress

from . import Asked, Reader

# A token's event starts with its choices, ends with its timings and has none of the marks in it: it passes unread,
# and its timings are cut off. Quotes inside of a text are escaped, so no text can look like one of these.
PLAIN_START = b'data: {"choices":[{'
TIMINGS = b',"timings":{'
MARKS = (b'"usage"', b'"error"', b'"prompt_progress"')
HEAD = ("id", "created", "model", "system_fingerprint", "object")


class ChoicesReader(Reader):
    new_fold: type[Fold]

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self.folded = self.new_fold()
        self._head: dict[str, Any] = {}
        self._is_under_way = False  # the only choice has begun
        self._ending = 0  # the choice that ended last: a chat's usage follows it and does not say whose it is
        self._last_plain: bytes | None = None  # read only if the answer is cut: its timings then are what is known

    @staticmethod
    def is_last(event: bytes) -> bool:
        return event == DONE

    def pass_on(self, event: bytes) -> bytes:
        if event == DONE:
            return self._usage_event() + DONE
        if self._is_under_way and event.startswith(PLAIN_START) and not any(mark in event for mark in MARKS):
            self.tally.events += 1
            timings = event.rfind(TIMINGS)
            if timings > 0:
                self._last_plain = event
            return event if timings < 0 or self.asked.shows_timings else event[:timings] + b"}\n\n"
        chunk = self._noted(event)
        if not chunk or not chunk["choices"]:
            return b""
        self._open(chunk["choices"][0])
        self._is_under_way = self.asked.call.choices == 1
        return event_of(chunk)

    def _open(self, choice: dict[str, Any]) -> None:
        """See to it that a choice begins as it should."""

    def fold(self, event: bytes) -> bool:
        chunk = self._noted(event)
        if chunk:
            self.folded.add(chunk)
        return chunk is not None

    def _noted(self, event: bytes) -> dict[str, Any] | None:
        """The chunk of an event, its counts noted and taken out of it; None for one that is not for the caller."""
        chunk = read(event)
        if chunk is None:
            return None
        for choice in chunk["choices"]:
            if choice.get("finish_reason"):
                self._ending = choice["index"]
            elif "role" not in choice.get("delta", ()):  # the event that opens a chat's choice holds no token
                self.tally.events += 1
        index = int(chunk["choices"][0]["index"]) if chunk["choices"] else self._ending
        timings = chunk.get("timings") if self.asked.shows_timings else chunk.pop("timings", None)
        if progress := chunk.pop("prompt_progress", None):
            self.tally.so_far(index, *of_progress(progress))
            return None
        self.tally.timed(index, timings)
        if usage := chunk.pop("usage", None):
            counts = of_openai(usage)
            if None in counts and not timings:
                self._read_last_plain()
            self._last_plain = None
            self.tally.ended(index, *counts)
        self._head = {name: chunk[name] for name in HEAD if name in chunk}
        return chunk

    @property
    def usage(self) -> Usage:
        self._read_last_plain()
        return super().usage

    def _read_last_plain(self) -> None:
        event, self._last_plain = self._last_plain, None
        if event is not None and (chunk := read(event)):
            self.tally.timed(0, chunk.get("timings"))

    def _usage_event(self) -> bytes:
        """One usage for all choices, where llama-server sends one for each."""
        if not self.asked.call.include_usage:
            return b""
        return event_of({"choices": [], **self._head, "usage": self.told_usage})

    @property
    def told_usage(self) -> dict[str, Any]:
        usage = self.usage
        told = {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion, "total_tokens": usage.total}
        return {**told, "prompt_tokens_details": {"cached_tokens": usage.cached}} if self.asked.shows_timings else told

    @property
    def is_complete(self) -> bool:
        return self.folded.finished == self.asked.call.choices

    @property
    def answer(self) -> dict[str, Any]:
        return {**self.folded.answer, "usage": self.told_usage}


class ChatReader(ChoicesReader):
    new_fold = ChatFold

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._opened: set[int] = set()

    def _open(self, choice: dict[str, Any]) -> None:
        """Name the role, which llama-server forgets where the first token is only a part of a character."""
        if choice["index"] not in self._opened:
            self._opened.add(choice["index"])
            choice["delta"] = {"role": "assistant", **choice["delta"]}


class CompletionReader(ChoicesReader):
    new_fold = TextFold
