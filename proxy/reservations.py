"""How many tokens a call reserves before it runs, and how long its answer may be for that. Pure.

What a prompt is in tokens is known only by the model that reads it, so an upper bound of it is reserved, and the
longest answer that it may get. What was not used goes back when the call has ended.
"""

from collections.abc import Iterable
from typing import NamedTuple

DEFAULT_LENGTH = 512  # tokens of an answer whose caller, tier and model set no limit
LONGEST_TOKEN = 16  # bytes: a text has hardly fewer tokens than that makes of it


class Ask(NamedTuple):
    """What a call may use: tokens of its prompt at most, and of each of its `choices` answers up to `length`.

    `length` is None where nothing limits it but a quota.
    """

    prompt: int = 0
    choices: int = 0
    length: int | None = None

    @property
    def wanted(self) -> int:
        """Tokens of one answer, at most."""
        return self.length or DEFAULT_LENGTH

    @property
    def most(self) -> int:
        return self.prompt + self.choices * self.wanted

    @property
    def enough(self) -> int:
        """Tokens of one answer that it is not shortened below, unless even an unused quota is too small."""
        return min(self.wanted, DEFAULT_LENGTH)

    def shortest(self, limits: Iterable[int]) -> int:
        """Tokens of one answer without which the call is not worth running, of quotas with these limits.

        Where a prompt leaves no room for any, that is none or less.
        """
        return min([self.enough, *((limit - self.prompt) // max(1, self.choices) for limit in limits)])

    def least(self, limits: Iterable[int]) -> int:
        """The tokens without which the call is not worth running."""
        return self.prompt + self.choices * max(1, self.shortest(limits))

    def is_cramped(self, limits: Iterable[int]) -> bool:
        """Whether the bound of the prompt leaves less than enough of an unused quota, and its true size might not."""
        known = tuple(limits)
        return self.shortest(known) < (self.enough if self.choices else 0) and self.may_fit(min(known), 1)

    def may_fit(self, room: int, answer: int) -> bool:
        """Whether the call, with answers of so many tokens, might need no more than `room`, were it counted."""
        return self.prompt // LONGEST_TOKEN + self.choices * answer <= room

    def length_of(self, tokens: int) -> int:
        """How long each answer may be where so many tokens are reserved."""
        return min(self.wanted, (tokens - self.prompt) // self.choices)
