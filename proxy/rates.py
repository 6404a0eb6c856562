"""What answers say of limits, in headers: OpenAI's, and those of the IETF's draft. Pure.

The draft is draft-ietf-httpapi-ratelimit-headers-09: RateLimit-Policy names the quotas (q: limit, w: seconds, qu:
unit), and RateLimit says what is left of each (r) and when all of it will be free again (t, in seconds).
"""

import math
from collections.abc import Iterable
from functools import lru_cache

from .stores import Meter, Reading

SECONDS = {"minute": 60, "hour": 3600, "day": 86400}  # months differ


def rate_headers(readings: Iterable[Reading]) -> dict[str, str]:
    """The headers that tell of these meters; of those without a limit there is nothing to tell."""
    limited = [reading for reading in readings if reading.meter.limit is not None]
    if not limited:
        return {}
    headers = {
        "RateLimit-Policy": ", ".join(policy(reading.meter) for reading in limited),
        "RateLimit": ", ".join(state(reading) for reading in limited),
    }
    for metric in ("requests", "tokens"):
        if of_metric := [reading for reading in limited if reading.meter.metric == metric]:
            headers |= openai_headers(metric, min(of_metric, key=lambda each: (each.remaining, -each.resets_in)))
    return headers


def openai_headers(metric: str, tightest: Reading) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{metric}": str(tightest.meter.limit),
        f"x-ratelimit-remaining-{metric}": str(tightest.remaining),
        f"x-ratelimit-reset-{metric}": f"{math.ceil(tightest.resets_in)}s",
    }


@lru_cache(maxsize=1024)
def policy(meter: Meter) -> str:
    seconds = SECONDS.get(meter.window.name)
    window = f";w={seconds}" if seconds else ""
    return f'{name(meter)};q={meter.limit}{window};qu="{meter.metric}"'


def state(reading: Reading) -> str:
    return f"{name(reading.meter)};r={reading.remaining};t={math.ceil(reading.resets_in)}"


@lru_cache(maxsize=1024)
def name(meter: Meter) -> str:
    """A structured field's string, which holds printable ASCII only."""
    words = [meter.metric, meter.window.name, *([meter.model] if meter.model else [])]
    shown = "-".join(words).encode("ascii", "replace").decode()
    return '"' + "".join("?" if char in '"\\' or not char.isprintable() else char for char in shown) + '"'
