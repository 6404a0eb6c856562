"""What tests stand on. The gateway and the llama-server are real, and are started once for a run."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import hypothesis
import pytest
from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore
from django.db import connection, connections
from django.test.utils import setup_databases, teardown_databases
from pytest_django.plugin import DjangoDbBlocker

from proxy.gateway import gateway

from .cast import Person, member, person
from .fake_llama import FakeLlama, Script
from .servers import PATIENCE, LiveGateway, llama_server

hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("same")
settings.CACHE_TTL = 0  # tests compare answers that were computed; those of the cache have it on
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # made to be fast
MODEL = "smollm2-135m"
CHAT = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="session")
def django_db_setup(
    django_test_environment: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A test database in every run: pytest-django's own makes one only for tests that are marked.

    That of SQLite is a file of this run alone, since several may run at the same time.
    """
    with django_db_blocker.unblock():
        if connection.vendor == "sqlite":
            connection.settings_dict["TEST"]["NAME"] = tmp_path_factory.mktemp("database") / "test.sqlite3"
        made = setup_databases(verbosity=0, interactive=False, aliases={"default"})
        yield
        teardown_databases(made, verbosity=0)


@pytest.fixture(scope="session")
def llama() -> Iterator[str]:
    with llama_server() as url:
        yield url


@pytest.fixture(scope="session")
def embedder() -> Iterator[str]:
    """A real llama-server that answers /v1/embeddings, too."""
    with llama_server(0, "--pooling", "mean") as url:
        yield url


@pytest.fixture(scope="session")
def ranker() -> Iterator[str]:
    """A real llama-server that answers /v1/rerank."""
    with llama_server(0, "--pooling", "rank") as url:
        yield url


@pytest.fixture(scope="session")
def live(llama: str, django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[LiveGateway]:
    """The gateway, serving. Its tests write to the test database for good, under names of their own."""
    settings.LLAMA_SERVERS = (llama,)
    with django_db_blocker.unblock():
        server = LiveGateway()
        server.start()
        yield server
        server.stop()


@pytest.fixture
def http(live: LiveGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, timeout=5 * PATIENCE) as client:
        yield client


@pytest.fixture
def alice(live: LiveGateway) -> Person:
    """On the free tier: 10 requests a minute."""
    return person("alice", "free")


@pytest.fixture
def bob(live: LiveGateway) -> Person:
    """On the enterprise tier: more than a test can use."""
    return person("bob")


@pytest.fixture
def root(live):
    """The cookies of an admin of the gateway that serves."""
    user = person("root", is_staff=True, is_superuser=True).user
    session = SessionStore()
    session["_auth_user_id"] = str(user.pk)
    session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
    session["_auth_user_hash"] = user.get_session_auth_hash()
    session.save()
    return {"sessionid": session.session_key}


@pytest.fixture
def served_by(live: LiveGateway) -> Iterator[Callable[..., None]]:
    """Puts other llama-servers, by their URLs, behind the gateway until the end of the test."""
    pool = gateway().pool
    real = pool.members

    def serve(*urls: str, slots: int = 64) -> None:
        pool.members = tuple(member(url, MODEL, slots=slots, identity=url) for url in urls)

    yield serve
    pool.members = real


@pytest.fixture
def fake(served_by: Callable[..., None]) -> Iterator[Callable[[Script], FakeLlama]]:
    """Makes scripted llama-servers, the gateway's only ones until the end of the test."""
    fakes: list[FakeLlama] = []

    def make(script: Script) -> FakeLlama:
        fakes.append(FakeLlama(script))
        served_by(*(each.url for each in fakes))
        return fakes[-1]

    yield make
    for each in fakes:
        each.close()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a scripted llama-server waits for. It is opened at the end of the test in any case."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def together() -> Callable[..., Any]:
    """Runs functions at the same time, each on a thread of its own, and gives their futures."""

    @contextmanager
    def run(*functions: Callable[[], Any]) -> Iterator[list["Future[Any]"]]:
        with ThreadPoolExecutor(len(functions)) as threads:
            yield [threads.submit(alone, function) for function in functions]

    def alone(function: Callable[[], Any]) -> Any:
        """A thread leaves no connection to the database behind: there are few."""
        try:
            return function()
        finally:
            connections.close_all()

    return run


@pytest.fixture
def post(http: httpx.Client) -> Callable[..., httpx.Response]:
    """Posts a body to a path under /v1/ as a person."""

    def call(path: str, caller: Person, **body: Any) -> httpx.Response:
        return http.post(f"/v1/{path}", headers=caller.headers, json=body)

    return call


@pytest.fixture
def chat(http: httpx.Client) -> Callable[..., httpx.Response]:
    """Calls /v1/chat/completions as a person, or as a bearer of a token."""

    def call(caller: Person | str, **fields: Any) -> httpx.Response:
        headers = caller.headers if isinstance(caller, Person) else {"Authorization": f"Bearer {caller}"}
        if threading.current_thread() is not threading.main_thread():
            connections.close_all()  # of the few that there are, none is held while a call waits
        return http.post("/v1/chat/completions", headers=headers, json={**CHAT, **fields})

    return call


def pytest_report_header() -> list[str]:
    return [f"database: {settings.DATABASES['default']['ENGINE'].rsplit('.', 1)[1]}"]
