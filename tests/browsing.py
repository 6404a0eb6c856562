"""A real browser for tests of pages, and what people do in it again and again.

SCREENSHOTS=folder keeps a picture of each page that is looked at, light and dark, wide and narrow.
"""

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.cast import Person, bearer, person
from tests.conftest import CHAT
from tests.servers import PATIENCE, leave_out

PASSWORD = "xk-71-opensesame"
WIDE, NARROW = (1280, 900), (390, 800)
expect.set_options(timeout=PATIENCE * 1000)  # milliseconds
FOLDER = os.environ.get("SCREENSHOTS")
THEMES = ("light", "dark") if FOLDER else ("light",)


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        leave_out("chromium is not installed (on Debian: apt-get install chromium).")
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # playwright runs a loop in this thread, and tests ask the database
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()
    if before is None:
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def page(browser, live):
    """A new browser's only page. It fails where anything is loaded from elsewhere, or where a script fails.

    That a page itself has a status of 400 or more is no failure: a browser notes it as one.
    """
    context = browser.new_context(base_url=live.url, viewport={"width": WIDE[0], "height": WIDE[1]})
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)  # milliseconds
    wrong: list[str] = []
    error_pages: set[str] = set()
    own = urlsplit(live.url).netloc

    def look(request):
        where = urlsplit(request.url)
        if where.scheme not in ("data", "blob") and where.netloc != own:
            wrong.append(f"asks {where.netloc}")

    def note(response):
        if response.status >= 400 and response.request.is_navigation_request():
            error_pages.add(response.url)

    def listen(told):
        if told.type == "error" and told.location["url"] not in error_pages:
            wrong.append(f"console: {told.text}")

    page.on("request", look)
    page.on("response", note)
    page.on("pageerror", lambda error: wrong.append(f"script: {error.stack}"))
    page.on("console", listen)
    yield page
    context.close()
    assert not wrong


def root() -> Person:
    return person("root", is_staff=True, is_superuser=True, password=PASSWORD)


def sign_in(page: Page, path: str, someone: Person) -> None:
    page.goto(path)
    page.locator("[name=username]").fill(someone.user.username)
    page.locator("[name=password]").fill(PASSWORD)
    page.locator("[name=password]").press("Enter")


def call(live, key: str) -> httpx.Response:
    body = {**CHAT, "messages": [{"role": "user", "content": "Name three colours."}]}
    return httpx.post(f"{live.url}/v1/chat/completions", headers=bearer(key), json=body, timeout=PATIENCE)


def look_at(page: Page, name: str, path: str = "") -> None:
    """Wide and narrow, nothing sticks out at the side. For pictures it is opened in light and dark."""
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        if path:
            page.goto(path)
        else:  # the admin looks at the scheme when it is loaded
            page.evaluate("dark => document.documentElement.classList.toggle('dark', dark)", theme == "dark")
        if name.startswith("docs"):
            page.wait_for_load_state("networkidle")
        for form, (width, height) in {"wide": WIDE, "narrow": NARROW}.items():
            page.set_viewport_size({"width": width, "height": height})
            if FOLDER:
                Path(FOLDER).mkdir(parents=True, exist_ok=True)
                page.screenshot(path=Path(FOLDER) / f"{name}-{theme}-{form}.png", full_page=name != "calls")
            sticks_out = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert sticks_out <= 0, (name, theme, form, sticks_out)
