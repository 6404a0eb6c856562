"""The way of an admitted call: to an upstream, or another, and its answer back, event by event or folded into one."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import lru_cache, partial
from time import monotonic
from typing import Any

import orjson

from accounts.errors import GatewayError, InvalidRequest

from .attempts import Attempt, Errand, Portion
from .cache.flights import Flight
from .endings import Endings
from .errors import BrokenOff, Hung, NeverSent, OutOfFiles, StillLoading, UpstreamError, UpstreamFault, UpstreamTimeout
from .events import NO_ANSWER, UNREADABLE
from .members import Lease, Member
from .metrics import UPSTREAM_REQUESTS
from .queue import SlotQueue, Want
from .readers import Reader
from .records import Record
from .telling import Begun, Telling, nothing
from .upstream import Answer

AFTER_LEAVING = 0.03  # seconds until a llama-server has noticed that it was left: 22 ms were seen


class Relay(Telling):
    """One call, at one upstream after the other until something of its answer was passed on.

    One that works for a flight folds the answer, and publishes its events there.
    """

    def __init__(
        self,
        errand: Errand,
        queue: SlotQueue,
        endings: Endings,
        record: Record,
        limit: float,
        flight: Flight | None = None,
    ) -> None:
        super().__init__(errand, endings, record)
        self.queue = queue
        self.pool = queue.pool
        self.want = record.want = Want(errand.asked.model, limit, record.tier)
        self.flight = flight
        self.folds = flight is not None or not errand.asked.call.stream
        self.answer: dict[str, Any] = {}  # the whole one, once it is folded
        self.attempt: Attempt | None = None  # the last one
        self._lease: Lease | None = None  # its slot
        self._has_begun = False  # something was passed on
        self._has_failed = False  # an upstream that took the call failed it
        self._suspect: tuple[Member, GatewayError] | None = None  # that one, while it may have been the call's fault
        self._failure: GatewayError | None = None  # of an answer that had begun
        self._is_hung = False  # the upstream hangs, and is left
        self._task: asyncio.Task[Any] | None = None  # asks an upstream
        self._known_before: Reader | None = None  # of the attempt before this one
        self._avoided: list[Member] = []  # not tried after a failure, since they may fail as well
        self._held: Portion = []  # events that are published once the answer has begun
        endings.push_async_callback(self._count_rest)

    # -- attempts ------------------------------------------------------------------------------------------------

    async def _begin(self) -> Begun:
        """Ask whichever upstream gives an answer.

        Raises Overloaded where none has a slot in time, UpstreamUnavailable where none is left, and what the one that
        took the call says against it.
        """
        self._task = asyncio.current_task()
        while True:
            lease = await self._leased()
            lease.member.unbegun.add(self._leave_hung)
            try:
                async with AsyncExitStack() as opened:
                    begun = await self._try(lease, opened)
                    self.endings.push_async_callback(opened.pop_all().aclose)
                    self._has_begun = True
                    return begun
            except GatewayError as exc:
                self._go_on_after(exc)
            except asyncio.CancelledError:
                if not self._is_hung or (self._task and self._task.uncancel()):  # its client has left
                    self._keep_usage()
                    raise
                self._go_on_after(Hung())
            finally:
                lease.member.unbegun.discard(self._leave_hung)

    async def _leased(self) -> Lease:
        """A slot of an upstream, or a visit there where the call needs no slot."""
        if not self.errand.endpoint.takes_slot:
            return self.queue.visit(self.want)
        try:
            return await self.queue.lease(self.want)
        except GatewayError as exc:
            if self._suspect and isinstance(self._suspect[1], InvalidRequest):
                raise self._suspect[1] from exc  # nobody else could be asked whether that is so
            raise

    async def _try(self, lease: Lease, opened: AsyncExitStack) -> Begun:
        self._is_over = self._is_hung = False
        self._lease = lease
        opened.push(partial(self._leave, lease))
        self.attempt = Attempt(self.errand, lease.member, self.pool.client)
        self.record.upstream = lease.member.name
        self.want.sent += 1
        answer = await self.attempt.post()
        opened.push_async_callback(answer.aclose)
        if self.errand.endpoint.reader is None:
            return await self._unstreamed(answer), nothing()
        self._known_before = self.record.reader
        self.reader = self.record.reader = self.errand.new_reader()
        self.record.first_token_at = None
        portions = self.attempt.portions(answer, self.reader)
        opened.push_async_callback(portions.aclose)
        take = self._folded if self.folds else self._passed_on
        while not (part := take(await anext(portions))):
            pass
        return part, portions

    def _leave_hung(self) -> None:
        """Leave the upstream, which hangs, where another may take the call."""
        assert self.attempt is not None
        assert self._task is not None
        if not self._is_hung and self._may_go_on(Hung(), [*self.want.tried, self.attempt.member]):
            self._is_hung = True
            self._task.cancel()

    def _note(self, events: Portion, *, has_begun: bool) -> None:
        if has_begun and self.record.first_token_at is None:
            self._note_answered()
        super()._note(events, has_begun=has_begun)
        if self._is_over and self._lease:  # whoever waits for the slot goes first, before this answer is told
            if not self.folds or self.reader.is_complete:
                self.pool.ended_well(self._lease.member)
            self._lease.release()

    def _note_answered(self) -> None:
        """The answer has begun: the upstream works, and the call was not the cause where another one failed it."""
        assert self.attempt is not None
        self.pool.answered(self.attempt.member)
        self._convict()

    def _leave(self, lease: Lease, _: Any, exc: BaseException | None, __: Any) -> None:
        """Give the slot back. Where an answer was left, the llama-server has it for a moment more."""
        failure = self._failure or exc
        sent(lease.member.name, "answered" if self._is_over else "timeout" if self._is_hung else outcome(failure)).inc()
        if self._is_over and lease.is_held and self.errand.endpoint.takes_slot:
            self.pool.ended_well(lease.member)
        if self._is_over or isinstance(exc, GatewayError):
            lease.release()
        else:
            asyncio.get_running_loop().call_later(AFTER_LEAVING, lease.release)

    # -- failures ------------------------------------------------------------------------------------------------

    def _go_on_after(self, exc: GatewayError) -> None:
        """Judge the upstream that failed the call, and raise the failure where no other one may take the call."""
        assert self.attempt is not None
        member = self.attempt.member
        self._keep_usage()
        if isinstance(exc, NeverSent | OutOfFiles):
            self.want.sent -= 1
        if isinstance(exc, NeverSent):
            self.want.tried = [each for each in self.want.tried if each not in self._avoided]
        if not isinstance(exc, StillLoading) and not self.pool.says_nothing(exc):
            self.want.tried.append(member)
        goes_on = self._may_go_on(exc, self.want.tried)
        first = self._suspect[1] if self._suspect else exc
        self._judge(member, exc, goes_on=goes_on)
        if not goes_on:
            raise first if isinstance(exc, NeverSent) else exc
        self._held = []
        if self.flight:  # at once: who boards while the next one works is told nothing of this one
            self.flight.restart()
        if not isinstance(exc, NeverSent):
            self._has_failed = True
            self._avoided = self.pool.doubtful(self.want.model, self.want.tried)
            self.want.tried += self._avoided

    def _keep_usage(self) -> None:
        """Account for the attempt before this one where this one has used nothing."""
        if self._known_before and not self.record.usage.total:
            self.record.reader = self._known_before
        self._known_before = None

    def _may_go_on(self, exc: GatewayError, tried: Sequence[Member]) -> bool:
        """True if another upstream may take a call. One that was failed may go on once, or it could break them all."""
        if isinstance(exc, OutOfFiles) or not self.pool.may_serve(self.want.model, tried):
            return False
        if self.flight and self.flight.was_heard:
            return False
        if isinstance(exc, NeverSent):
            return True
        if self._has_failed:
            return False
        if isinstance(exc, UpstreamTimeout):  # the next one would take as long, but for one that hangs
            return isinstance(exc, Hung) or self.pool.says_nothing(exc)
        if isinstance(exc, InvalidRequest):
            has_room = any(each.in_flight < each.capacity for each in self.pool.fit(self.want.model, tried))
            return has_room and self.attempt is not None and self.attempt.member.circuit.is_refusing
        return isinstance(exc, UpstreamError)

    def _judge(self, member: Member, exc: GatewayError, *, goes_on: bool) -> None:
        """Count a failure against the upstream, or leave it open until another one has had the call.

        Failures of the connection count by themselves. Of any other the call is the cause, where both say the same.
        """
        if isinstance(exc, OutOfFiles):
            self.pool.files.say(monotonic())
        elif isinstance(exc, NeverSent):
            self.pool.turned_away(member, exc)
        elif isinstance(exc, BrokenOff | UpstreamTimeout):
            self.pool.failed(member, exc)
            self._convict()
        elif goes_on:
            self._suspect = member, exc
            self.pool.doubted(member, reason_of(exc))
        elif isinstance(exc, InvalidRequest):
            self._acquit()
            self.pool.refused_call(member)
        elif self._suspect and are_alike(self._suspect[1], exc):
            self._acquit()
            self.pool.doubted(member, reason_of(exc))
            self.pool.acquitted(member)
        elif isinstance(exc, UpstreamError) and (
            self._has_failed or self.pool.may_serve(self.want.model, self.want.tried)
        ):
            self._convict()
            self.pool.convicted(member, exc.reason)
        else:  # it lives, and there is no other to compare it with
            self.pool.answered(member)
        if isinstance(exc, UpstreamError | UpstreamTimeout):
            self.pool.failed_call(member, exc, self.record.request_id, goes_on=goes_on)

    def _acquit(self) -> None:
        """The call was the cause of its first failure."""
        if self._suspect:
            self.pool.acquitted(self._suspect[0])
            self._suspect = None

    def _convict(self) -> None:
        """The call was not the cause of its first failure."""
        if self._suspect:
            member, exc = self._suspect
            self._suspect = None
            self.pool.convicted(member, reason_of(exc))

    @contextmanager
    def _counting_faults(self) -> Iterator[None]:
        """Count the failures of answers that have begun."""
        try:
            yield
        except GatewayError as exc:
            if self._has_begun and self.attempt is not None:
                self._failure = exc
                self._judge_late(self.attempt.member, exc)
            raise

    def _judge_late(self, member: Member, exc: GatewayError) -> None:
        """Count the failure of an answer that had begun, so that no other upstream can have the call."""
        if isinstance(exc, BrokenOff | UpstreamTimeout):
            self.pool.failed(member, exc)
        elif isinstance(exc, UpstreamError):
            self.pool.convicted(member, exc.reason)
        if isinstance(exc, UpstreamError | UpstreamTimeout):
            self.pool.failed_call(member, exc, self.record.request_id, goes_on=False)

    async def _count_rest(self) -> None:
        if self.attempt and self.record.reader:
            await self.attempt.count_rest(self.record.reader)

    # -- folding -------------------------------------------------------------------------------------------------

    def _folded(self, events: Portion) -> bytes:
        """The answer, once these were the last events of it; nothing before."""
        begun = [False]
        try:
            for number, event in enumerate(events):
                try:
                    begun.append(self.reader.fold(event))
                except GatewayError:
                    self._publish(events[:number], has_begun=any(begun))
                    raise
            self._publish(events, has_begun=any(begun))
            self._note(events, has_begun=any(begun))
            if not self._is_over:
                return b""
            if not self.reader.is_complete:
                self._is_over = False
                sentence = "The llama-server ended its answer without a finish reason."
                raise BrokenOff(sentence, reason="ended an answer without a finish reason")
            self.answer = self.reader.answer
            return orjson.dumps(self.answer)
        except UNREADABLE as exc:
            raise UpstreamError(NO_ANSWER) from exc

    def _publish(self, events: Portion, *, has_begun: bool) -> None:
        """Tell those who follow. Until the answer has begun, another upstream may still give it."""
        if self.flight:
            self._held += events
            if self._held and (has_begun or self.record.first_token_at is not None):
                self.flight.publish(self._held)
                self._held = []

    async def _unstreamed(self, answer: Answer) -> bytes:
        self.answer = await answer.whole()
        try:
            self.answer.pop("timings", None)
            self.record.known = self.errand.endpoint.count(self.answer)
        except UNREADABLE as exc:
            raise UpstreamError(NO_ANSWER) from exc
        if self.errand.endpoint.takes_slot:
            self._note_answered()
        else:
            self._convict()
        self.record.first_token()
        self._is_over = True
        return orjson.dumps(self.answer)


def outcome(exc: BaseException | None) -> str:
    """The outcome of an attempt without an answer, as a metric's label."""
    match exc:
        case NeverSent() | OutOfFiles():
            return "not_sent"
        case UpstreamTimeout():
            return "timeout"
        case UpstreamFault():
            return "failed"
        case GatewayError():
            return "refused"
    return "left"


@lru_cache(maxsize=1024)  # looking a label up costs more than counting
def sent(upstream: str, outcome: str) -> Any:
    return UPSTREAM_REQUESTS.labels(upstream, outcome)


def are_alike(first: GatewayError, second: GatewayError) -> bool:
    """True if two upstreams failed a call in the same way."""
    statuses = [each.answered for each in (first, second) if isinstance(each, UpstreamFault)]
    return type(first) is type(second) and len(set(statuses)) == 1


def reason_of(exc: GatewayError) -> str:
    return exc.reason if isinstance(exc, UpstreamFault) else "refuses calls that others answer"
