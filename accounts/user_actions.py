"""Things that an admin does with users: the question before each, what it does, and how it is told afterwards."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Q
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from .confirmation import Question, named
from .erasure import erase
from .models import ApiKey, Tier, User

Users = Any  # a queryset of users
EVERYBODY = Q()


@dataclass(frozen=True, kw_only=True)
class UserAction:
    """One of them. Its sentences hold {who}, the users, {count}, the number that `carry_out` gives, and {before}.

    The last are the users' names from before it: an erased one has another.
    """

    button: str
    title: str
    effects: Sequence[str] = ()
    stays: Sequence[str] = ()
    is_final: bool = False
    carry_out: Callable[[Users], int]
    concerns: Q = EVERYBODY  # users that it changes anything for
    needless: str = ""  # told where it concerns nobody
    told: str
    noted: str  # in the history of each user

    def question(self, users: Sequence[User]) -> Question:
        names = [user.username for user in users]
        return Question(
            title=format_html(self.title, who=named(names)),
            button=self.button,
            effects=self.effects,
            stays=self.stays,
            is_final=self.is_final,
            names=names if len(names) > 1 else (),
        )

    def report(self, before: Sequence[str], now: Iterable[User], count: int) -> SafeString:
        """The message afterwards, with links to the users' pages."""
        links = [
            format_html(
                '<a class="gw-named" href="{}">{}</a>', reverse("admin:accounts_user_change", args=[user.pk]), user
            )
            for user in now
        ]
        return format_html(self.told, who=named(links), count=count, before=named(before))


SUSPEND = UserAction(
    button="Suspend",
    title="Suspend {who}?",
    effects=["Calls are refused from now on (2 seconds at most). Tokens and browser sessions end."],
    stays=["API keys are kept: they work again after Reactivate. Tokens do not."],
    carry_out=lambda users: users.suspend(),
    concerns=Q(is_active=True),
    needless="Nobody was suspended: the accounts are suspended already.",
    told="{who} suspended. Calls are refused from now on (2 seconds at most).",
    noted="Suspended.",
)
REACTIVATE = UserAction(
    button="Reactivate",
    title="Reactivate {who}?",
    carry_out=lambda users: users.reactivate(),
    concerns=Q(is_active=False),
    needless="Nobody was reactivated: the accounts are active already.",
    told="{who} reactivated. API keys work again; everything else needs a new sign-in.",
    noted="Reactivated.",
)
REVOKE_KEYS = UserAction(
    button="Revoke all API keys",
    title="Revoke all API keys of {who}?",
    effects=["The keys stop working within 2 seconds. Programs that use them need new keys."],
    stays=["Tokens and browser sessions keep working."],
    is_final=True,
    carry_out=lambda users: ApiKey.objects.filter(user__in=users).revoke(),
    concerns=Q(pk__in=ApiKey.objects.filter(revoked_at=None).values("user")),
    needless="No API key was revoked: there was none that was not revoked already.",
    told="API keys of {who} revoked: {count}. Takes effect within 2 seconds.",
    noted="All API keys revoked.",
)
REVOKE_TOKENS = UserAction(
    button="Revoke all tokens",
    title="Revoke all tokens of {who}?",
    effects=["All tokens and browser sessions end within 2 seconds. A new sign-in works at once."],
    stays=["API keys keep working."],
    is_final=True,
    carry_out=lambda users: users.revoke_tokens(),
    told="Tokens and browser sessions of {who} ended. API keys keep working. Takes effect within 2 seconds.",
    noted="All tokens revoked.",
)
RESET_QUOTAS = UserAction(
    button="Reset quotas",
    title="Reset the quotas of {who}?",
    effects=["All quotas, of every window, count from zero again."],
    stays=["The list of calls and the totals of usage keep everything."],
    is_final=True,
    carry_out=lambda users: users.reset_quotas(),
    told="Quotas of {who} reset. Takes effect within 2 seconds.",
    noted="Quotas reset.",
)
ERASE = UserAction(
    button="Erase",
    title="Erase {who}?",
    effects=[
        "User name, first and last name and mail are removed: the account is called erased-NUMBER from then on.",
        "API keys are revoked; tokens, browser sessions and the password end. Calls are refused within 2 seconds.",
        "Admin rights and group memberships are removed.",
        "The names are removed from the records of sign-ins, with the addresses, and from the history of changes.",
    ],
    stays=[
        "Calls, usage and refusals are kept under the new name, so that totals stay right.",
        "Log files written until now keep the user name. Answers in the cache expire by themselves.",
    ],
    is_final=True,
    carry_out=lambda users: sum(erase(user) for user in users),
    concerns=Q(erased_at=None),
    needless="Nobody was erased: the accounts are erased already.",
    told="{before} erased: called {who} from now on. API keys revoked: {count}.",
    noted="Erased.",
)


def move_to(tier: Tier, users: Users) -> UserAction:
    """The action that puts users on a tier. Its question tells which tiers these users leave."""
    left = users.exclude(tier=tier).order_by("tier__name").values_list("tier__name").annotate(Count("pk"))
    return UserAction(
        button="Move",
        title=format_html("Move {{who}} to tier {tier}?", tier=tier.name),
        effects=[
            f"The limits of tier {tier} hold from the next call on.",
            f"On another tier until now: {', '.join(f'{name} ({count})' for name, count in left)}.",
        ],
        stays=["Personal quotas hold as before."],
        carry_out=lambda users: users.update(tier=tier),
        concerns=~Q(tier=tier),
        needless=f"Nobody was moved: the accounts are on tier {tier} already.",
        told=format_html("{{who}} moved to tier {tier}. Takes effect within 2 seconds.", tier=tier.name),
        noted=f"Moved to tier {tier}.",
    )
