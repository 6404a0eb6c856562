"""Whose address a request comes from."""

import ipaddress

import pytest

from llmgateway.addresses import client_address, is_forwarded, peer

pytestmark = pytest.mark.once


def scope(peer="192.0.2.1", *headers):
    return {"client": (peer, 1), "headers": [(b"x-forwarded-for", value.encode()) for value in headers]}


@pytest.mark.parametrize(
    ("trusted", "arguments", "address"),
    [
        ([], ("192.0.2.1",), "192.0.2.1"),
        ([], ("192.0.2.1", "6.6.6.6"), "192.0.2.1"),
        (["192.0.2.1"], ("192.0.2.1", "6.6.6.6"), "6.6.6.6"),
        (["192.0.2.1"], ("192.0.2.1", "8.8.8.8, 6.6.6.6"), "6.6.6.6"),
        (["192.0.2.1", "6.6.6.6"], ("192.0.2.1", "8.8.8.8, 6.6.6.6"), "8.8.8.8"),
        (["192.0.2.1"], ("192.0.2.1", "8.8.8.8", "6.6.6.6"), "6.6.6.6"),
        (["192.0.2.1"], ("192.0.2.1",), "192.0.2.1"),
        (["10.0.0.0/8"], ("192.0.2.1", "6.6.6.6"), "192.0.2.1"),
    ],
)
def test_only_trusted_proxies_are_believed(settings, trusted, arguments, address):
    settings.TRUSTED_PROXIES = tuple(ipaddress.ip_network(network) for network in trusted)
    assert client_address(scope(*arguments)) == address


def test_a_socket_without_an_address_has_none():
    assert peer({"client": None}) == ""
    assert client_address({"client": None, "headers": []}) == ""


def test_a_forwarded_request_is_seen_to_be():
    assert is_forwarded(scope("1.1.1.1", "6.6.6.6"))
    assert not is_forwarded(scope())
