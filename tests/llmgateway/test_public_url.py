"""PUBLIC_URL: one setting from which hosts, origins, cookies, redirects and HSTS follow."""

import os
import re
import subprocess
import sys

import httpx
import pytest

from tests.servers import ROOT, Worker

pytestmark = pytest.mark.once

SITE = "https://llm.example.org"


def check(*options, **environment):
    """What `manage.py check` says in such an environment."""
    command = [sys.executable, "manage.py", "check", *options]
    own = {**os.environ, "SECRET_KEY": "", "DEBUG": "0", "ALLOWED_HOSTS": "localhost", **environment}
    return subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)


def test_with_it_a_deployment_has_nothing_to_warn_of():
    done = check("--deploy", "--fail-level", "WARNING", PUBLIC_URL=SITE)
    assert (done.returncode, "no issues" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(("url", "told"), [("", "is not set"), ("http://gpu1:8000", "begins with http://")])
def test_without_it_a_deployment_is_told_of_it(url, told):
    done = check("--deploy", PUBLIC_URL=url)
    assert f"(llmgateway.W001) PUBLIC_URL {told}" in done.stderr
    assert "set PUBLIC_URL=https://llm.example.org" in done.stderr


def test_one_that_is_no_address_keeps_the_server_from_starting():
    done = check(PUBLIC_URL="llm.example.org")
    assert (done.returncode, "llmgateway.E001" in done.stderr) == (1, True)


@pytest.fixture(scope="module")
def behind(live, llama):
    """A gateway behind a proxy with TLS that it trusts."""
    with Worker(llama, PUBLIC_URL=SITE, TRUSTED_PROXIES="127.0.0.1", ALLOWED_HOSTS="gw.internal") as server:
        yield server


@pytest.fixture(scope="module")
def unknown(live, llama):
    """A gateway behind a proxy that nobody has told it of."""
    with Worker(llama, PUBLIC_URL=SITE) as server:
        yield server


def ask(server, path, proto=None, host="llm.example.org"):
    headers = {"host": host, "x-forwarded-for": "203.0.113.9"} | ({"x-forwarded-proto": proto} if proto else {})
    return httpx.get(f"{server.url}{path}", headers=headers)


def test_who_came_in_clear_is_sent_to_https(behind):
    response = ask(behind, "/account/?x=1", "http")
    assert (response.status_code, response.headers["location"]) == (301, f"{SITE}/account/?x=1")
    elsewhere = ask(behind, "/account/", "http", host="gw.internal")
    assert elsewhere.headers["location"] == f"{SITE}/account/"


@pytest.mark.parametrize("proto", ["https", None])
def test_a_proxy_with_tls_meets_no_loop(behind, proto):
    response = ask(behind, "/admin/login/", proto)
    assert response.status_code == 200
    assert response.headers["strict-transport-security"] == "max-age=86400"
    assert re.search("csrftoken=.*; Secure", response.headers["set-cookie"])


@pytest.mark.parametrize("proto", ["http", "https", None])
def test_one_that_is_not_trusted_meets_none_either(unknown, proto):
    assert ask(unknown, "/admin/login/", proto).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/metrics", "/v1/models"])
def test_programs_are_not_redirected(behind, path):
    assert ask(behind, path, "http").status_code in (200, 401)


def test_own_hosts_add_to_it(behind):
    assert [ask(behind, "/admin/login/", "https", host).status_code for host in ("gw.internal", "evil.test")] == [
        200,
        400,
    ]


def test_a_form_sent_behind_tls_is_taken(behind):
    with httpx.Client(base_url=behind.url, headers={"host": "llm.example.org", "x-forwarded-proto": "https"}) as client:
        page = client.get("/admin/login/")
        token = re.search('name="csrfmiddlewaretoken" value="([^"]+)"', page.text)[1]
        cookies = {"cookie": f"csrftoken={page.cookies['csrftoken']}"}
        form = {"csrfmiddlewaretoken": token, "username": "nobody", "password": "wrong"}
        answer = client.post("/admin/login/", data=form, headers={"origin": SITE, **cookies})
    assert (answer.status_code, "Please enter the correct" in answer.text) == (200, True)


def test_a_proxy_that_is_not_trusted_is_told_of_once(live, llama, capfd):
    with Worker(llama, LOG_LEVEL="INFO") as server:
        for _ in range(3):
            ask(server, "/health/live")
    told = [line for line in capfd.readouterr().err.splitlines() if "TRUSTED_PROXIES" in line]
    assert ["X-Forwarded-For from 127.0.0.1 is not believed" in line for line in told] == [True]
