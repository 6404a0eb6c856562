"""The parts that all calls of one process share, from their start to their stop."""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from asgiref.sync import async_to_sync
from django.apps import apps
from django.conf import settings
from django.utils.text import Truncator

from accounts.callers import Policies, load_policies
from accounts.errors import StoreUnavailable
from accounts.migration_state import MigrationState
from accounts.models import User
from accounts.snapshot import Snapshot
from accounts.usage import QuotaUse

from .admission import Admission, meters_of, quota_uses
from .cache import AnswerStore, Size
from .cache.answers import AnswerCache
from .cache.memory import MemoryAnswers
from .cache.redis import RedisAnswers
from .counting import PromptCounter
from .destinations import Destinations, without_userinfo
from .gauges import Gauges
from .history import History
from .ledger import Ledger
from .members import Member, Spec
from .metrics import CACHE_UP, STORE_UP
from .models import ModelAlias, Upstream
from .pool import Pool
from .queue import SlotQueue
from .records import lost_row
from .rollup import RollUp
from .slots import Slots
from .slots.guarded import GuardedSlots
from .slots.memory import MemorySlots
from .slots.redis import RedisSlots
from .stores import AccountId, Lost, Meter, Reading, Store
from .stores.guarded import GuardedStore
from .stores.memory import MemoryStore
from .stores.redis import RedisStore
from .upstream import UpstreamClient

T = TypeVar("T")

HEALTH_SHOWN = 120  # letters of an upstream's health on a page
CALL_TIMEOUT = 10.0  # seconds that a thread waits for the event loop


class Site(NamedTuple):
    """What the snapshot holds for the proxy: other names of models, and the admin's upstreams, if there are any."""

    aliases: Mapping[str, str]
    upstreams: tuple[Spec, ...]


class Gateway:
    """Made when Django starts, alive between the ASGI server's start and stop. It reads use for accounts, too."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None  # while it is alive
        self.is_stopping = False
        self.store = new_store()
        self.cache = AnswerCache(new_answer_store())
        self.snapshot = Snapshot(settings.SNAPSHOT_MAX_STALE)
        self.ledger = Ledger(settings.LEDGER_MAX_ROWS)
        self.history = History()
        self.admission = self._new_admission()

    async def start(self) -> None:
        """Read what calls need and look at the llama-servers, then keep doing so."""
        self.snapshot = Snapshot(settings.SNAPSHOT_MAX_STALE, load_extra=load_site, take=self._take)
        self.ledger = Ledger(settings.LEDGER_MAX_ROWS)
        self.client = UpstreamClient(
            settings.UPSTREAM_CONNECT_TIMEOUT, settings.UPSTREAM_IDLE_TIMEOUT, Destinations(settings.UPSTREAM_ALLOW)
        )
        self.pool = Pool(self.client, settings.UPSTREAM_POLL_INTERVAL)
        worker = f"{os.getpid():x}-{secrets.token_hex(4)}"
        self.queue = SlotQueue(self.pool, self._new_slots(worker), worker)
        self.prompt_counter = PromptCounter(self.pool, settings.MAX_TEXT_BYTES)
        self.history = History()
        self.admission = self._new_admission()
        self.loop = asyncio.get_running_loop()
        self.is_stopping = False
        self.migrations = MigrationState()
        await self.migrations.start()
        await self.store.start()
        await self.cache.start()
        await self.queue.slots.start()
        await self.snapshot.start()
        await self.pool.start()
        await self.ledger.start()
        self.roll_up = RollUp()
        self.roll_up.start()
        self.gauges = Gauges(self)
        self.gauges.start()

    async def stop(self) -> None:
        await self.migrations.stop()
        await self.gauges.stop()
        await self.roll_up.stop()
        await self.cache.stop()
        await self.pool.stop()
        await self.queue.slots.stop()
        await self.snapshot.stop()
        await self.client.aclose()
        await self.ledger.stop()
        await self.store.stop()
        self.history.stop()
        self.loop = None

    def _new_admission(self) -> Admission:
        return Admission(self.store, self.history, self._write_lost)

    def _new_slots(self, worker: str) -> Slots:
        """Who counts the slots: Redis where there is one, else this process."""
        if not isinstance(self.store, GuardedStore):
            return MemorySlots()
        store = self.store
        return GuardedSlots(RedisSlots(settings.REDIS_URL, worker), lambda: store.share)

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
        site: Site = self.snapshot.whole.extra
        return site.aliases

    def _take(self, site: Site) -> None:
        """What the database says of upstreams, every second."""
        self.pool.update(site.upstreams or upstreams_of_settings())

    @property
    def policies(self) -> Policies:
        """Tiers and quotas as held or, outside a running server, from the database."""
        try:
            return self.snapshot.policies
        except StoreUnavailable:
            return load_policies()

    def remaining(self, users: Sequence[User]) -> list[list[QuotaUse]]:
        """The use of each quota of these users, as the database has them now. Raises StoreUnavailable."""
        policies = load_policies()
        asked = [(account_id(user), meters_of(policies.limits(user.tier_id, user.pk))) for user in users]
        return [quota_uses(readings) for readings in self.call(self._read, asked)]

    def models_for(self, user: User) -> list[str]:
        """The models that a user may use now; none where no gateway runs here."""
        tier = load_policies().tiers.get(user.tier_id)
        return [name for name in self.pool.models if tier and tier.allows(name)] if self.loop else []

    async def _read(self, asked: Iterable[tuple[AccountId, Sequence[Meter]]]) -> Sequence[Sequence[Reading]]:
        return await asyncio.gather(*(self.admission.read(*each) for each in asked))

    def upstream_state(self, url: str) -> "UpstreamState | None":
        """How the upstream at this base URL fares, as this process sees it; None where no gateway runs in it."""
        return None if self.loop is None else self.call(self._state_of, url)

    def upstream_states(self) -> "list[tuple[str, UpstreamState]]":
        """The name of each upstream that serves, also of those that LLAMA_SERVERS names, and how it fares."""
        return self.call(self._states)

    async def _states(self) -> "list[tuple[str, UpstreamState]]":
        return [(member.name, await self._state(member)) for member in self.pool.enabled]

    async def _state_of(self, url: str) -> "UpstreamState":
        member = next((each for each in self.pool.members if each.url == url), None)
        if member is None:
            return UpstreamState("added a moment ago", (), 0, None, None, is_up=False)
        return await self._state(member)

    async def _state(self, member: Member) -> "UpstreamState":
        busy = None
        with suppress(StoreUnavailable):
            busy = (await self.queue.slots.busy([member.url]))[member.url]
        models = tuple(dict.fromkeys(member.told.models.values()))
        return UpstreamState(member.health, models, member.slots, busy, member.told.context, member.is_up, member.since)

    def cache_size(self) -> Size:
        """How much the cache holds. Raises StoreUnavailable."""
        return self.call(self.cache.store.size)

    def empty_cache(self) -> int:
        """Forget all answers. Gives how many there were. Raises StoreUnavailable."""
        return self.call(self.cache.store.empty)


class UpstreamState(NamedTuple):
    """One upstream, for people. `busy` slots are those of all workers; None where that is not known."""

    health: str
    models: tuple[str, ...]
    slots: int
    busy: int | None
    context: int | None
    is_up: bool
    since: datetime | None = None  # it is up, or down, or loading, where that is known

    @property
    def health_line(self) -> str:
        """Its health as one line of a page, however long a llama-server's own words are."""
        told = Truncator(" ".join(self.health.split())).chars(HEALTH_SHOWN)
        if self.since is None:
            return told
        is_today = self.since.date() == datetime.now(UTC).date()
        return f"{told} (since {self.since.strftime('%H:%M' if is_today else '%Y-%m-%d %H:%M')} UTC)"


def account_id(user: User) -> AccountId:
    return AccountId(user.pk, user.quotas_reset_at.timestamp() if user.quotas_reset_at else None)


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


def load_site() -> Site:
    aliases = dict(ModelAlias.objects.values_list("name", "model"))
    return Site(aliases, tuple(row.spec for row in Upstream.objects.order_by("pk")))


def upstreams_of_settings() -> tuple[Spec, ...]:
    """Those that serve while the admin has none."""
    urls = [url.rstrip("/") for url in settings.LLAMA_SERVERS]
    return tuple(
        Spec(urlsplit(without_userinfo(url)).netloc, url, settings.LLAMA_API_KEY) for url in dict.fromkeys(urls)
    )


def gateway() -> Gateway:
    """This process's own."""
    found: Gateway = apps.get_app_config("proxy").gateway  # type: ignore[attr-defined]  # set in ready()
    return found
