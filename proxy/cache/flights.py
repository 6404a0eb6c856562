"""Single flight: one computation of an answer, for all identical calls that come while it is under way.

The first call leads, later ones follow: a stream gets the leader's events as they come. The work is a task of its own:
it goes on when the leader's client leaves, as long as anybody is aboard, and is ended when nobody is.
"""

import asyncio
from typing import Any

from accounts.errors import GatewayError
from proxy.attempts import Portion, Portions

from . import Kept

MOST_BYTES = 256 * 1024  # of events that are held for those who may come: some 500 tokens


class Abandoned(Exception):
    """Nothing comes of a flight, and nothing is wrong with the call: its leader was refused, or left it empty."""


class Listener:
    """Somebody who follows an answer live; `heard` is how many of its events they were told."""

    heard = 0


class Flight:
    """Calls board it when they look for their answer, and leave it when they end."""

    def __init__(self) -> None:
        self.aboard = 0
        self.landed = asyncio.Event()  # its outcome is known
        self.task: asyncio.Task[Any] | None = None
        self._kept: Kept | None = None
        self._failure: GatewayError | None = None
        self._events: Portion = []  # of the answer so far
        self._forgotten = 0  # events that came before these
        self._bytes = 0
        self._news = asyncio.Event()
        self._listeners: list[Listener] = []

    # -- aboard --------------------------------------------------------------------------------------------------

    def board(self) -> None:
        self.aboard += 1

    def leave(self) -> None:
        self.aboard -= 1
        if not self.aboard and self.task is not None and not self.landed.is_set():
            self.task.cancel()

    # -- the leader's work ---------------------------------------------------------------------------------------

    def publish(self, events: Portion) -> None:
        """Tell events of the answer to those who follow it live."""
        self._events += events
        self._bytes += sum(map(len, events))
        if self._bytes > MOST_BYTES:
            self._forget()
        self._tell()

    def restart(self) -> None:
        """Forget the events so far: another upstream tells all of them again."""
        self._events, self._forgotten, self._bytes = [], 0, 0

    @property
    def was_heard(self) -> bool:
        """Whether anybody may have been told a part of the answer, so that it cannot be begun anew."""
        return bool(self._forgotten + len(self._events)) and bool(self._listeners)

    def land(self, outcome: Kept | GatewayError | None) -> None:
        """Tell what became of it; None where nothing did. The first outcome counts."""
        if self.landed.is_set():
            return
        if isinstance(outcome, GatewayError):
            self._failure = outcome
        else:
            self._kept = outcome
        self.landed.set()
        self._tell()

    def _forget(self) -> None:
        """Drop what all who listen were told."""
        total = self._forgotten + len(self._events)
        told = min((each.heard for each in self._listeners), default=total) - self._forgotten
        self._bytes -= sum(map(len, self._events[:told]))
        self._forgotten += told
        del self._events[:told]

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # -- those who follow ----------------------------------------------------------------------------------------

    async def outcome(self) -> Kept:
        """The answer, once all of it is there. Raises what its leader met with, or Abandoned."""
        await self.landed.wait()
        if self._failure is not None:
            raise self._failure
        if self._kept is None:
            raise Abandoned
        return self._kept

    async def portions(self) -> Portions:
        """The events of the answer from its start, as they come.

        None where another worker computes it, and for who comes when the start of a long one was forgotten.
        """
        if self._forgotten:
            return
        self._listeners.append(listener := Listener())
        try:
            while True:
                if events := self._events[listener.heard - self._forgotten :]:
                    listener.heard += len(events)
                    yield events
                elif self._failure is not None:
                    raise self._failure
                elif self.landed.is_set():
                    return
                else:
                    await self._news.wait()
        finally:
            self._listeners.remove(listener)
