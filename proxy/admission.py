"""From policies to a claim on the store, and from its verdict to headers and refusals."""

import math
from collections.abc import Iterable, Sequence

from accounts.callers import Caller, Limit, Policies
from accounts.errors import GatewayError
from accounts.usage import QuotaUse

from .errors import InsufficientQuota, RateLimitExceeded, RequestExceedsQuota
from .stores import Claim, Meter, Reading, Verdict
from .windows import WINDOWS


def meters_of(limits: Iterable[Limit]) -> tuple[Meter, ...]:
    """The meters of a caller's request quotas."""
    return tuple(
        Meter(f"{metric}:{window}:{model}", WINDOWS[window], limit, metric, model)
        for metric, window, model, limit in limits
        if metric == "requests"
    )


def account_of(user_id: int) -> str:
    return f"user:{user_id}"


def claim_of(caller: Caller, model: str, policies: Policies) -> Claim:
    """What one call of this caller on this model asks for. Quotas of other models do not count it."""
    limits = policies.limits(caller.tier_id, caller.user_id)
    return Claim(
        account_of(caller.user_id),
        meters_of(limit for limit in limits if limit.model in ("", model)),
        policies.tiers[caller.tier_id].max_concurrent_requests,
    )


def quota_uses(readings: Sequence[Reading]) -> list[QuotaUse]:
    return [
        QuotaUse(meter.metric, meter.window.name, meter.model, meter.limit, used, resets_in)
        for meter, used, resets_in in readings
    ]


def rate_headers(readings: Iterable[Reading]) -> dict[str, str]:
    """OpenAI's x-ratelimit headers, speaking of the tightest meter."""
    limited = [reading for reading in readings if reading.meter.limit is not None]
    if not limited:
        return {}
    tightest = min(limited, key=lambda reading: (reading.remaining, -reading.resets_in))
    return {
        "x-ratelimit-limit-requests": str(tightest.meter.limit),
        "x-ratelimit-remaining-requests": str(tightest.remaining),
        "x-ratelimit-reset-requests": f"{math.ceil(tightest.resets_in)}s",
    }


def refusal(verdict: Verdict) -> GatewayError:
    """The answer to a call that was not admitted."""
    meter = verdict.refused_by
    if meter is None:
        sentence = "You have as many calls running as your tier allows. Wait for one to end."
        return RateLimitExceeded(sentence, retry_after=verdict.retry_after)
    limit = f"{meter.limit} {meter.metric} per {meter.window.name}" + (f" of {meter.model}" if meter.model else "")
    if verdict.retry_after is None:
        return RequestExceedsQuota(f"Your quota is {limit}, so this call can never be served.")
    error = InsufficientQuota if meter.window.name in ("day", "month") else RateLimitExceeded
    sentence = f"You have used your quota of {limit}. Try again in {verdict.retry_after} s."
    return error(sentence, retry_after=verdict.retry_after)


def refusal_reason(verdict: Verdict) -> str:
    """The refusing limit, as a metric's label."""
    meter = verdict.refused_by
    return "concurrency" if meter is None else f"{meter.metric}_{meter.window.name}"
