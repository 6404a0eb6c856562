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

    def least(self, limits: Iterable[int]) -> int:
        """The tokens without which the call is not worth running, of quotas with these limits.

        An answer is shortened to what is left now, but not below DEFAULT_LENGTH; below that only where even an unused
        quota is too small for it.
        """
        shortest = min(self.wanted, DEFAULT_LENGTH)
        if self.choices:
            shortest = min([shortest, *((limit - self.prompt) // self.choices for limit in limits)])
        return self.prompt + self.choices * max(1, shortest)

    def may_fit(self, room: int, shortest: int) -> bool:
        """Whether the call, with answers of `shortest` tokens, might need no more than `room`, were it counted."""
        return self.prompt // LONGEST_TOKEN + self.choices * shortest <= room

    def length_of(self, tokens: int) -> int:
        """How long each answer may be where so many tokens are reserved."""
        return min(self.wanted, (tokens - self.prompt) // self.choices)
