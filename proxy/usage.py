"""Tokens of one call, and how they are known: from the usage that ends an answer, or from the timings of its events.

llama-server counts each choice for itself, and says what it counted when the choice ends. Where an answer is cut, its
last event still tells: `timings_per_token` puts the counts so far into each event. Pure.
"""

from typing import Any, NamedTuple


class Usage(NamedTuple):
    """Tokens. `prompt` includes `cached`, those that a llama-server had computed before.

    `is_estimated` where the answer did not come to its end: the llama-server may have made up to a few more.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    is_estimated: bool = False

    @property
    def total(self) -> int:
        return self.prompt + self.completion


NOTHING_KNOWN = Usage(is_estimated=True)


class Tally:
    """The tokens of an answer with one or more choices; `n` of them share each prompt, which counts once."""

    def __init__(self, n: int = 1, choices: int = 1) -> None:
        self.n = n
        self.expected = choices
        self.choices: dict[int, Usage] = {}

    def so_far(self, index: int, prompt: int, cached: int, completion: int) -> None:
        """What a choice that goes on has used."""
        self.choices[index] = Usage(prompt, cached, completion, is_estimated=True)

    def ended(self, index: int, prompt: int, cached: int, completion: int) -> None:
        self.choices[index] = Usage(prompt, cached, completion)

    @property
    def usage(self) -> Usage:
        if self.expected == 1:
            return self.choices.get(0, NOTHING_KNOWN)
        prompts: dict[int, Usage] = {}
        for index, each in self.choices.items():
            known = prompts.get(
                index // self.n, each
            )  # cached: of those that share a prompt, who came first computed it
            prompts[index // self.n] = Usage(max(known.prompt, each.prompt), min(known.cached, each.cached))
        return Usage(
            sum(each.prompt for each in prompts.values()),
            sum(each.cached for each in prompts.values()),
            sum(each.completion for each in self.choices.values()),
            len(self.choices) < self.expected or any(each.is_estimated for each in self.choices.values()),
        )


def of_timings(timings: dict[str, Any]) -> tuple[int, int, int]:
    """Prompt, cached and completion tokens as an event's `timings` tell them."""
    return timings["prompt_n"] + timings["cache_n"], timings["cache_n"], timings["predicted_n"]


def of_openai(usage: dict[str, Any]) -> tuple[int, int, int]:
    """The same of an OpenAI `usage`."""
    details = usage.get("prompt_tokens_details") or {}
    return usage["prompt_tokens"], details.get("cached_tokens", 0), usage.get("completion_tokens", 0)
