"""The parent of several workers on one socket: it starts them, replaces those that die or hang, and ends with them.

A worker tells by a pipe, once a second, that its event loop runs. It is never asked anything, so that one which is
slow to start, since the machine is busy, is left to it. Where the parent is gone, the pipe is broken, and the worker
ends as if by SIGTERM.

SIGTERM and SIGINT end all workers; each drains (drain.py). SIGHUP replaces them one after the other by new ones, of
the code as it is then, without a moment in which nobody listens.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from types import FrameType

import uvicorn
from django.conf import settings
from uvicorn.config import STARTUP_FAILURE

from .server import new_config

logger = logging.getLogger(__name__)

SPAWN = multiprocessing.get_context("spawn")
BEAT = 1.0  # seconds between two signs of life of a worker
TURN = 0.5  # seconds between two looks at the workers
STARTS_WITHIN = 300.0  # seconds; a start takes one of CPU, which a busy machine may not have for long
SILENT_FOR = 60.0  # seconds without a sign of life that a worker is given
LINGERS_FOR = 15.0  # seconds that a worker may take to end, beyond those that its calls have
SHORT_LIFE = 60.0  # seconds; who dies earlier is replaced later each time
LONGEST_PAUSE = 30.0  # seconds


class WorkerServer(uvicorn.Server):
    """uvicorn in a worker, which tells its parent that it lives."""

    def __init__(self, config: uvicorn.Config, pipe: Connection) -> None:
        super().__init__(config)
        os.set_blocking(pipe.fileno(), False)
        self.pipe = pipe

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._beat()

    def _beat(self) -> None:
        try:
            os.write(self.pipe.fileno(), b".")
        except BlockingIOError:  # the parent is stopped
            pass
        except BrokenPipeError:
            logger.error("The parent of this worker is gone, so it stops.")
            signal.raise_signal(signal.SIGTERM)
            return
        asyncio.get_running_loop().call_later(BEAT, self._beat)


def work(listener: socket.socket, pipe: Connection, log_level: int) -> None:
    """The life of a worker, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; until it serves, its parent's SIGTERM ends it
    server = WorkerServer(new_config(log_level), pipe)
    server.run([listener])
    if not server.started:
        sys.exit(STARTUP_FAILURE)


class Worker:
    """A worker as its parent sees it."""

    def __init__(self, listener: socket.socket) -> None:
        self._pipe, theirs = SPAWN.Pipe(duplex=False)
        os.set_blocking(self._pipe.fileno(), False)
        self._process = SPAWN.Process(target=work, args=(listener, theirs, logging.getLogger().level))
        self._process.start()
        theirs.close()
        self.started_at = time.monotonic()
        self.is_ready = False
        self.is_leaving = False
        self._waited = 0.0  # seconds, counted in turns, so time in which the parent itself was stopped does not count

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it lives, negative where a signal ended it."""
        return self._process.exitcode

    @property
    def is_stuck(self) -> bool:
        if self.is_leaving:
            return self._waited > settings.DRAIN_NOTICE + settings.DRAIN_TIMEOUT + LINGERS_FOR
        return self._waited > (SILENT_FOR if self.is_ready else STARTS_WITHIN)

    def read_heartbeats(self) -> None:
        """Read the heartbeats since the last turn."""
        self._waited += TURN
        told = b""
        with suppress(BlockingIOError):
            told = os.read(self._pipe.fileno(), 65536)
        if told:
            self.is_ready = True
        if told and not self.is_leaving:
            self._waited = 0.0

    def leave(self) -> None:
        """Tell it to end when its calls have."""
        self.is_leaving = True
        self._waited = 0.0
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        self._waited = 0.0
        self.send(signal.SIGKILL)

    def send(self, number: int) -> None:
        assert self.pid is not None
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def close(self) -> None:
        self._process.join()
        self._pipe.close()


class Supervisor:
    """`wanted` workers on one socket. The first goes ahead: a setting with which none starts is said once."""

    def __init__(self, listener: socket.socket, wanted: int) -> None:
        self.listener = listener
        self.wanted = wanted
        self.workers: list[Worker] = []
        self._old: set[Worker] = set()  # to be replaced by new ones
        self._was_ready = False  # any of them, ever
        self._deaths = 0  # one soon after the other
        self._starts_at = 0.0
        self._caught: list[int] = []
        self._is_stopping = False
        self._failure = 0

    def run(self) -> int:
        """Serve until a signal says to stop. Gives the exit code, see failure_after()."""
        with self._signals():
            while self.workers or not self._is_stopping:
                for worker in [*self.workers]:
                    self._look_at(worker)
                while self._caught:
                    self._handle_signal(self._caught.pop(0))
                if not self._is_stopping:
                    self._fill()
                time.sleep(TURN)
        return self._failure

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def catch(number: int, _: FrameType | None) -> None:
            self._caught.append(number)

        before = {number: signal.signal(number, catch) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            logger.info("SIGHUP: all workers are replaced, one after the other.")
            self._old = {worker for worker in self.workers if not worker.is_leaving}
            return
        if self._is_stopping and number == signal.SIGINT:
            logger.info("SIGINT once more: calls that run are cut.")
            for worker in self.workers:
                worker.send(signal.SIGINT)
        elif not self._is_stopping:
            logger.info("%s: stopping %d workers.", signal.Signals(number).name, len(self.workers))
            self._stop()

    def _stop(self) -> None:
        self._is_stopping = True
        for worker in self.workers:
            if not worker.is_leaving:
                worker.leave()

    def _look_at(self, worker: Worker) -> None:
        exit_code = worker.exit_code
        worker.read_heartbeats()
        if worker.is_ready and not self._was_ready:
            self._was_ready = True
            logger.info("The first worker is ready.")
        if exit_code is not None:
            self.workers.remove(worker)
            self._old.discard(worker)
            worker.close()
            if not worker.is_leaving:
                self._handle_death(worker, exit_code)
        elif worker.is_stuck:
            logger.error("Worker %d is killed: it %s.", worker.pid, state_of(worker))
            worker.kill()

    def _handle_death(self, worker: Worker, exit_code: int) -> None:
        """Say that a worker died, and when the next one may start."""
        how = f"ended with {exit_code}" if exit_code >= 0 else f"was ended by {signal.Signals(-exit_code).name}"
        if not self._was_ready:
            logger.critical("The first worker %s before it was ready, so none is started.", how)
            self._failure = failure_after(exit_code)
            self._stop()
            return
        now = time.monotonic()
        lived_long = worker.is_ready and now - worker.started_at > SHORT_LIFE
        self._deaths = 0 if lived_long else self._deaths + 1
        pause = min(2.0 ** (self._deaths - 2), LONGEST_PAUSE) if self._deaths > 1 else 0.0
        self._starts_at = now + pause
        logger.error("Worker %d %s; another one starts in %g s.", worker.pid, how, pause)

    def _fill(self) -> None:
        """Start the workers that are missing, and let one go whose successor is ready."""
        staying = [worker for worker in self.workers if not worker.is_leaving]
        ready = [worker for worker in staying if worker.is_ready]
        if self._old and len(ready) > self.wanted:
            self._old.pop().leave()
            return
        wanted = self.wanted + bool(self._old) if self._was_ready else 1
        if time.monotonic() < self._starts_at:
            return
        try:
            for _ in range(wanted - len(staying)):
                self.workers.append(Worker(self.listener))
        except OSError as exc:  # no memory, or too many processes: those that there are go on
            logger.error("No worker can be started; the next attempt is in %g s. %s", LONGEST_PAUSE, exc)
            self._starts_at = time.monotonic() + LONGEST_PAUSE


def failure_after(exit_code: int) -> int:
    """The exit code of the site where its first worker ended with this one before it was ready.

    That of a start which fails again by the same settings is kept, and nothing starts the site again. A worker that a
    signal ended, for instance for lack of memory, may well start the next time.
    """
    return exit_code if exit_code > 0 else 1


def state_of(worker: Worker) -> str:
    if worker.is_leaving:
        return "does not end"
    return "has given no sign of life for a minute" if worker.is_ready else "is not ready after five minutes"
