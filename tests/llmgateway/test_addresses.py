"""Whose address a request comes from."""

import ipaddress

import pytest

from llmgateway.addresses import client_address, is_forwarded, peer, scheme_of

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
        (["192.0.2.1"], ("::ffff:192.0.2.1", "6.6.6.6"), "6.6.6.6"),
    ],
)
def test_only_trusted_proxies_are_believed(settings, trusted, arguments, address):
    settings.TRUSTED_PROXIES = tuple(ipaddress.ip_network(network) for network in trusted)
    assert client_address(scope(*arguments)) == address


def test_a_socket_without_an_address_has_none():
    assert peer({"client": None}) == ""
    assert client_address({"client": None, "headers": []}) == ""


def test_what_comes_through_a_unix_socket_is_forwarded():
    local = {**scope("", "6.6.6.6"), "client": None, "server": ("/run/gateway.sock", None)}
    assert client_address(local) == "6.6.6.6"


@pytest.mark.parametrize(
    ("peer", "told", "is_https", "scheme"),
    [
        ("10.0.0.1", "https", False, "https"),
        ("10.0.0.1", "http", True, "http"),  # the one that is sent to HTTPS
        ("10.0.0.1", None, True, "https"),
        ("10.0.0.1", "https, http", True, "https"),  # of a proxy before the proxy
        ("192.0.2.1", "http", True, "https"),  # anybody may say so, and a redirect would not end
        ("192.0.2.1", "https", False, "http"),
        ("192.0.2.1", None, False, "http"),
    ],
)
def test_only_a_trusted_proxy_says_that_a_request_came_in_clear(settings, peer, told, is_https, scheme):
    settings.TRUSTED_PROXIES = (ipaddress.ip_network("10.0.0.0/8"),)
    settings.IS_HTTPS = is_https
    headers = [(b"x-forwarded-proto", told.encode())] if told else []
    assert scheme_of({"client": (peer, 1), "headers": headers, "scheme": "http"}) == scheme


def test_a_forwarded_request_is_seen_to_be():
    assert is_forwarded(scope("1.1.1.1", "6.6.6.6"))
    assert not is_forwarded(scope())
