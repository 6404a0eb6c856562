"""Pages of other sites: none may call, but those of CORS_ALLOW_ORIGINS."""

import os
import subprocess
import sys

import httpx
import pytest

from tests.servers import PATIENCE, ROOT, answers, free_port, wait_until

pytestmark = pytest.mark.once

HERE, ELSEWHERE = "https://chat.example.org", "https://evil.example.org"


@pytest.fixture(scope="module")
def open_gateway(llama, tmp_path_factory):
    """A gateway of its own that one site's pages may call."""
    port = free_port()
    folder = tmp_path_factory.mktemp("cors")
    env = {
        **os.environ,
        "CORS_ALLOW_ORIGINS": HERE,
        "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
        "LLAMA_SERVERS": llama,
    }
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=env, check=True)
    command = [sys.executable, "-m", "uvicorn", "llmgateway.asgi:application", "--port", str(port), "--no-access-log"]
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/health/live"), "the gateway is up")
        yield url
        process.terminate()


def ask(url, method, path, origin):
    wanted = {"Origin": origin, "Access-Control-Request-Method": "POST"} if method == "OPTIONS" else {"Origin": origin}
    return httpx.request(method, f"{url}{path}", headers=wanted, timeout=PATIENCE)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/auth/token"])
def test_a_page_of_an_allowed_site_may_ask_and_call(open_gateway, path):
    asked = ask(open_gateway, "OPTIONS", path, HERE)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == HERE
    assert {"authorization", "x-api-key"} <= set(asked.headers["access-control-allow-headers"].split(", "))
    called = ask(open_gateway, "POST", path, HERE)
    assert called.headers["access-control-allow-origin"] == HERE
    assert "x-request-id" in called.headers["access-control-expose-headers"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/auth/token"])
def test_a_page_of_another_site_may_not(open_gateway, path):
    for method in ("OPTIONS", "POST"):
        assert "access-control-allow-origin" not in ask(open_gateway, method, path, ELSEWHERE).headers


def test_a_page_may_ask_which_models_there_are(open_gateway):
    wanted = {
        "Origin": HERE,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization, x-api-key, anthropic-version",
    }
    asked = httpx.request("OPTIONS", f"{open_gateway}/v1/models", headers=wanted, timeout=PATIENCE)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, HERE)
    allowed = asked.headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "x-api-key", "anthropic-version"} <= set(allowed)
    told = ask(open_gateway, "GET", "/v1/models", HERE)
    assert (told.status_code, told.headers["access-control-allow-origin"]) == (401, HERE)


def test_the_admin_is_for_no_other_site(open_gateway):
    assert "access-control-allow-origin" not in ask(open_gateway, "GET", "/admin/login/", HERE).headers


@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
def test_by_default_nobody_may(live, method):
    response = ask(live.url, method, "/v1/chat/completions", HERE)
    assert not [name for name in response.headers if name.startswith("access-control")]
