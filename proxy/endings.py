"""What a request must give back when it ends: leases, places, connections."""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

CUT = "The gateway stops."  # the message of a cancellation that a client can still be told of


def was_cut(exc: asyncio.CancelledError) -> bool:
    """Whether a task was cancelled so, and then it goes on, to say so."""
    task = asyncio.current_task()
    if exc.args != (CUT,) or task is None:
        return False
    task.uncancel()
    return True


class Endings(AsyncExitStack):
    """An exit stack that is unwound once, on the event loop, to its end, whoever cancels meanwhile."""

    async def unwind(self) -> None:
        """Close all, last opened first. Later calls find nothing left to do."""
        if not self._exit_callbacks:  # type: ignore[attr-defined]  # contextlib's own; a task for nothing costs 20 us
            return
        unwinding = asyncio.ensure_future(self.aclose())
        while not unwinding.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(unwinding)
        unwinding.result()


async def cancelled(task: "asyncio.Task[Any]") -> None:
    """End a task, and wait until it has. What it failed with is nobody's any more."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
