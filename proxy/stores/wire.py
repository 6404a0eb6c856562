"""Claims and verdicts as the scripts in lua/ read and write them. Pure."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from proxy.windows import Sliding, edges

from . import Lost, Meter, Reading, is_stale

SECOND = 1_000_000  # of the scripts' microseconds


class Keys(NamedTuple):
    """The keys of one account and some of its meters."""

    leases: str
    meters: tuple[str, ...]


@lru_cache(maxsize=10_000)
def keys_of(prefix: str, account: str, meters: tuple[Meter, ...]) -> Keys:
    tag = f"{prefix}:{{{account}}}"
    return Keys(f"{tag}:leases", tuple(f"{tag}:{meter.name}" for meter in meters))


@lru_cache(maxsize=1000)
def plans_of(meters: tuple[Meter, ...], hour: int) -> bytes:
    """What these meters are, as the scripts read it, in an hour since 1970: the edges of a calendar window move."""
    return orjson.dumps([plan_of(meter, hour * 3600.0) for meter in meters])


def plan_of(meter: Meter, now: float) -> list[Any]:
    plan: list[Any] = [-1 if meter.limit is None else meter.limit, meter.counts_tokens]
    if isinstance(meter.window, Sliding):
        return [*plan, meter.window.seconds, meter.window.width]
    return [*plan, edges(meter.window, now)]


def readings_of(meters: Iterable[Meter], told: Iterable[Any]) -> tuple[Reading, ...]:
    return tuple(Reading(meter, each[0], each[1] / SECOND) for meter, each in zip(meters, told, strict=True))


def unknown_of(meters: Iterable[Meter], told: Iterable[Any]) -> tuple[Meter, ...]:
    """The calendar meters that no ledger was read for yet."""
    return tuple(m for m, each in zip(meters, told, strict=True) if m.window.is_calendar and each[2] < 0)


def stale_of(meters: Iterable[Meter], told: Iterable[Any], now: int) -> tuple[tuple[Meter, float], ...]:
    """The calendar meters that the ledger should be read for again, each with when it began to be counted."""
    return tuple(
        (meter, since / SECOND)
        for meter, (_, _, since, read_at) in zip(meters, told, strict=True)
        if meter.window.is_calendar and is_stale(since / SECOND, read_at / SECOND, now / SECOND)
    )


def member_of(lease: str, admitted_at: float, tokens: int) -> str:
    """A lease as the scripts keep it."""
    return f"{round(admitted_at * SECOND)} {tokens} {lease}"


def lost_of(member: bytes) -> Lost:
    admitted_at, tokens, lease = member.decode().split(" ", 2)
    return Lost(lease, int(admitted_at) / SECOND, int(tokens))
