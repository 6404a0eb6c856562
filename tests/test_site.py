"""A site as docs/operations.md sets it up, from the files in deploy/: nginx with TLS, four workers, a browser."""

import os
import secrets
import shutil
import ssl
import subprocess
import sys
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from tests.cast import bearer
from tests.conftest import CHAT
from tests.servers import ROOT, OwnRedis, Worker, database_url, free_port, is_listening, leave_out, wait_until

pytestmark = pytest.mark.once

NAME = "llm.example.org"
PASSWORD = "xk-71-opensesame"


def program(name, package):
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        leave_out(f"{name} is not installed (on Debian: apt-get install {package}).")
    return found


def changed(file, **changes):
    """A file of deploy/ with other words in it. Each must occur there."""
    text = (ROOT / "deploy" / file).read_text()
    for old, new in changes.items():
        assert old in text, f"{old} is not in {file}"
        text = text.replace(old, new)
    return text


def environment_of(text):
    """The variables of a file that systemd reads."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


class Site:
    def __init__(self, folder, llama, redis):
        self.folder = folder
        self.port, self.plain_port = free_port(), free_port()
        self.url = f"https://{NAME}:{self.port}"
        self.certificate = folder / "fullchain.pem"
        told = changed(
            "llmgateway.env",
            **{
                "SECRET_KEY=change-me": f"SECRET_KEY={secrets.token_urlsafe(48)}",
                f"https://{NAME}": self.url,
                "postgres://llmgateway:change-me@127.0.0.1:5432/llmgateway": database_url(),
                "redis://127.0.0.1:6379/0": redis,
                "http://127.0.0.1:8080": llama,
            },
        )
        self.environment = environment_of(told)
        workers = int(self.environment["WEB_CONCURRENCY"])
        self.gateway = Worker(llama, workers, **self.environment, TMPDIR=str(folder))

    def manage(self, *command):
        own = {**self.gateway.environment, "DJANGO_SUPERUSER_PASSWORD": PASSWORD}
        done = subprocess.run(
            [sys.executable, "-m", "llmgateway", *command], cwd=ROOT, env=own, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start_nginx(self):
        nginx, openssl = program("nginx", "nginx-light"), program("openssl", "openssl")
        key = self.folder / "privkey.pem"
        subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
        files = ["-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run(
            [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files],
            check=True,
            capture_output=True,
        )
        server = changed(
            "nginx.conf",
            **{
                "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
                "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
                "server 127.0.0.1:8000;": f"server 127.0.0.1:{self.gateway.port};",
                f"/etc/letsencrypt/live/{NAME}/fullchain.pem": str(self.certificate),
                f"/etc/letsencrypt/live/{NAME}/privkey.pem": str(key),
            },
        )
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = self.folder / "nginx.conf"
        config.write_text(
            f"daemon off; pid {self.folder}/nginx.pid; error_log {self.folder}/error.log;\n"
            f"events {{}}\nhttp {{ access_log off; {temporary}\n{server} }}\n"
        )
        command = [nginx, "-c", str(config), "-p", str(self.folder), "-e", str(self.folder / "error.log")]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def site(live, llama, tmp_path_factory):
    with OwnRedis() as redis:
        made = Site(tmp_path_factory.mktemp("site"), llama, redis.url)
        with made.start_nginx() as nginx:
            try:
                with made.gateway:
                    wait_until(lambda: len(made.gateway.children) == 4, "four workers are there", within=120)
                    wait_until(lambda: is_listening(made.port), "nginx listens")
                    yield made
            finally:
                nginx.terminate()


@pytest.fixture
def page(site):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        leave_out("chromium is not installed (on Debian: apt-get install chromium).")
    options = ["--no-sandbox", f"--host-resolver-rules=MAP {NAME} 127.0.0.1", "--ignore-certificate-errors"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        context = browser.new_context(ignore_https_errors=True)
        page = context.new_page()
        page.set_default_timeout(30_000)
        yield page
        browser.close()


@pytest.fixture
def ask(site):
    """Asks the site as a program does that trusts its certificate."""
    trust = ssl.create_default_context(cafile=str(site.certificate))
    base, headers = f"https://127.0.0.1:{site.port}", {"host": urlsplit(site.url).netloc}
    with httpx.Client(verify=trust, base_url=base, headers=headers, timeout=60) as client:

        def request(method, path, **options):
            return client.request(method, path, extensions={"sni_hostname": NAME}, **options)

        yield request


def test_nothing_is_to_be_warned_of(site):
    assert "no issues" in site.manage("check", "--deploy", "--fail-level", "WARNING")


def test_an_admin_signs_in_with_a_browser(site, page):
    site.manage("createsuperuser", "--no-input", "--username", "chief", "--email", "chief@example.org")
    page.goto(f"{site.url}/admin/")
    page.locator("[name=username]").fill("chief")
    page.locator("[name=password]").fill(PASSWORD)
    page.locator("[name=password]").press("Enter")
    expect(page.get_by_text("Waiting calls")).to_be_visible()
    assert page.url == f"{site.url}/admin/"
    secure = {cookie["name"]: cookie["secure"] for cookie in page.context.cookies()}
    assert secure == {"sessionid": True, "csrftoken": True}
    page.goto(f"{site.url}/account/")
    expect(page.locator("body")).to_contain_text(f"{site.url}/v1")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_calls_through_tls(site, ask, stream):
    key = site.manage("create_client", f"laptop-{stream}", "--tier", "premium").strip()
    answer = ask("POST", "/v1/chat/completions", headers=bearer(key), json={**CHAT, "stream": stream})
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n") if stream else answer.json()["choices"]


def test_it_is_ready_and_says_to_come_by_https_only(site, ask):
    assert ask("GET", "/health/ready").status_code == 200
    assert ask("GET", "/admin/login/").headers["strict-transport-security"] == "max-age=86400"
    in_clear = httpx.get(f"http://127.0.0.1:{site.plain_port}/admin/?x=1", headers={"host": NAME})
    assert (in_clear.status_code, in_clear.headers["location"]) == (301, f"https://{NAME}/admin/?x=1")


def test_metrics_are_for_nobody_who_comes_through_the_proxy(ask):
    assert ask("GET", "/metrics").status_code == 401


def test_the_unit_of_systemd_is_one(tmp_path):
    analyze = program("systemd-analyze", "systemd")
    unit = tmp_path / "llmgateway.service"
    unit.write_text(changed("llmgateway.service", **{"/opt/llmgateway/.venv/bin/llmgateway": sys.executable}))
    done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert "llmgateway" not in done.stderr, done.stderr
