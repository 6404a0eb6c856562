"""Tokens of one call, and how they are known: from the usage that ends an answer, or from the timings of its events.

llama-server counts each choice for itself, and says what it counted when the choice ends. Where an answer is cut, its
last event still tells: `timings_per_token` puts the counts so far into each event. Pure.

Numbers come from another process, so each is believed only if it can be a number of tokens. One that cannot counts as
not said: the events that came tell how much it was, and the usage is an estimate.
"""

from typing import Any, NamedTuple

MOST = 2**31 - 1  # tokens that one column of the ledger holds

Counts = tuple[int | None, int | None, int | None]  # prompt, cached, completion; None: not said, or not believed


class Usage(NamedTuple):
    """Tokens. `prompt` includes `cached`, those that a llama-server had computed before.

    `is_estimated` where the answer did not come to its end: the llama-server may have made up to a few more. So it is
    where the llama-server did not say what it counted.
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
    """The tokens of an answer with one or more choices; `n` of them share each prompt, which counts once.

    `events` counts those with a part of the answer: all there is to go by where no count of its tokens is believed.
    """

    def __init__(self, n: int = 1, choices: int = 1) -> None:
        self.n = n
        self.expected = choices
        self.choices: dict[int, Usage] = {}
        self.events = 0
        self._timings: dict[int, Any] = {}  # the last ones of each choice, read only where they are needed

    def so_far(self, index: int, prompt: int | None, cached: int | None, completion: int | None) -> None:
        """Note what a choice that goes on has used. A count of None stays as it was."""
        self._note(index, (prompt, cached, completion), is_estimated=True)

    def timed(self, index: int, timings: Any) -> None:
        """Note the timings of an event, if it has any: what its choice has used so far."""
        self._timings[index] = timings or self._timings.get(index)

    def ended(self, index: int, prompt: int | None, cached: int | None, completion: int | None) -> None:
        """Note what a choice has used in all. A count of None stays what the events before said."""
        counts = prompt, cached, completion
        if None in counts:
            self._read_timings()
        self._timings.pop(index, None)
        self._note(index, counts, is_estimated=None in counts)

    def _read_timings(self) -> None:
        for index, timings in self._timings.items():
            if index in self.choices and not self.choices[index].is_estimated:
                continue
            prompt, cached, completion = of_timings(timings)
            if completion is None and self.expected == 1:
                completion = self.events
            self.so_far(index, prompt, cached, completion)
        self._timings.clear()

    def _note(self, index: int, counts: Counts, *, is_estimated: bool) -> None:
        known = self.choices.get(index, NOTHING_KNOWN)
        self.choices[index] = Usage(
            known.prompt if counts[0] is None else counts[0],
            known.cached if counts[1] is None else counts[1],
            known.completion if counts[2] is None else counts[2],
            is_estimated,
        )

    @property
    def usage(self) -> Usage:
        self._read_timings()
        if self.expected == 1:
            return self.choices.get(0, NOTHING_KNOWN)
        prompts: dict[int, Usage] = {}
        for index, each in self.choices.items():
            known = prompts.get(
                index // self.n, each
            )  # cached: of those that share a prompt, who came first computed it
            prompts[index // self.n] = Usage(max(known.prompt, each.prompt), min(known.cached, each.cached))
        return Usage(
            min(MOST, sum(each.prompt for each in prompts.values())),
            min(MOST, sum(each.cached for each in prompts.values())),
            min(MOST, sum(each.completion for each in self.choices.values())),
            len(self.choices) < self.expected or any(each.is_estimated for each in self.choices.values()),
        )


# -- what a llama-server says --------------------------------------------------------------------------------------


def believed(said: Any) -> int | None:
    """Return a number of tokens as a llama-server said it, or None unless it is an integer from 0 to MOST."""
    return said if type(said) is int and 0 <= said <= MOST else None


def sum_of(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else believed(one + other)


def object_of(said: Any) -> dict[str, Any]:
    """Return a JSON object as a llama-server said it, or an empty one where it said something else."""
    return said if isinstance(said, dict) else {}


def of_timings(timings: Any) -> Counts:
    """Prompt, cached and completion tokens as an event's `timings` tell them."""
    said = object_of(timings)
    cached = believed(said.get("cache_n"))
    return sum_of(believed(said.get("prompt_n")), cached), cached, believed(said.get("predicted_n"))


def of_progress(progress: Any) -> Counts:
    """The same of a `prompt_progress`, before the first token."""
    said = object_of(progress)
    return believed(said.get("processed")), believed(said.get("cache")), 0


def of_openai(usage: Any) -> Counts:
    """The same of an OpenAI `usage`. Without details nothing was cached."""
    said = object_of(usage)
    cached = believed(object_of(said.get("prompt_tokens_details")).get("cached_tokens", 0))
    return believed(said.get("prompt_tokens")), cached, believed(said.get("completion_tokens"))


def of_responses(usage: Any) -> Counts:
    """The same of a `usage` of /v1/responses."""
    said = object_of(usage)
    cached = believed(object_of(said.get("input_tokens_details")).get("cached_tokens", 0))
    return believed(said.get("input_tokens")), cached, believed(said.get("output_tokens"))


def of_whole(answer: dict[str, Any]) -> Usage:
    """The usage of an answer without a completion: of embeddings, or of a ranking."""
    prompt, cached, _ = of_openai(answer.get("usage"))
    return Usage(prompt or 0, cached or 0, is_estimated=None in (prompt, cached))


def tokens_listed(told: Any) -> int | None:
    """The tokens of a text, as /tokenize lists them; None where it lists none."""
    tokens = object_of(told).get("tokens")
    return len(tokens) if isinstance(tokens, list) else None
