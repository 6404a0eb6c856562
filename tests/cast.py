"""The people that tests are about. Each is made anew, under a name of their own, so that tests share nothing."""

import itertools
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.utils import timezone

from accounts.models import ApiKey, Tier, User
from accounts.tokens import ApiKeyToken, RefreshToken
from proxy.members import Member, Spec, Told

numbers = itertools.count(1)


@dataclass
class Person:
    """A user and their credentials."""

    user: User

    @property
    def refresh(self) -> RefreshToken:
        return RefreshToken.for_user(self.user)

    @property
    def token(self) -> str:
        return str(self.refresh.access_token)

    @property
    def headers(self) -> dict[str, str]:
        return bearer(self.token)

    def key(self, **fields: Any) -> tuple[ApiKey, str]:
        """A new API key: its row and the key itself."""
        row = ApiKey.objects.create(
            user=self.user, **{"name": "test", "expires_at": timezone.now() + timedelta(days=1), **fields}
        )
        return row, str(ApiKeyToken.for_key(row))


def person(name: str, tier: str | Tier = "enterprise", **fields: Any) -> Person:
    of_tier = tier if isinstance(tier, Tier) else Tier.objects.get(name=tier)
    return Person(User.objects.create_user(f"{name}-{next(numbers)}", tier=of_tier, **fields))


def new_tier(requests_a_minute: int | None = None, **fields: Any) -> Tier:
    tier = Tier.objects.create(name=f"tier-{next(numbers)}", **fields)
    if requests_a_minute is not None:
        tier.quotas.create(metric="requests", window="minute", limit=requests_a_minute)
    return tier


def member(url: str, *models: str, up: bool = True, slots: int = 4, **told: Any) -> Member:
    """An upstream of a pool that nobody looks at."""
    made = Member(Spec(url.rsplit("/")[-1], url), Told({model: model for model in models}, slots=slots, **told))
    made.is_known = True
    if not up:
        made.circuit.refused(0, "nobody is there")
    return made


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
