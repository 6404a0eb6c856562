"""The environment as typed values."""

import ipaddress
import stat

import pytest
from django.core.exceptions import ImproperlyConfigured
from environs import EnvError

from llmgateway.env import Environment, kept_secret, site_of, worker_count

env = Environment()


def test_words_are_split_and_stripped(monkeypatch):
    monkeypatch.setenv("WORDS", " a, b ,,c ")
    assert env.words("WORDS") == ("a", "b", "c")
    assert env.words("UNSET", "x,y") == ("x", "y")
    assert env.words("UNSET") == ()


def test_networks_are_networks_or_addresses(monkeypatch):
    monkeypatch.setenv("NETS", "10.0.0.0/8,::1")
    assert env.networks("NETS", "") == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))
    monkeypatch.setenv("NETS", "example.org")
    with pytest.raises(EnvError, match="NETS"):
        env.networks("NETS", "")


def test_a_secret_is_made_once_and_kept_from_others(tmp_path):
    path = tmp_path / "var" / "key"
    secret = kept_secret(path)
    assert len(secret) >= 48
    assert kept_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["key"]


def test_where_no_secret_can_be_kept_one_must_be_given(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ImproperlyConfigured, match="Set SECRET_KEY"):
        kept_secret(tmp_path / "file" / "key")


@pytest.mark.parametrize(
    ("argv", "variable", "workers"),
    [
        (["uvicorn", "app"], "", 1),
        (["uvicorn", "app"], "3", 3),
        (["uvicorn", "--workers", "4", "app"], "", 4),
        (["uvicorn", "--workers=4"], "2", 4),
        (["uvicorn", "--workers"], "", 1),
        (["gunicorn", "-w", "3"], "", 3),
        (["gunicorn", "-w3"], "2", 3),
        (["uvicorn", "app", "--port", "8000"], "", 1),
    ],
)
def test_workers_are_counted_as_servers_do(monkeypatch, argv, variable, workers):
    monkeypatch.setenv("WEB_CONCURRENCY", variable)
    assert worker_count(argv) == workers


@pytest.mark.parametrize(("name", "value"), [("UVICORN_WORKERS", "2"), ("GUNICORN_CMD_ARGS", "--bind=x --workers=2")])
def test_workers_are_found_in_the_servers_own_variables(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert worker_count(["server"]) == 2


@pytest.mark.parametrize(
    ("url", "origin", "host"),
    [
        ("https://llm.example.org", "https://llm.example.org", "llm.example.org"),
        ("https://LLM.Example.org:443/", "https://llm.example.org", "llm.example.org"),
        ("https://bücher.example:8443", "https://xn--bcher-kva.example:8443", "xn--bcher-kva.example"),
        ("http://gpu1:8000", "http://gpu1:8000", "gpu1"),
        ("http://10.0.0.5", "http://10.0.0.5", "10.0.0.5"),
        ("https://[2001:DB8::1]:8443", "https://[2001:db8::1]:8443", "[2001:db8::1]"),
    ],
)
def test_a_site_is_spelled_as_browsers_send_it(url, origin, host):
    assert (site_of(url).origin, site_of(url).host) == (origin, host)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("llm.example.org", "neither https:// nor http://"),
        ("ftp://llm.example.org", "neither https:// nor http://"),
        ("https://", "no name of a host"),
        ("https://*.example.org", "no name of a host"),
        ("https://a_b.example.org", "no name of a host"),
        ("https://a b", "no name of a host"),
        ("https://llm.example.org/v1", "more than a host"),
        ("https://llm.example.org?x", "more than a host"),
        ("https://me:secret@llm.example.org", "a user name or a password"),
        ("https://llm.example.org:99999", "Port out of range"),
        ("https://[::1", "Invalid IPv6 URL"),
    ],
)
def test_an_address_that_is_none_is_told_why(url, problem):
    with pytest.raises(ValueError, match=problem):
        site_of(url)
