"""How a caller is told an answer: event by event or whole, wherever its events come from."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext

from accounts.errors import GatewayError

from .attempts import Errand, Portion, Portions
from .endings import Endings, cancelled, was_cut
from .errors import Stopping, UpstreamError
from .events import COMMENT, NO_ANSWER, UNREADABLE
from .readers import Reader
from .records import Record

logger = logging.getLogger(__name__)

Begun = tuple[bytes, Portions]  # the first part for the caller, and the portions that follow


class Telling(ABC):
    """One answer to one caller. Where it comes from is a subclass's matter.

    What it opens is closed by `endings`, however the call ends; what becomes known is kept in `record`.
    """

    reader: Reader  # of the answer, as this caller asked for it; made anew where it begins anew

    def __init__(self, errand: Errand, endings: Endings, record: Record) -> None:
        self.errand = errand
        self.endings = endings
        self.record = record
        self._is_over = False  # the last event was taken
        self._fault: GatewayError | None = None  # an error event, whose portion had more before it

    @abstractmethod
    async def _begin(self) -> Begun:
        """The first part for the caller, or all of it at once. Raises what comes instead of an answer."""

    def _counting_faults(self) -> AbstractContextManager[None]:
        """Around all that may fail."""
        return nullcontext()

    @property
    def length(self) -> int | None:
        """Tokens of the longest answer that this caller may get. None: as many as the model makes."""
        return self.errand.asked.length

    # -- what views ask ------------------------------------------------------------------------------------------

    async def whole(self) -> bytes:
        """The answer to a caller who asked for no stream, as JSON."""
        with self._counting_faults():
            answer, _ = await self._begin()
        return answer

    async def stream(self, patience: float) -> AsyncIterator[bytes]:
        """The answer as events. Until the first is there errors raise, but for no longer than `patience` seconds."""
        request, self.endings = self.endings, Endings()  # what is opened by the task is closed when that has ended
        request.push_async_callback(self.endings.unwind)
        beginning = asyncio.create_task(self._begin())
        request.push_async_callback(cancelled, beginning)
        await asyncio.wait({beginning}, timeout=patience)
        if beginning.done():
            with self._counting_faults():
                beginning.result()
        return self._parts(beginning, request)

    # -- streaming -----------------------------------------------------------------------------------------------

    async def _parts(self, beginning: "asyncio.Task[Begun]", request: Endings) -> AsyncIterator[bytes]:
        """What the caller gets, as it comes. The status is said, so a fault is an error event, and the end."""
        self.record.status = 200
        try:
            if not beginning.done():
                yield COMMENT
            with self._counting_faults():
                part, portions = await beginning
                while not self._is_over:
                    if part:
                        yield part
                    if self._fault:
                        raise self._fault
                    part = self._passed_on(await anext(portions))
                self.record.answered(200)
                await request.unwind()  # whoever reads the last part may call again at once
                yield part
        except GatewayError as exc:
            yield self._error_event(exc)
        except asyncio.CancelledError as exc:
            if not was_cut(exc):
                raise
            yield self._error_event(Stopping())
        except Exception:
            logger.exception("A stream failed.")
            yield self._error_event(GatewayError())

    def _error_event(self, error: GatewayError) -> bytes:
        self.record.answered(200, error.code)
        reader = getattr(self, "reader", None) or self.errand.new_reader()
        return reader.error_event(error)

    def _passed_on(self, events: Portion) -> bytes:
        """The part of a stream that these events make."""
        part = b""
        try:
            for event in events:
                part += self.reader.pass_on(event)
        except GatewayError as exc:
            if not part:
                raise
            self._fault = exc
        except UNREADABLE as exc:
            raise UpstreamError(NO_ANSWER) from exc
        self._note(events, has_begun=bool(part))
        return part

    def _note(self, events: Portion, *, has_begun: bool) -> None:
        self._is_over = self.reader.is_last(events[-1]) and not self._fault
        if has_begun and self.record.first_token_at is None:
            self.record.first_token()


async def nothing() -> Portions:
    """No more portions."""
    return
    yield []
