"""The parts that all calls of one process share, from their start to their stop."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from asgiref.sync import async_to_sync
from django.apps import apps
from django.conf import settings

from accounts.callers import Policies, load_policies
from accounts.errors import StoreUnavailable
from accounts.snapshot import Snapshot
from accounts.usage import QuotaUse

from .admission import Admission, meters_of, quota_uses
from .cache import AnswerStore, Size
from .cache.answers import AnswerCache
from .cache.memory import MemoryAnswers
from .cache.redis import RedisAnswers
from .counting import PromptCounter
from .history import History
from .ledger import Ledger
from .metrics import CACHE_UP, LEDGER_WAITING, SNAPSHOT_AGE, STORE_UP
from .models import ModelAlias
from .pool import Pool, Upstream
from .records import lost_row
from .stores import Lost, Store
from .stores.guarded import GuardedStore
from .stores.memory import MemoryStore
from .stores.redis import RedisStore
from .upstream import UpstreamClient

T = TypeVar("T")

CALL_TIMEOUT = 10.0  # seconds that a thread waits for the event loop


class Gateway:
    """Made when Django starts, alive between the ASGI server's start and stop. It reads use for accounts, too."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None  # while it is alive
        self.store = new_store()
        self.cache = AnswerCache(new_answer_store())
        self.snapshot = Snapshot(settings.SNAPSHOT_MAX_STALE)
        self.ledger = Ledger(settings.LEDGER_MAX_ROWS)
        self.history = History()
        self.admission = self._new_admission()
        SNAPSHOT_AGE.set_function(lambda: self.snapshot.age)
        LEDGER_WAITING.set_function(lambda: self.ledger.waiting)

    async def start(self) -> None:
        """Read what calls need and look at the llama-servers, then keep doing so."""
        self.snapshot = Snapshot(settings.SNAPSHOT_MAX_STALE, load_extra=load_aliases)
        self.ledger = Ledger(settings.LEDGER_MAX_ROWS)
        self.client = UpstreamClient(settings.UPSTREAM_CONNECT_TIMEOUT, settings.UPSTREAM_IDLE_TIMEOUT)
        upstreams = [Upstream(url.rstrip("/"), settings.LLAMA_API_KEY) for url in settings.LLAMA_SERVERS]
        self.pool = Pool(upstreams, self.client, settings.UPSTREAM_POLL_INTERVAL)
        self.prompt_counter = PromptCounter(self.pool, settings.MAX_TEXT_BYTES)
        self.history = History()
        self.admission = self._new_admission()
        self.loop = asyncio.get_running_loop()
        await self.store.start()
        await self.cache.start()
        await self.snapshot.start()
        await self.pool.start()
        await self.ledger.start()

    async def stop(self) -> None:
        await self.cache.stop()
        await self.pool.stop()
        await self.snapshot.stop()
        await self.client.aclose()
        await self.ledger.stop()
        await self.store.stop()
        self.history.stop()
        self.loop = None

    def _new_admission(self) -> Admission:
        return Admission(self.store, self.history, self._write_lost)

    def _write_lost(self, lost: Lost) -> None:
        if row := lost_row(lost):
            self.ledger.add(row)

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call a coroutine function from a thread: on the gateway's loop while it is alive, else on one of its own."""
        if self.loop is None:
            return async_to_sync(function)(*args)
        return asyncio.run_coroutine_threadsafe(awaited(function, *args), self.loop).result(CALL_TIMEOUT)

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names of models, and what each stands for."""
        aliases: Mapping[str, str] = self.snapshot.whole.extra
        return aliases

    @property
    def policies(self) -> Policies:
        """Tiers and quotas as held or, outside a running server, from the database."""
        try:
            return self.snapshot.policies
        except StoreUnavailable:
            return load_policies()

    def remaining(self, user_id: int, tier_id: int) -> Sequence[QuotaUse]:
        meters = meters_of(self.policies.limits(tier_id, user_id))
        return quota_uses(self.call(self.admission.read, user_id, meters))

    def cache_size(self) -> Size:
        """How much the cache holds. Raises StoreUnavailable."""
        return self.call(self.cache.store.size)

    def empty_cache(self) -> int:
        """Forget all answers. Gives how many there were. Raises StoreUnavailable."""
        return self.call(self.cache.store.empty)


async def awaited(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    return await function(*args)


def new_store() -> Store:
    """Where limits are counted: in Redis where there is one, else in this process."""
    STORE_UP.set(1)
    if not settings.REDIS_URL:
        return MemoryStore()
    shared = RedisStore(settings.REDIS_URL, joins=settings.LANES != "default")  # who admits no calls needs no share
    return GuardedStore(shared, settings.STORE_DOWN_POLICY, settings.WORKERS, STORE_UP.set)


def new_answer_store() -> AnswerStore:
    """Where answers are kept: in Redis where there is one, else in this process."""
    CACHE_UP.set(1)
    if not settings.REDIS_URL:
        return MemoryAnswers(settings.CACHE_MAX_BYTES)
    return RedisAnswers(settings.REDIS_URL, settings.CACHE_MAX_BYTES, CACHE_UP.set)


def load_aliases() -> dict[str, str]:
    return dict(ModelAlias.objects.values_list("name", "model"))


def gateway() -> Gateway:
    """This process's own."""
    found: Gateway = apps.get_app_config("proxy").gateway  # type: ignore[attr-defined]  # set in ready()
    return found
