"""The upstreams: which there are, which are up, what they serve, and what becomes known of them."""

import asyncio
import logging
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic

from accounts.errors import GatewayError

from .circuit import State
from .endings import cancelled
from .errors import (
    BrokenOff,
    ConnectTimeout,
    Hung,
    MissingParameter,
    ModelNotFound,
    NeverSent,
    OutOfFiles,
    StillLoading,
    UpstreamError,
    UpstreamFault,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from .files import FileLimit
from .floods import Floods
from .members import Member, Spec
from .metrics import UPSTREAM_ERRORS, UPSTREAM_SLOTS, UPSTREAM_UP
from .models import ANY
from .probes import TIMEOUT, probe
from .pulse import EVERY, Pulse
from .upstream import UpstreamClient

logger = logging.getLogger(__name__)

FIRST_LOOK = 2.0  # seconds that a start waits for the first look at the upstreams
JITTER = 0.2  # of the time between two looks, so that workers do not look in step
LOADING_INTERVAL = 0.3  # seconds between two looks at one that loads its model
spread = random.Random()  # noqa: S311  # no secret hangs on it
SOONEST = 0.2  # seconds between two looks, whatever happens


class Pool:
    """All upstreams. Each is looked at every `interval` seconds, and soon after a call has failed there.

    `changed` is called whenever calls may go where they could not before, or no longer.
    """

    def __init__(self, client: UpstreamClient, interval: float) -> None:
        self.client = client
        self.interval = interval
        self.members: tuple[Member, ...] = ()
        self.changed: Callable[[], None] = lambda: None
        self._specs: tuple[Spec, ...] = ()
        self.pulse = Pulse(monotonic())
        self.files = FileLimit()
        self._news = asyncio.Event()
        self._watches: dict[Member, Watch] = {}
        self._floods = Floods()
        self._beating: asyncio.Task[None] | None = None

    # -- which there are -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Wait a moment for the first look at those that are there already."""
        self._beating = asyncio.create_task(self._beat(), name="pool")
        looks = [watch.first_look.wait() for watch in self._watches.values()]
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK):
                await asyncio.gather(*looks)

    async def stop(self) -> None:
        if self._beating is not None:
            await cancelled(self._beating)
        for watch in self._watches.values():
            await cancelled(watch.task)
        self._watches = {}

    async def _beat(self) -> None:
        """Watch over this process, and over the log."""
        while True:
            now = monotonic()
            self.pulse.beat(now)
            self.files.check(now)
            for (name, reason), held_back in self._floods.over(now):
                logger.error("Upstream %s failed %d more calls in the last minute: it %s.", name, held_back, reason)
            await asyncio.sleep(EVERY)

    def update(self, specs: Iterable[Spec]) -> None:
        """Replace the set of upstreams. One that goes is given no more calls; those it has go on."""
        wanted = tuple(specs)
        if wanted == self._specs:
            return
        self._specs = wanted
        held = {(member.url, member.spec.api_key): member for member in self.members}
        members = []
        for spec in wanted:
            member = held.pop((spec.base_url, spec.api_key), None) or Member(spec)
            if member.name != spec.name:
                forget_series(member.name)
            member.spec = spec
            members.append(member)
        self.members = tuple(members)
        for gone in held.values():
            self._forget(gone)
        for member in members:
            if member not in self._watches:
                self._watches[member] = Watch(self, member)
            self._tell_metrics(member)
        self._tell()

    def _forget(self, member: Member) -> None:
        if watch := self._watches.pop(member, None):
            watch.task.cancel()
        if member.name not in {each.name for each in self.members}:
            forget_series(member.name)

    # -- how they are --------------------------------------------------------------------------------------------

    async def look_at(self, member: Member) -> None:
        """Ask an upstream how it is."""
        was, was_up, was_capacity = member.told, member.is_up, member.capacity
        member.is_heard = False
        try:
            told = await probe(self.client, member)
        except StillLoading:
            self._loading(member)
        except OutOfFiles:
            self.files.say(monotonic())
        except (UpstreamTimeout, ConnectTimeout) as exc:
            if member.is_heard or self.pulse.has_just_stood_still(monotonic()):
                self._look_soon(member)  # it lives, or was not given its time
            else:
                silence = f"did not answer, and sent nothing, for {TIMEOUT:g} s"
                self.refused(member, exc.reason if isinstance(exc, ConnectTimeout) else silence)
                self._leave_hung(member)
        except NeverSent as exc:
            self.refused(member, exc.reason)
        except GatewayError as exc:
            reason = reason_of(exc)
            self._note(member, lambda: member.circuit.failed(monotonic(), reason), "down")
        else:
            member.told, member.is_loading = told, False
            member.circuit.found_well(monotonic())
            if not member.is_known:  # nothing is held against a new one
                member.is_known = True
                member.circuit.answered()
            if member.is_up and not was_up:
                logger.info("Upstream %s is up and serves %s.", member.name, ", ".join(told.models))
            if told.slots is None and member.spec.slots is None and was is not told and was.models != told.models:
                logger.warning("Upstream %s does not tell its slots: it gets one call at a time.", member.name)
            if (member.is_up, member.capacity, told.models) != (was_up, was_capacity, was.models):
                self._tell()
        self._tell_metrics(member)

    @staticmethod
    def _leave_hung(member: Member) -> None:
        """Have the calls leave of whose answers nothing was passed on; each knows whether another may take it."""
        for leave in list(member.unbegun):
            leave()

    def answered(self, member: Member) -> None:
        """A call was answered there, at least in part."""
        if member.circuit.state is State.HALF_OPEN:
            member.circuit.answered()
            self._back(member)

    def ended_well(self, member: Member) -> None:
        """A call came to its end there."""
        was_on_trial = member.circuit.state is State.HALF_OPEN
        member.circuit.ended_well()
        if was_on_trial:
            self._back(member)

    def _back(self, member: Member) -> None:
        logger.info("Upstream %s is back.", member.name)
        self._tell()

    def refused(self, member: Member, reason: str) -> None:
        """Nobody was there to take a call, or a question."""
        self._note(member, lambda: member.circuit.refused(monotonic(), reason), "down")

    def failed(self, member: Member, exc: UpstreamFault) -> None:
        """It broke a call off, or was silent for too long."""
        if isinstance(exc, Hung) or self.says_nothing(exc):
            return
        self._note(member, lambda: member.circuit.failed(monotonic(), exc.reason), exc.code)

    def says_nothing(self, exc: GatewayError) -> bool:
        """True for a failure that may be one of this process, which stood still a moment ago."""
        is_late = isinstance(exc, UpstreamTimeout | ConnectTimeout | BrokenOff)
        return is_late and self.pulse.has_just_stood_still(monotonic())

    # -- calls that were answered, with anything but an answer ---------------------------------------------------

    def failed_call(self, member: Member, exc: UpstreamFault, request_id: str, *, goes_on: bool) -> None:
        """Count and log a call that failed there, in a flood only the first few."""
        if isinstance(exc, UpstreamError) and not isinstance(exc, BrokenOff):
            UPSTREAM_ERRORS.labels(member.name, exc.code).inc()
        if self._floods.lets_through((member.name, exc.reason), monotonic()):
            what = f"{exc.reason}: {exc.detail!r}" if exc.detail else exc.reason
            end = "It goes on to another one." if goes_on else "Its caller was told so."
            level = logging.WARNING if goes_on else logging.ERROR
            logger.log(level, "Upstream %s failed call %s: it %s. %s", member.name, request_id, what, end)

    def doubted(self, member: Member, reason: str) -> None:
        """A call failed there, and goes on to another upstream: the outcome there tells whose fault it was."""
        self._turn(member, lambda: member.circuit.doubted(monotonic(), reason))

    def convicted(self, member: Member, reason: str) -> None:
        """A call failed there, and that was not the call's fault."""
        if member.circuit.state is State.HALF_OPEN:
            (self.answered(member) if self._is_last(member) else self.doubted(member, reason))
            return
        now = monotonic()
        member.circuit.convicted(now, reason)
        if member.circuit.fails(now) and not self._is_needed(member):
            self._turn(member, lambda: member.circuit.eject(now))

    def acquitted(self, member: Member) -> None:
        """A call failed there, and elsewhere alike."""
        member.circuit.acquitted()
        self._look_soon(member)

    def refused_call(self, member: Member) -> None:
        """It said that a call is wrong."""
        was_on_trial = member.circuit.state is State.HALF_OPEN
        member.circuit.refused_call()
        if was_on_trial:
            self._back(member)

    def _turn(self, member: Member, what: Callable[[], None]) -> None:
        was_open = member.circuit.is_open
        what()
        if member.circuit.is_open and not was_open:
            logger.warning("Upstream %s is out of turn for a moment: it %s.", member.name, member.circuit.reason)
            self._noted(member)

    def _is_needed(self, member: Member) -> bool:
        """True where it serves a model that no other upstream serves well."""
        now = monotonic()
        others = [
            each
            for each in self.enabled
            if each is not member and each.is_up and each.circuit.state is State.CLOSED and not each.circuit.fails(now)
        ]
        return not all(any(model in each.told.models for each in others) for model in member.told.models.values())

    def _release_needed(self) -> None:
        """Take those back that are out of turn where the others have gone since."""
        for member in self.enabled:
            if member.circuit.is_ejected and member.told.models and self._is_last(member):
                member.circuit.close()
                self._tell_metrics(member)
                logger.warning("Upstream %s is back in turn: no other one is left.", member.name)

    def _is_last(self, member: Member) -> bool:
        """True where it serves a model that no upstream serves that is up."""
        return any(not self.fit(model, [member]) for model in member.told.models.values())

    def turned_away(self, member: Member, exc: NeverSent) -> None:
        """A call was never sent there."""
        if isinstance(exc, StillLoading):
            self._loading(member)
        elif not self.says_nothing(exc):
            self.refused(member, exc.reason)

    def _loading(self, member: Member) -> None:
        if not member.is_loading:
            logger.info("Upstream %s loads its model.", member.name)
            member.is_loading = True
            self._noted(member)

    def _note(self, member: Member, what: Callable[[], None], kind: str) -> None:
        was_open, was_loading = member.circuit.is_open, member.is_loading
        member.is_loading = False
        what()
        if not was_open or kind != "down":
            UPSTREAM_ERRORS.labels(member.name, kind).inc()
        if member.circuit.is_open and not was_open:
            logger.warning("Upstream %s is down: it %s.", member.name, member.circuit.reason)
        if (was_open, was_loading) != (member.circuit.is_open, False):
            self._noted(member)
        elif kind != "down":
            self._look_soon(member)

    def _noted(self, member: Member) -> None:
        self._tell_metrics(member)
        self._look_soon(member)
        self._tell()

    def _look_soon(self, member: Member) -> None:
        if watch := self._watches.get(member):
            watch.wake.set()

    def _tell(self) -> None:
        self._release_needed()
        self.changed()
        self._news.set()
        self._news = asyncio.Event()

    @staticmethod
    def _tell_metrics(member: Member) -> None:
        if member.condition != (member.is_up, member.is_loading):
            member.condition, member.since = (member.is_up, member.is_loading), datetime.now(UTC)
        UPSTREAM_UP.labels(member.name).set(member.is_up)
        UPSTREAM_SLOTS.labels(member.name, "all").set(member.slots if member.spec.is_enabled else 0)

    # -- what they serve -----------------------------------------------------------------------------------------

    @property
    def enabled(self) -> list[Member]:
        return [member for member in self.members if member.spec.is_enabled and not member.spec.problem]

    @property
    def is_up(self) -> bool:
        return any(member.is_up for member in self.enabled)

    @property
    def models(self) -> list[str]:
        """The models' own names, each once. Those of upstreams that are down now stay known."""
        return list(dict.fromkeys(own for member in self.enabled for own in member.told.models.values()))

    async def loaded(self, within: float) -> None:
        """Wait for the first models to be known, but only while an upstream is loading them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not self.models and any(member.is_loading for member in self.enabled):
                    await self._news.wait()

    def resolve(self, name: str, default: str, aliases: Mapping[str, str]) -> str:
        """The model that a call means by `name`. Raises ModelNotFound, MissingParameter or UpstreamUnavailable.

        An alias goes before a model's own name, and the alias "*" is for names that nothing else knows.
        """
        models = self.models
        if not models:
            raise UpstreamUnavailable
        wanted = name or default or (models[0] if len(models) == 1 else aliases.get(ANY, ""))
        if not wanted:
            raise MissingParameter(f"'model' is required. Models here: {', '.join(models)}.", param="model")
        for candidate in (aliases.get(wanted, wanted), aliases.get(ANY)):
            for member in self.enabled:
                if candidate in member.told.models:
                    return member.told.models[candidate]
        raise ModelNotFound(
            f"There is no model '{wanted[:100]}' here. GET /v1/models lists those there are.", param="model"
        )

    def context(self, model: str) -> int | None:
        """Tokens that a prompt of the model and its answer may have; None where no upstream says."""
        told = [each.told for each in self.enabled if model in each.told.models]
        return max((each.context for each in told if each.context), default=None)

    def identity(self, model: str) -> str | None:
        """What may answer a call of the model now, of all that are up; None where none is, or one does not tell."""
        identities = {each.told.identity for each in self.fit(model)}
        told = sorted(each for each in identities if each)
        return ",".join(told) if identities and len(told) == len(identities) else None

    def fit(self, model: str, tried: Sequence[Member] = ()) -> list[Member]:
        """The upstreams that are up, serve the model and were not tried yet."""
        return [each for each in self.enabled if each.is_up and model in each.told.models and each not in tried]

    def doubtful(self, model: str, tried: Sequence[Member]) -> list[Member]:
        """Upstreams that fit and whose last call failed, while there are others."""
        fit = self.fit(model, tried)
        doubtful = [each for each in fit if each.circuit.is_doubted]
        return doubtful if len(doubtful) < len(fit) else []

    def may_serve(self, model: str, tried: Sequence[Member] = ()) -> bool:
        """Whether there is one that fits, or one that will as soon as it has loaded its model."""
        return bool(self.fit(model, tried)) or any(
            each.is_loading and model in each.told.models and each not in tried for each in self.enabled
        )


class Watch:
    """Looks at one member, now and then, on a task of its own."""

    def __init__(self, pool: Pool, member: Member) -> None:
        self.pool = pool
        self.member = member
        self.wake = asyncio.Event()
        self.first_look = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name="pool")

    async def _run(self) -> None:
        while True:
            try:
                await self.pool.look_at(self.member)
            except Exception:  # the watch must outlive whatever is wrong with one look
                logger.exception("A look at upstream %s failed.", self.member.name)
            self.first_look.set()
            await asyncio.sleep(SOONEST)
            every = LOADING_INTERVAL if self.member.is_loading else self.pool.interval
            wait = every * spread.uniform(1 - JITTER, 1 + JITTER) - SOONEST
            if self.member.circuit.is_ejected and self.member.circuit.is_open:  # it is back as soon as it may be
                wait = min(wait, self.member.circuit.tried_in(monotonic()))
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, wait)):
                    await self.wake.wait()
            self.wake.clear()


def reason_of(exc: GatewayError) -> str:
    """What was wrong, for operators, in words that follow "it": callers are told less."""
    return exc.reason if isinstance(exc, UpstreamFault) else f"refused a question: {exc}"


def forget_series(name: str) -> None:
    """The metrics of an upstream that is gone, or has another name now. Where workers share them, they stay, as 0."""
    UPSTREAM_UP.labels(name).set(0)
    for state in ("all", "busy"):
        UPSTREAM_SLOTS.labels(name, state).set(0)
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        return
    with suppress(KeyError):
        UPSTREAM_UP.remove(name)
    for state in ("all", "busy"):
        with suppress(KeyError):
            UPSTREAM_SLOTS.remove(name, state)
