"""Which calls are answered from the cache, and under which key. Pure."""

import hashlib
from typing import NamedTuple

import orjson

from proxy.calls import Call
from proxy.endpoints import Endpoint

RANDOM_SEED = 2**32 - 1  # llama-server's own, and that of its callers' -1: a new one for each call

SCOPES = ("user", "tier", "all")  # who meets whose answers


class Wish(NamedTuple):
    """What a caller says of the cache, in Cache-Control: whether it may be read, and whether the answer may be kept."""

    reads: bool = True
    keeps: bool = True


def wish_of(cache_control: str) -> Wish:
    """`no-cache` wants a new answer; `no-store` wants that none is kept, either."""
    if not cache_control:
        return Wish()
    said = {word.strip().lower() for word in cache_control.split(",")}
    return Wish(reads=not said & {"no-cache", "no-store"}, keeps="no-store" not in said)


def is_deterministic(endpoint: Endpoint, call: Call, *, seeded: bool) -> bool:
    """Whether the same call has the same answer: at temperature 0 or, where that is to do (`seeded`), by its seed.

    Without a temperature it is llama-server's own, which is not 0. A sampler that leaves out the likeliest token by
    chance (XTC) does so at any temperature. Vectors and rankings are not sampled at all.
    """
    if endpoint.replay is None or call.choices != 1:
        return False
    if endpoint.reader is None:
        return True
    if seeded and 0 <= call.fields.get("seed", -1) < RANDOM_SEED:
        return True
    return call.fields.get("temperature") == 0 and not call.fields.get("xtc_probability")


def space_of(scope: str, user_id: int, tier_id: int) -> str:
    """Who may meet each other's answers, by CACHE_SCOPE."""
    return {"user": f"user:{user_id}", "tier": f"tier:{tier_id}"}.get(scope, "all")


def key_of(space: str, endpoint: str, identity: str, body: bytes) -> str:
    """The key of an answer: whose it is, of what, by which model as it runs now, to which request as it is sent."""
    return hashlib.sha256(orjson.dumps([space, endpoint, identity]) + body).hexdigest()
