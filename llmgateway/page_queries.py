"""A limit to how long one query of a page may run, so that no page holds up the database, sign-ins and other pages.

The limit belongs to the threads of the default lane (default_lane.py). They share the pool of connections with the
gateway's own threads (snapshot, ledger, roll-up, history), which have no limit; nor have commands and migrations.
"""

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from django.db import OperationalError, connections
from django.db.backends.signals import connection_created
from django.dispatch import receiver
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .pages import FOR_PEOPLE, page

logger = logging.getLogger(__name__)

LOOK_EVERY = 100_000  # steps of SQLite's machine between two looks at the clock: about a millisecond
STOPPED = ("57014", "SQLITE_INTERRUPT")  # PostgreSQL's code for it, and SQLite's


class ThreadState(threading.local):
    """State of the current thread."""

    serves_pages = False
    began = 0.0  # its latest query, in seconds of monotonic()


thread = ThreadState()
limits: WeakKeyDictionary[Any, float] = WeakKeyDictionary()  # of the pool's connections, in seconds; none: no limit


def limit_queries() -> None:
    """Limit the queries of this thread: the initializer of the default lane's threads."""
    thread.serves_pages = True
    connections["default"].execute_wrappers.append(timed)


def timed(execute: Callable[..., Any], *query: Any) -> Any:
    thread.began = monotonic()
    return execute(*query)


@receiver(connection_created)
def connected(connection: Any, **_: Any) -> None:
    """Set the limit where a page takes a connection, and lift it where anything else takes one that a page had."""
    held = connection.connection
    if connection.vendor == "sqlite" and thread.serves_pages:  # never shared: this thread has opened it for itself
        held.set_progress_handler(is_too_late, LOOK_EVERY)
    limit = max(0.0, settings.PAGE_QUERY_TIMEOUT) if thread.serves_pages else 0
    if connection.vendor == "postgresql" and limit != limits.get(held, 0):
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = {round(limit * 1000) or 'DEFAULT'}")  # milliseconds
        limits[held] = limit


def is_too_late() -> bool:
    return 0 < settings.PAGE_QUERY_TIMEOUT < monotonic() - thread.began


def was_stopped(exc: BaseException) -> bool:
    """True for the error of a query that reached the limit."""
    codes = (getattr(exc.__cause__, name, None) for name in ("sqlstate", "sqlite_errorname"))
    return isinstance(exc, OperationalError) and any(code in STOPPED for code in codes)


class StoppedQueries:
    """Answers a page whose query was stopped with one that says so, and that asks the database for nothing."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        if not (was_stopped(exception) and request.path.startswith(FOR_PEOPLE)):
            return None
        seconds = settings.PAGE_QUERY_TIMEOUT
        logger.warning("A query was stopped after %g s, of %s %r.", seconds, request.method, request.get_full_path())
        told = (
            "It was stopped, so that it holds up nobody else.",
            "Narrow the filter: one day, or one user, not all rows.",
        )
        without_filters = "The same page without filters" if request.GET else "Try again"
        return page(
            request, 503, f"This took longer than {seconds:g} s", *told, again=request.path, retry=without_filters
        )
