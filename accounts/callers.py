"""Who a credential belongs to and what policies hold, as frozen values read from the database in few queries."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from .models import ApiKey, Quota, SignIn, Tier, User


class Credential(NamedTuple):
    """What a token names: an API key by its `jti`, or a sign-in by its `sid`."""

    kind: str  # "api_key" or "sign_in"
    id: str  # 32 hexadecimal digits


@dataclass(frozen=True, slots=True)
class Caller:
    """An account, as one credential shows it. It stands where DRF has `request.user`."""

    user_id: int
    username: str
    tier_id: int
    is_active: bool
    tokens_valid_from: float  # Unix time
    is_revoked: bool
    api_key_id: int | None = None  # of the API key that it called with
    quotas_reset_at: float | None = None  # Unix time: what was used before counts on no quota
    is_authenticated = True  # what DRF's IsAuthenticated asks


class Limit(NamedTuple):
    """At most `limit` of a metric in a window, of one model or, where that is blank, of all."""

    metric: str
    window: str
    model: str
    limit: int | None


@dataclass(frozen=True, slots=True)
class TierPolicy:
    name: str
    max_concurrent_requests: int | None
    max_output_tokens: int | None
    allowed_models: frozenset[str] | None
    uses_cache: bool = True
    max_queue_seconds: int | None = None

    def allows(self, model: str) -> bool:
        return self.allowed_models is None or model in self.allowed_models


@dataclass(frozen=True, slots=True)
class Policies:
    """All tiers, and all quotas by their owner: ("tier", id) or ("user", id)."""

    tiers: dict[int, TierPolicy]
    quotas: dict[tuple[str, int], tuple[Limit, ...]] = field(default_factory=dict)

    def limits(self, tier_id: int, user_id: int) -> tuple[Limit, ...]:
        """The limits of a user: the tier's, each replaced by the user's own of the same metric, window and model."""
        of_tier = self.quotas.get(("tier", tier_id), ())
        own = self.quotas.get(("user", user_id))
        if own is None:
            return of_tier
        replaced = {limit[:3] for limit in own}
        return tuple(limit for limit in of_tier if limit[:3] not in replaced) + own


def load_policies() -> Policies:
    tiers = {
        tier.pk: TierPolicy(
            tier.name,
            tier.max_concurrent_requests,
            tier.max_output_tokens,
            None if tier.allowed_models is None else frozenset(tier.allowed_models),
            tier.uses_cache,
            tier.max_queue_seconds,
        )
        for tier in Tier.objects.all()
    }
    quotas: dict[tuple[str, int], tuple[Limit, ...]] = {}
    for quota in Quota.objects.order_by("pk"):
        owner = ("tier", quota.tier_id) if quota.tier_id is not None else ("user", quota.user_id or 0)
        quotas[owner] = (*quotas.get(owner, ()), Limit(quota.metric, quota.window, quota.model, quota.limit))
    return Policies(tiers, quotas)


def load_callers(credentials: Iterable[Credential]) -> dict[Credential, Caller]:
    """The callers behind these credentials; those that the database does not know are left out."""
    ids: dict[str, list[str]] = {"api_key": [], "sign_in": []}
    for credential in credentials:
        ids[credential.kind].append(credential.id)
    found: dict[Credential, Caller] = {}
    if ids["api_key"]:
        for key in ApiKey.objects.filter(jti__in=ids["api_key"]).select_related("user"):
            found[Credential("api_key", key.jti)] = caller_of(key.user, key.revoked_at, key.pk)
    if ids["sign_in"]:
        for sign_in in SignIn.objects.filter(sid__in=ids["sign_in"]).select_related("user"):
            found[Credential("sign_in", sign_in.sid.hex)] = caller_of(sign_in.user, sign_in.ended_at)
    return found


def caller_of(user: User, ended_at: datetime | None, api_key_id: int | None = None) -> Caller:
    return Caller(
        user_id=user.pk,
        username=user.username,
        tier_id=user.tier_id,
        is_active=user.is_active,
        tokens_valid_from=user.tokens_valid_from.timestamp(),
        is_revoked=ended_at is not None,
        api_key_id=api_key_id,
        quotas_reset_at=None if user.quotas_reset_at is None else user.quotas_reset_at.timestamp(),
    )
