"""uvicorn as the gateway uses it: its settings, the socket that it listens on, and how many files it may open."""

import logging
import os
import resource
import socket
import stat

import uvicorn

from .protocol import GatewayProtocol

logger = logging.getLogger(__name__)

BACKLOG = 2048  # connections that wait to be accepted
FEW_FILES = 8192  # a stream takes two of them: its client's connection and its llama-server's


def new_config(log_level: int) -> uvicorn.Config:
    """One process on our protocol. Addresses and the access log are our own; see addresses.py and middleware.py."""
    return uvicorn.Config(
        "llmgateway.asgi:application",
        http=GatewayProtocol,
        lifespan="on",
        workers=1,  # of its own: supervisor.py has several
        proxy_headers=False,
        access_log=False,
        log_config=None,
        log_level=log_level,
        backlog=BACKLOG,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address of this machine. Raises OSError where that is taken, or none."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def listen_at(path: str) -> socket.socket:
    """A Unix socket, for every user of this machine. One that nobody listens on any more is replaced.

    Raises OSError where somebody does, or where none can be made.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(path) != 0:
                    os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o666)  # noqa: S103  # a proxy runs as another user; its directory says who may come
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket) -> str:
    """The address of a listening socket, as people write it."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def raise_open_files() -> None:
    """Raise the limit of open files as far as it goes, and say so where that is not far."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (OSError, ValueError):  # a limit beyond that of the kernel
        logger.warning("The limit of open files stays at %d; %d, the hard one, was refused.", soft, hard)
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        logger.warning(
            "A process can open %d files only, so each worker holds about %d streams. "
            "Raise the hard limit: LimitNOFILE=65536 in a unit of systemd, ulimit -Hn elsewhere.",
            soft,
            max(0, soft - 100) // 2,
        )
