"""Where the gateway may connect to."""

import asyncio

import pytest

from proxy.destinations import Destinations, Forbidden, problem_with
from proxy.errors import GatewayError, NeverSent
from proxy.upstream import UpstreamClient
from tests.servers import free_port

pytestmark = pytest.mark.once

METADATA = [
    "169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
    "224.0.0.1",
    "fd20:ce::254",
    "64:ff9b:1::a9fe:a9fe",
    "::169.254.169.254",
    "2001:0:1:2:3:4:5601:5601",
]


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("allow", [(), ("0.0.0.0/0", "::/0", "gpu1")])
def test_metadata_and_link_local_addresses_are_refused_whatever_is_allowed(address, allow):
    with pytest.raises(Forbidden, match="metadata"):
        Destinations(allow).check("gpu1", address)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1", "203.0.113.5", "fd12::1"])
def test_any_other_may_be_reached(address):
    Destinations().check("gpu1", address)


@pytest.mark.parametrize(
    ("host", "address", "is_allowed"),
    [
        ("gpu1", "10.1.2.3", True),
        ("gpu1", "::ffff:10.1.2.3", True),
        ("gpu2", "192.0.2.1", True),
        ("GPU2", "192.0.2.1", True),
        ("a.lab.example", "192.0.2.1", True),
        ("lab.example", "192.0.2.1", False),
        ("evillab.example", "192.0.2.1", False),
        ("gpu1", "192.0.2.1", False),
    ],
)
def test_what_is_allowed_narrows_it(host, address, is_allowed):
    destinations = Destinations(["10.0.0.0/8", "gpu2", "*.lab.example"])
    try:
        destinations.check(host, address)
    except Forbidden as exc:
        assert not is_allowed, exc
    else:
        assert is_allowed


def test_something_that_is_no_network_is_told():
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        Destinations(["10.0.0.1/8"])


def test_a_connection_is_refused_when_its_address_is_known():
    async def asked(url, allow=()):
        client = UpstreamClient(1, 1, Destinations(allow))
        try:
            await client.get(url, "", 1)
        except GatewayError as exc:
            return exc
        finally:
            await client.aclose()

    refused = asyncio.run(asked("http://169.254.169.254/latest"))
    assert isinstance(refused, NeverSent)
    assert "metadata" in str(refused.__cause__)
    by_name = asyncio.run(asked(f"http://localhost:{free_port()}/", ["10.0.0.0/8"]))
    assert "UPSTREAM_ALLOW" in str(by_name.__cause__)


@pytest.mark.parametrize("url", ["http://gpu1:8080", "https://gpu1", "http://[::1]:8080/"])
def test_a_base_url_is_one(url):
    assert problem_with(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "gpu1:8080",
        "ftp://gpu1",
        "http://",
        "http://user@gpu1",
        "http://gpu1/v1",
        "http://gpu1?x=1",
        "http://gpu1:x",
        "http://[::1",
        " http://gpu1",
    ],
)
def test_anything_else_is_none(url):
    assert problem_with(url)
