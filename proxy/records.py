"""What is known of one admitted call, gathered while it runs, and settled once when it has ended."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from time import perf_counter
from typing import Any

import orjson

from accounts.callers import Caller
from accounts.errors import GatewayError

from .cache import Result
from .errors import Overloaded
from .events import UNREADABLE
from .ledger import Row
from .metrics import FIRST_TOKEN, TOKENS
from .models import TAKEN_FOR_LOST
from .queue import Want
from .readers import Reader
from .stores import Grant, Lost, Store
from .usage import NOTHING_KNOWN, Usage

logger = logging.getLogger(__name__)

CLIENT_LEFT = 499  # nginx's number for a request whose client left before it was answered
LOST = 500


@dataclass(slots=True, eq=False)
class Record:
    """One call. It begins as one whose client has left, which is what it is if nothing else becomes of it.

    `began` is when the request came, in seconds of perf_counter. Once it is admitted it has a grant.
    """

    request_id: str
    caller: Caller
    tier: str
    endpoint: str
    model: str
    streamed: bool
    began: float
    grant: Grant | None = None
    upstream: str = ""
    first_token_at: float | None = None
    status: int = CLIENT_LEFT
    error: str = "client_left"
    reader: Reader | None = None
    known: Usage | None = None  # of an answer that came whole
    cache: Result = Result.BYPASS
    want: Want | None = None  # of an upstream's slot, where it is relayed

    def answered(self, status: int, error: str = "") -> None:
        """What the client is told, in the end or, of a stream, so far."""
        self.status = status
        self.error = error

    def first_token(self) -> None:
        """The first event is there that is for the client."""
        self.first_token_at = perf_counter()

    @property
    def usage(self) -> Usage:
        if self.reader is not None:
            try:
                return self.reader.usage
            except (GatewayError, *UNREADABLE):  # of an event that was not read before
                return self.reader.tally.usage
        if self.known is not None:
            return self.known
        was_sent = self.want is not None and self.want.sent > 0
        return NOTHING_KNOWN if was_sent and self.status >= CLIENT_LEFT else Usage()  # refused: nothing was run

    @property
    def is_free(self) -> bool:
        """It left the queue, or found no upstream: nothing was done for it."""
        if self.want is None:  # told from the cache, or with somebody else: perhaps with their refusal
            return self.error == Overloaded.code
        return not self.want.sent

    async def settle(self, store: Store, keep: Callable[[Row], None]) -> None:
        """Give back what the call did not use, hand its row to the ledger, and count it.

        One whose grant was given back, and that got no other, was refused in the end: it has no row. Whatever is wrong
        with one step, those after it are taken, and nothing is raised.
        """
        if self.grant is None:
            return
        try:
            usage = self.usage
        except Exception:
            logger.exception("The tokens of a call could not be told: %s", self.request_id)
            usage = NOTHING_KNOWN
        try:
            await store.settle(self.grant, usage.total, requests=0 if self.is_free else 1)
        except Exception:
            logger.exception("A call could not be settled: %s", self.request_id)
        try:
            keep(self.row(usage))
        except Exception:
            logger.exception("A call has no row in the ledger: %s", self.request_id)
        try:
            self._count(usage)
        except Exception:
            logger.exception("A call is missing in the metrics: %s", self.request_id)

    def _count(self, usage: Usage) -> None:
        prompt, cached, completion, first_token = series(self.model, self.tier)
        if usage.total:
            prompt.inc(usage.prompt)
            cached.inc(usage.cached)
            completion.inc(usage.completion)
        if self.first_token_at is not None:
            first_token.observe(self.first_token_at - self.began)

    @property
    def facts(self) -> Row:
        """What is known of the call from its start, as fields of a UsageRecord."""
        return {
            "request_id": self.request_id,
            "user_id": self.caller.user_id,
            "api_key_id": self.caller.api_key_id,
            "tier": self.tier,
            "endpoint": self.endpoint,
            "model": self.model[:200],
            "streamed": self.streamed,
        }

    def row(self, usage: Usage) -> Row:
        """The fields of a UsageRecord."""
        assert self.grant is not None
        return {
            **self.facts,
            "admitted_at": datetime.fromtimestamp(self.grant.admitted_at, UTC),
            "upstream": self.upstream[:200],
            "status": self.status,
            "error": self.error,
            "prompt_tokens": usage.prompt,
            "cached_tokens": usage.cached,
            "completion_tokens": usage.completion,
            "is_estimated": usage.is_estimated,
            "cache": self.cache.value,
            "is_free": self.is_free,
            "queue_ms": None if self.want is None else round(self.want.waited * 1000),
            "first_token_ms": milliseconds(self.began, self.first_token_at),
            "total_ms": milliseconds(self.began, perf_counter()),
        }


def lost_row(lost: Lost) -> Row | None:
    """The fields of a UsageRecord for a call whose holder died, from its lease: what was reserved counts as used.

    None for the lease of something that has no row.
    """
    if not lost.lease.startswith("{"):
        return None
    facts = orjson.loads(lost.lease)
    prompt = min(facts.pop("prompt"), lost.tokens)
    return {
        **facts,
        "admitted_at": datetime.fromtimestamp(lost.admitted_at, UTC),
        "upstream": "",
        "status": LOST,
        "error": TAKEN_FOR_LOST,
        "prompt_tokens": prompt,
        "cached_tokens": 0,
        "completion_tokens": lost.tokens - prompt,
        "is_estimated": True,
        "cache": "",
        "is_free": False,
        "total_ms": 0,
    }


@lru_cache(maxsize=1024)  # looking a label up costs more than counting
def series(model: str, tier: str) -> tuple[Any, Any, Any, Any]:
    tokens = [TOKENS.labels(kind, model, tier) for kind in ("prompt", "cached", "completion")]
    return tokens[0], tokens[1], tokens[2], FIRST_TOKEN.labels(model, tier)


def milliseconds(began: float, ended: float | None) -> int | None:
    return None if ended is None else round((ended - began) * 1000)
