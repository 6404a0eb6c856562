"""The environment, as typed values. Knows how each kind of value is written; settings.py knows which there are."""

import ipaddress
import os
import re
import secrets
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from environs import Env, EnvError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
PORTS = {"https": 443, "http": 80}


class Site(NamedTuple):
    """The address in people's browsers, spelled as they send it."""

    scheme: str
    host: str
    port: int | None  # None where it is the scheme's own

    @property
    def netloc(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    @property
    def is_https(self) -> bool:
        return self.scheme == "https"


def site_of(url: str) -> Site:
    """The site that a URL names: `https://llm.example.org`. Raises ValueError, which says what is wrong with it."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS:
        raise ValueError("it begins with neither https:// nor http://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it holds a user name or a password")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("it has more than a host, and the gateway answers at the root of one")
    port = parts.port if parts.port != PORTS[parts.scheme] else None
    return Site(parts.scheme, host_of(parts.hostname or ""), port)


def host_of(name: str) -> str:
    """A host as browsers send it. Raises ValueError where it is none."""
    if ":" in name:
        return f"[{ipaddress.IPv6Address(name)}]"
    try:
        host = name.rstrip(".").encode("idna").decode()
    except UnicodeError:
        host = ""
    if not HOST_NAME.fullmatch(host):
        raise ValueError(f"'{name}' is no name of a host")
    return host


class Environment(Env):
    """environs' reader, with the kinds of value that a gateway has beside strings and numbers."""

    def networks(self, name: str, default: str) -> tuple[Network, ...]:
        """Comma-separated networks or addresses: `10.0.0.0/8,127.0.0.1`."""
        try:
            return tuple(ipaddress.ip_network(part) for part in self.words(name, default))
        except ValueError as exc:
            raise EnvError(f"{name} holds something that is no network: {exc}") from exc

    def words(self, name: str, default: str = "") -> tuple[str, ...]:
        """Comma-separated words, blanks dropped."""
        return tuple(word.strip() for word in self.str(name, default).split(",") if word.strip())


def kept_secret(path: Path) -> str:
    """The secret kept in `path`, made on first use and readable by its owner alone.

    It lets a bare checkout run without a key that everybody knows. Raises ImproperlyConfigured where it cannot
    be kept, because a key that changes with each start would sign everybody out.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        if not path.exists():
            written.touch(mode=0o600)
            written.write_text(secrets.token_urlsafe(48))
            try:
                os.link(written, path)  # the first of several starting workers wins, whole
            except FileExistsError:
                pass
            finally:
                written.unlink()
        return path.read_text()
    except OSError as exc:
        raise ImproperlyConfigured(
            f"Set SECRET_KEY: none was given, and one cannot be kept in {path} ({exc})."
        ) from exc


def worker_count(argv: list[str] = sys.argv) -> int:
    """How many worker processes uvicorn or gunicorn was told to run, by argument or by environment; else 1."""
    words = [*os.environ.get("GUNICORN_CMD_ARGS", "").split(), *argv]
    if told := re.findall(r"(?:^| )(?:--workers|-w)[= ]?(\d+)(?= |$)", " ".join(words)):
        return int(told[-1])
    return int(os.environ.get("UVICORN_WORKERS") or os.environ.get("WEB_CONCURRENCY") or 1)
