"""The limit of open files of this process, and what is said where it is reached."""

import errno
import logging
import os
import resource

logger = logging.getLogger(__name__)

FULL = (errno.EMFILE, errno.ENFILE)
SAY_EVERY = 10.0  # seconds


class FileLimit:
    def __init__(self) -> None:
        self._said_at = float("-inf")

    def check(self, now: float) -> None:
        """Say so where no file can be opened: the server drops connections that come in then, without a word."""
        if is_reached():
            self.say(now)

    def say(self, now: float) -> None:
        """Log that the limit is reached, once in a while."""
        if now - self._said_at < SAY_EVERY:
            return
        self._said_at = now
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        logger.error(
            "This process has as many open files as it may (%d), so connections fail. No llama-server is at fault."
            " Raise the limit: LimitNOFILE of systemd, or ulimit -n.",
            limit,
        )


def is_reached() -> bool:
    """True if this process cannot open a file now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as exc:
        return exc.errno in FULL
    return False
