"""Where the gateway may connect to: what a base URL may be, and which addresses it may lead to. Pure.

Whoever writes the URL of an upstream makes the gateway connect there. The addresses of a cloud's metadata services give
out credentials to whoever asks from within, so no upstream may be there, whatever its name resolves to.
"""

import errno
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address

FORBIDDEN = tuple(
    map(
        ip_network,
        (
            "169.254.0.0/16",  # link-local: most clouds' metadata
            "fe80::/10",
            "fd00:ec2::/32",  # AWS
            "fd20:ce::254/128",  # Google Cloud
            "fd00:c1::a9fe:a9fe/128",  # Oracle Cloud
            "100.100.100.200/32",  # Alibaba Cloud
            "168.63.129.16/32",  # Azure
            "192.0.0.192/32",  # Oracle Cloud
            "224.0.0.0/4",  # multicast
            "ff00::/8",
        ),
    )
)
EMBEDDING = tuple(map(ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")))  # IPv4 in the last bits: NAT64, old


class Forbidden(OSError):
    """A connection that is not made."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EACCES, why)

    def __str__(self) -> str:
        return str(self.strerror)


class Destinations:
    """`allow` are networks and names of hosts, "*.example.org" for all of a domain. Without any, all may be reached.

    Raises ValueError where one is neither.
    """

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self.networks = []
        self.names = []
        for each in allow:
            if any(letter.isalpha() for letter in each) and ":" not in each:
                self.names.append(each.lower())
            else:
                self.networks.append(ip_network(each))

    def check(self, host: str, address: str) -> None:
        """Whether a connection for a URL with this host may go to this address. Raises Forbidden."""
        reached = plain(ip_address(address.partition("%")[0]))
        if any(reached in network for network in FORBIDDEN):
            raise Forbidden(f"{host} is at {reached}, a link-local or metadata address, where no upstream may be.")
        if (self.networks or self.names) and not self._allows(host.lower(), reached):
            raise Forbidden(f"{host} at {reached} is not in UPSTREAM_ALLOW.")

    def _allows(self, host: str, reached: Address) -> bool:
        is_named = any(host == name or (name.startswith("*.") and host.endswith(name[1:])) for name in self.names)
        return is_named or any(reached in network for network in self.networks)


def plain(address: Address) -> Address:
    """The IPv4 address that one of IPv6 stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if any(address in network for network in EMBEDDING) and int(address) > 1:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


def problem_with(base_url: str) -> str | None:
    """What is wrong with the base URL of an upstream."""
    try:
        parts = urlsplit(base_url)
        _ = parts.port
    except ValueError:
        return f"'{without_userinfo(base_url)}' is no URL."
    is_base = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/")
    if not is_base or parts.query or parts.fragment or "@" in parts.netloc or base_url != base_url.strip():
        return (
            f"'{without_userinfo(base_url)}' is no base URL. "
            "Write scheme, host and port, without path or password: http://127.0.0.1:8080"
        )
    return None


def without_userinfo(url: str) -> str:
    """A URL as it may be shown: without a user's name and password. It need not be a valid one."""
    return re.sub(r"^([a-z]*:?//)?.*@", r"\1", url, flags=re.IGNORECASE | re.DOTALL)
