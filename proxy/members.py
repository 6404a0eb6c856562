"""One upstream as the pool knows it: what the admin wrote of it, what it tells of itself, and how it fares."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .circuit import Circuit, State

UNTOLD_SLOTS = 1  # of a llama-server that does not say, and of which the admin says nothing


@dataclass(frozen=True, slots=True)
class Spec:
    """What the admin wrote. With a `problem` it cannot be used until that is mended."""

    name: str
    base_url: str
    api_key: str = field(default="", repr=False)
    slots: int | None = None  # None: as many as it tells
    is_enabled: bool = True
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """What a llama-server tells of itself.

    `models` are the names it answers to, the first of each being its own. `identity` is that of what answers there.
    """

    models: dict[str, str] = field(default_factory=dict)  # name or alias -> the model's own name
    context: int | None = None  # tokens of a prompt and its answer, at most
    slots: int | None = None
    identity: str | None = None
    props: dict[str, Any] = field(default_factory=dict)
    adapters: Any = None  # as it tells them; None until it was asked


@dataclass(slots=True, eq=False)
class Member:
    """An upstream of the pool. `in_flight` are the calls that this process has there.

    `unbegun` has a way out for each of them of whose answer nothing was passed on yet, in case it hangs.
    """

    spec: Spec
    told: Told = field(default_factory=Told)
    circuit: Circuit = field(default_factory=Circuit)
    condition: tuple[bool, bool] | None = None  # up, loading: since that moment
    since: datetime | None = None
    is_known: bool = False  # it has answered a probe, some time
    is_loading: bool = False
    in_flight: int = 0
    is_heard: bool = False  # a byte of an answer came since it was asked how it is
    unbegun: set[Callable[[], None]] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def url(self) -> str:
        return self.spec.base_url

    @property
    def is_up(self) -> bool:
        """Whether it can take calls, be they let there or not."""
        return self.is_known and not self.is_loading and not self.circuit.is_open and not self.spec.problem

    @property
    def slots(self) -> int:
        return self.spec.slots or self.told.slots or UNTOLD_SLOTS

    @property
    def capacity(self) -> int:
        """How many calls it may have: one while it is on trial."""
        return 1 if self.circuit.state is State.HALF_OPEN else self.slots

    @property
    def health(self) -> str:
        """In words, for people."""
        if self.spec.problem:
            return self.spec.problem
        if self.is_loading:
            return "loading its model"
        if self.circuit.is_open:
            return f"{'out of turn' if self.circuit.is_ejected else 'down'}: it {self.circuit.reason}"
        if not self.is_known:
            return f"not up yet: it {self.circuit.reason}" if self.circuit.reason else "not looked at yet"
        return "on trial, one call at a time" if self.circuit.state is State.HALF_OPEN else "up"


@dataclass(slots=True, eq=False)
class Lease:
    """A call's place at an upstream, until it is released. `give_back` is told of that, once."""

    member: Member
    give_back: Callable[[], None] = lambda: None
    is_held: bool = True

    def release(self) -> None:
        if self.is_held:
            self.is_held = False
            self.give_back()
