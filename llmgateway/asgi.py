"""The two lanes of the gateway, as one ASGI application: `uvicorn llmgateway.asgi:application`.

- relay lane (`/v1/`, `/health`): calls and their streams, asynchronous from end to end. See relay_lane.py.
- default lane (admin, `/auth`, `/metrics`): Django with all its middleware, on threads. See default_lane.py.

LANES=relay or LANES=default runs one of them alone, for sites that keep the admin's work away from the streams.
"""

import asyncio
import gc
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.checks import ERROR, CheckMessage, Tags, run_checks

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmgateway.settings")
django.setup(set_prefix=False)  # before the imports that need models

from accounts.snapshot import fresh_connection  # noqa: E402
from proxy.answers import answer_to, send_whole  # noqa: E402
from proxy.checks import check_metrics  # noqa: E402
from proxy.errors import UnknownUrl  # noqa: E402
from proxy.gateway import gateway  # noqa: E402

from .default_lane import DefaultLane  # noqa: E402
from .drain import Drain  # noqa: E402
from .processes import begin  # noqa: E402
from .relay_lane import RelayLane  # noqa: E402

logger = logging.getLogger(__name__)

Application = Callable[[Any, Any, Any], Awaitable[None]]

RELAY_PATHS = ("/v1/", "/health")
THREADS_BESIDE_RELAY = 2  # of the default lane while both lanes share a process: pages take time from streams
THREADS_ALONE = 8


class Lanes:
    """Sends each request down its lane, and starts and stops the gateway with the server.

    `cut` ends the calls that run, where the end cannot wait for them.
    """

    def __init__(self, *, default: Application, relay: Application, cut: Callable[[], int]) -> None:
        self.default = default
        self.relay = relay
        self.cut = cut
        self.drain = Drain(gateway(), cut)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close"})
        elif scope["path"].startswith(RELAY_PATHS):
            await self.relay(scope, receive, self.drain.closing(send))
        else:
            await self.default(scope, receive, self.drain.closing(send))

    async def live(self, receive: Any, send: Any) -> None:
        """The ASGI lifespan: check the settings, start, wait for the end, stop."""
        await receive()
        checks = run_checks() + check_metrics() + await asyncio.to_thread(database_checks)
        found = [check for check in checks if not check.is_silenced()]
        for check in found:
            logger.warning("%s", check)
        if errors := [check for check in found if check.level >= ERROR]:
            sentences = "\n".join(str(error) for error in errors)
            await send({"type": "lifespan.startup.failed", "message": f"The settings are dangerous.\n{sentences}"})
            return
        if settings.PROMETHEUS_MULTIPROC_DIR:
            await asyncio.to_thread(begin, Path(settings.PROMETHEUS_MULTIPROC_DIR), settings.WORKERS)
        await gateway().start()
        self.drain = Drain(gateway(), self.cut)
        self.drain.start()
        gc.collect()
        gc.freeze()  # what is loaded now stays: a full collection would stop all streams for as long as it looks at it
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.drain.stop()
        await gateway().stop()
        await send({"type": "lifespan.shutdown.complete"})


def database_checks() -> list[CheckMessage]:
    """What is wrong with what the database holds, on a thread."""
    with fresh_connection():
        return run_checks(tags=[Tags.database], databases=["default"])


async def not_here(scope: Any, receive: Any, send: Any) -> None:
    """What a process answers that does not serve this lane."""
    await send_whole(answer_to(UnknownUrl(f"This process serves other URLs only (LANES={settings.LANES}).")), send)


def only(path: str, lane: Application) -> Application:
    """A lane that serves nothing but what lies under this path."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await (lane if scope["path"].startswith(path) else not_here)(scope, receive, send)

    return serve


def lanes(which: str) -> Lanes:
    """The lanes that LANES asks for: both, relay or default. Health and metrics are every process's own."""
    relay = RelayLane()
    if which == "relay":
        return Lanes(relay=relay, default=only("/metrics", DefaultLane(THREADS_BESIDE_RELAY)), cut=relay.cut)
    if which == "default":
        return Lanes(relay=only("/health", relay), default=DefaultLane(THREADS_ALONE), cut=relay.cut)
    return Lanes(relay=relay, default=DefaultLane(THREADS_BESIDE_RELAY), cut=relay.cut)


application = lanes(settings.LANES)
