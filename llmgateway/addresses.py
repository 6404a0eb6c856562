"""Who is at the other end of the connection. The one place that reads forwarding headers."""

import ipaddress
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest

from .env import Network

FORWARDING = (b"x-forwarded", b"x-real-ip", b"forwarded", b"via", b"cf-", b"true-client-ip")  # how they begin


def scope_of(request: HttpRequest) -> Mapping[str, Any]:
    """The ASGI scope of a request; what stands for it where a test client made the request without one."""
    if isinstance(request, ASGIRequest):
        return request.scope
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    return {"client": (request.META.get("REMOTE_ADDR", ""), 0), "headers": headers}


def client_address(scope: Mapping[str, Any]) -> str:
    """The TCP peer or, behind proxies that TRUSTED_PROXIES names, the nearest hop that they do not."""
    address = peer(scope)
    for hop in reversed(forwarded_for(scope)):
        if not within(address, settings.TRUSTED_PROXIES):
            break
        address = hop
    return address


def address_of(request: HttpRequest) -> str:
    """The same of a request."""
    return client_address(scope_of(request))


def peer(scope: Mapping[str, Any]) -> str:
    return scope["client"][0] if scope.get("client") else ""


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
    return any(found in network for network in networks)
