"""`llmgateway serve`: both lanes for production, in one process or several."""

import logging
import os
import socket
import sys
import tempfile
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from uvicorn.config import STARTUP_FAILURE

from llmgateway.processes import withdraw
from llmgateway.server import address_of, listen, listen_at, new_config, raise_open_files
from llmgateway.supervisor import Supervisor

logger = logging.getLogger(__name__)


def at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"'{text}' is no number of workers of 1 or more")
    return int(text)


class Command(BaseCommand):
    help = "Serve the gateway. Settings come from the environment; dangerous ones are said, and end it."
    requires_system_checks = []  # each worker runs them as it starts

    def add_arguments(self, parser: ArgumentParser) -> None:
        where = parser.add_mutually_exclusive_group()
        where.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        where.add_argument("--uds", metavar="PATH", help="listen on a Unix socket instead")
        where.add_argument("--fd", type=int, metavar="N", help="listen on a socket that is open already: 3 of systemd")
        parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
        parser.add_argument(
            "--workers",
            type=at_least_one,
            default=settings.WORKERS,
            help="processes; more than one needs REDIS_URL (default: WEB_CONCURRENCY, else 1)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        raise_open_files()
        workers = options["workers"]
        with listening(options) as listener:
            logger.info("Listening on %s, workers: %d.", address_of(listener), workers)
            if workers > 1:
                with metrics_folder():
                    os.environ["WEB_CONCURRENCY"] = str(workers)  # each asks how many there are
                    sys.exit(Supervisor(listener, workers).run())
            server = uvicorn.Server(new_config(logging.getLogger().level))
            server.run([listener])
            if not server.started:
                sys.exit(STARTUP_FAILURE)


@contextmanager
def listening(options: dict[str, Any]) -> Iterator[socket.socket]:
    """The socket that the options name. A Unix socket is removed in the end, unless a successor's is in its place."""
    made = None
    try:
        if options["fd"] is not None:
            listener = socket.socket(fileno=options["fd"])
        elif options["uds"]:
            listener = listen_at(options["uds"])
            made = identity_of(options["uds"])
        else:
            listener = listen(options["host"], options["port"])
    except OSError as exc:
        where = options["uds"] or f"{options['host']}:{options['port']}"
        where = where if options["fd"] is None else f"file descriptor {options['fd']}"
        raise CommandError(f"Cannot listen on {where}: {exc.strerror or exc}") from exc
    try:
        with listener:
            yield listener
    finally:
        if made is not None and identity_of(options["uds"]) == made:
            with suppress(FileNotFoundError):
                os.unlink(options["uds"])


def identity_of(path: str) -> tuple[int, int, int] | None:
    """The device, inode and time in ns of a file, since a new file may get the inode of a removed one. None if gone."""
    with suppress(FileNotFoundError):
        found = os.stat(path)
        return found.st_dev, found.st_ino, found.st_mtime_ns
    return None


@contextmanager
def metrics_folder() -> Iterator[None]:
    """A directory in which several workers add their metrics up, unless PROMETHEUS_MULTIPROC_DIR names one."""
    if settings.PROMETHEUS_MULTIPROC_DIR:
        withdraw(Path(settings.PROMETHEUS_MULTIPROC_DIR))
        yield
        return
    with tempfile.TemporaryDirectory(prefix="llmgateway-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # the workers', which have not loaded prometheus_client yet
        yield
