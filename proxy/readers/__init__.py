"""Readers: what the streamed answer of one kind of endpoint means, event by event. Pure.

A reader is made for each attempt of a call. It gives each event as the caller may see it, or folds all of them into
one answer, and knows at any moment which tokens were used.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from accounts.errors import GatewayError
from proxy import envelopes
from proxy.calls import Call
from proxy.events import event_of
from proxy.usage import Tally, Usage


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer is read for: the call, the model that takes it, and the longest answer in tokens.

    Timings stay hidden unless they are to be shown: they tell tenants of each other's prompts.
    """

    call: Call
    model: str
    length: int | None = None
    shows_timings: bool = False


class Reader(ABC):
    """One streamed answer. Both ways through it raise what an error event means, or UpstreamError."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.tally = Tally(asked.call.n, asked.call.choices)

    @staticmethod
    @abstractmethod
    def is_last(event: bytes) -> bool:
        """True for the event that ends a complete answer."""

    @abstractmethod
    def pass_on(self, event: bytes) -> bytes:
        """What the caller of a stream gets of this event; nothing, for some."""

    @abstractmethod
    def fold(self, event: bytes) -> bool:
        """Take an event into `answer`. False for one that holds nothing of it, only how far the prompt is."""

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """True where the folded answer has all its parts."""

    @property
    @abstractmethod
    def answer(self) -> dict[str, Any]:
        """The folded answer, for a caller who asked for no stream."""

    def error_event(self, error: GatewayError) -> bytes:
        """How a fault is told once the stream has begun."""
        return event_of(envelopes.openai(error))

    # -- where a llama-server does not say what was used, and must be asked ----------------------------------------

    def lacks_start(self, first: bytes) -> bool:  # noqa: ARG002  # most look at nothing
        """True for an answer whose first event is not its start, so that its prompt has not been counted."""
        return False

    def start(self, prompt_tokens: int | None) -> bytes:
        """The event that was lost. None where its prompt could not be counted."""
        raise NotImplementedError

    @property
    def uncounted(self) -> str:
        """Text of a cut answer whose tokens are to be counted."""
        return ""

    def counted(self, tokens: int) -> None:
        """Take it that so many tokens are in the text that was uncounted."""
        raise NotImplementedError

    @property
    def usage(self) -> Usage:
        return self.tally.usage
