"""An answer as it stands in Redis: when it was kept, a space, and its JSON. Pure."""

from . import Kept


def written(answer: bytes, kept_at: float) -> bytes:
    return b"%.3f %s" % (kept_at, answer)


def kept_of(value: bytes) -> Kept:
    kept_at, _, answer = value.partition(b" ")
    return Kept(answer, float(kept_at))
