"""Who is at the other end of the connection. The one place that reads forwarding headers."""

import ipaddress
import logging
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest

from .env import Network

logger = logging.getLogger(__name__)

FORWARDING = (b"x-forwarded", b"x-real-ip", b"forwarded", b"via", b"cf-", b"true-client-ip")  # how they begin


def scope_of(request: HttpRequest) -> Mapping[str, Any]:
    """The ASGI scope of a request; what stands for it where a test client made the request without one."""
    if isinstance(request, ASGIRequest):
        return request.scope
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    return {"client": (request.META.get("REMOTE_ADDR", ""), 0), "headers": headers}


def client_address(scope: Mapping[str, Any]) -> str:
    """The TCP peer or, behind proxies that TRUSTED_PROXIES names, the nearest hop that they do not."""
    hops = forwarded_for(scope)
    if not hops:
        return peer(scope)
    if not is_from_proxy(scope):
        unbelieved.tell(peer(scope))
        return peer(scope)
    while hops and within(hops[-1], settings.TRUSTED_PROXIES):
        nearest = hops.pop()
    return hops[-1] if hops else nearest


def scheme_of(scope: Mapping[str, Any]) -> str:
    """Either https or http: as a trusted proxy says, else as PUBLIC_URL says, else as the connection is.

    So only a trusted proxy's word makes a request one that came in clear, and is sent to HTTPS: behind one that says
    nothing, or is not trusted, the redirect would never end.
    """
    told = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-proto"]
    if told and is_from_proxy(scope):
        return "https" if "https" in ",".join(told).lower() else "http"
    return "https" if settings.IS_HTTPS else str(scope["scheme"])


def address_of(request: HttpRequest) -> str:
    """The same of a request."""
    return client_address(scope_of(request))


def peer(scope: Mapping[str, Any]) -> str:
    return scope["client"][0] if scope.get("client") else ""


def is_from_proxy(scope: Mapping[str, Any]) -> bool:
    """True if forwarding headers are believed: from TRUSTED_PROXIES, and through a Unix socket of this machine."""
    return within(peer(scope), settings.TRUSTED_PROXIES) or is_local(scope)


def is_local(scope: Mapping[str, Any]) -> bool:
    """True for a Unix socket, which has a path and no port."""
    return bool(scope.get("server")) and scope["server"][1] is None


def forwarded_for(scope: Mapping[str, Any]) -> list[str]:
    values = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    return [hop.strip() for hop in b",".join(values).decode("latin-1").split(",") if hop.strip()]


def is_forwarded(scope: Mapping[str, Any]) -> bool:
    """True for a request that came through a proxy, or claims so: its peer says nothing about its origin."""
    return any(name.startswith(FORWARDING) for name, _ in scope["headers"])


def within(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:  # of a socket that listens for both
        found = found.ipv4_mapped
    return any(found in network for network in networks)


class Unbelieved:
    """Says once that somebody who is not trusted forwards requests: most often, that is the site's own proxy."""

    def __init__(self) -> None:
        self._is_told = False

    def tell(self, address: str) -> None:
        if self._is_told:
            return
        self._is_told = True
        logger.warning(
            "X-Forwarded-For from %s is not believed, since TRUSTED_PROXIES does not name it. If it is your proxy, all "
            "its clients count as one address where sign-ins are limited, and in the log. This is said once.",
            address,
        )


unbelieved = Unbelieved()
