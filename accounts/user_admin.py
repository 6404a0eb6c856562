"""Users in the admin: what they have used, what they may, and what can be done with them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from .errors import StoreUnavailable
from .models import ApiKey, Quota, Tier, User
from .usage import MONTH, RECENT_CALLS, QuotaUse, usage_reader

HOLDS_WITHIN = "This holds within 2 seconds."
KEYS_SHOWN = 20
LONGEST_ID = 18  # digits
RIGHTS = ("is_staff", "is_superuser", "user_permissions")


class UserQuotas(TabularInline):
    model = Quota
    fields = ["metric", "window", "limit", "model"]
    extra = 0
    verbose_name_plural = "Quotas of this user alone, each in place of the tier's quota of the same kind"


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ["username", "tier", "is_active", "tightest", "is_staff", "last_login"]
    list_filter = ["tier", "is_active", "is_staff"]
    list_select_related = ["tier"]
    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    inlines = [UserQuotas]
    actions = ["suspend", "reactivate", "make_key", "revoke_keys", "revoke_tokens", "reset_quotas"]
    readonly_fields = ["last_login", "date_joined"]
    filter_horizontal = []
    fieldsets = [
        (None, {"fields": ["username", "password", "tier", "is_active"]}),
        ("Person", {"fields": ["first_name", "last_name", "email"]}),
        ("Admin", {"classes": ["collapse"], "fields": [*RIGHTS]}),
        ("Dates", {"classes": ["collapse"], "fields": ["last_login", "date_joined"]}),
    ]
    add_fieldsets = [(None, {"fields": ["username", "usable_password", "password1", "password2", "tier"]})]
    change_form_outer_before_template = "admin/accounts/user/use.html"
    change_form_outer_after_template = "admin/accounts/user/calls.html"

    def get_inlines(self, request: HttpRequest, obj: User | None) -> Any:
        return self.inlines if obj else []

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        default = Tier.objects.filter(is_default=True).first()
        return {"tier": default.pk if default else None}

    # -- who may change whom -------------------------------------------------------------------------------------

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        """Nobody gives rights that are not theirs to give: only superusers make staff."""
        return self.readonly_fields if request.user.is_superuser else [*self.readonly_fields, *RIGHTS]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Staff without all rights leave other staff alone: a new password would lend them theirs."""
        return super().has_change_permission(request, obj) and (obj is None or self.may_reach(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or self.may_reach(request, obj))

    def may_reach(self, request: HttpRequest, user: User) -> bool:
        return request.user.is_superuser or not (user.is_staff or user.is_superuser)

    def changeable(self, request: HttpRequest, users: QuerySet[User]) -> Any:
        """Those of them that may be changed; the others are told of."""
        chosen = users.count()
        if not request.user.is_superuser:
            users = users.filter(is_staff=False, is_superuser=False)
        if kept := chosen - users.count():
            self.message_user(request, f"{kept} of them are staff, and stay as they are.", messages.WARNING)
        return users

    # -- what they have used -------------------------------------------------------------------------------------

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """What the users of a page have used is asked once for all of them."""
        changes = super().get_changelist_instance(request)
        users = changes.result_list = list(changes.result_list)
        for user, uses in zip(users, uses_of(users), strict=True):
            user.uses = uses
        return changes

    @admin.display(description="nearest limit", empty_value="no limit")
    def tightest(self, user: Any) -> str | None:
        if user.uses is None:
            return "not known at the moment"
        limited = [use for use in user.uses if use.limit is not None]
        return told(max(limited, key=lambda use: use.percent)) if limited else None

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        context = dict(extra_context or {})
        user = self.get_object(request, object_id)
        if user is not None:
            context |= self.use_of(request, user)
        return super().change_view(request, object_id, form_url, context)

    def use_of(self, request: HttpRequest, user: User) -> dict[str, Any]:
        """What a user's page shows beside the form, as far as whoever looks may see it."""
        (uses,) = uses_of([user])
        shown: dict[str, Any] = {"uses": uses, "may_change": self.has_change_permission(request, user)}
        if request.user.has_perm("accounts.view_apikey"):
            shown["keys"] = ApiKey.objects.filter(user=user)[:KEYS_SHOWN]
        if request.user.has_perm("proxy.view_usagerecord"):
            shown["calls"] = usage_reader().recent(user, RECENT_CALLS)
            shown["totals"] = usage_reader().totals(user, (timezone.now() - MONTH).date())
        return shown

    # -- what can be done with them ------------------------------------------------------------------------------

    def get_actions(self, request: HttpRequest) -> Any:
        actions = super().get_actions(request)
        if self.has_change_permission(request):
            for tier in Tier.objects.all():
                name = f"move_to_{tier.name}"
                action: Any = partial(move, tier=tier)
                actions[name] = action, name, f"Move to tier {tier.name}"
        return actions

    def note(self, request: HttpRequest, users: Any, what: str) -> Any:
        """Write what is done with these users into their history. Gives those that it may be done with."""
        users = self.changeable(request, users)
        for user in users:
            self.log_change(request, user, what)
        return users

    @admin.action(description="Suspend: end tokens and refuse calls", permissions=["change"])
    def suspend(self, request: HttpRequest, users: Any) -> None:
        count = self.note(request, users, "Suspended.").suspend()
        self.message_user(request, f"{count} suspended; their calls are refused within 2 seconds.")

    @admin.action(description="Reactivate: let them call and sign in again", permissions=["change"])
    def reactivate(self, request: HttpRequest, users: Any) -> None:
        count = self.note(request, users, "Reactivated.").reactivate()
        self.message_user(request, f"{count} reactivated; they must sign in again.")

    @admin.action(description="Make an API key", permissions=["make_key"])
    def make_key(self, request: HttpRequest, users: Any) -> HttpResponse | None:
        """On the page that makes keys, with the user filled in."""
        if users.count() != 1:
            self.message_user(request, "Choose one user: a key belongs to one.", messages.ERROR)
            return None
        return HttpResponseRedirect(f"{reverse('admin:accounts_apikey_add')}?user={users.get().pk}")

    def has_make_key_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.add_apikey")

    @admin.action(description="Revoke all API keys", permissions=["change"])
    def revoke_keys(self, request: HttpRequest, users: Any) -> None:
        keys = ApiKey.objects.filter(user__in=self.note(request, users, "All API keys revoked."))
        self.message_user(request, f"{keys.revoke()} keys revoked. {HOLDS_WITHIN}")

    @admin.action(description="Revoke all tokens: they must sign in again", permissions=["change"])
    def revoke_tokens(self, request: HttpRequest, users: Any) -> None:
        count = self.note(request, users, "All tokens revoked.").revoke_tokens()
        self.message_user(request, f"The tokens of {count} users are revoked; API keys go on. {HOLDS_WITHIN}")

    @admin.action(description="Reset quotas: count what they use from zero", permissions=["change"])
    def reset_quotas(self, request: HttpRequest, users: Any) -> None:
        count = self.note(request, users, "Quotas reset.").reset_quotas()
        self.message_user(request, f"The quotas of {count} users are unused again. {HOLDS_WITHIN}")


def is_id(text: str) -> bool:
    """Whether it can be somebody's: a number that every database takes."""
    return text.isascii() and text.isdigit() and len(text) <= LONGEST_ID


def within_reach(whoever: Any, users: QuerySet[User]) -> QuerySet[User]:
    """Those of these users that somebody may act for: superusers all, other staff nobody but themselves of staff."""
    if whoever.is_superuser:
        return users
    return users.filter(Q(is_staff=False, is_superuser=False) | Q(pk=whoever.pk))


def move(pages: UserAdmin, request: HttpRequest, users: Any, *, tier: Tier) -> None:
    """The action that puts users on a tier."""
    count = pages.note(request, users, f"Moved to tier {tier}.").update(tier=tier)
    pages.message_user(request, f"{count} moved to tier {tier}. {HOLDS_WITHIN}")


def uses_of(users: Sequence[User]) -> Sequence[Sequence[QuotaUse] | None]:
    """The use of each quota of these users; None where that is not known at the moment."""
    try:
        return usage_reader().remaining_of(users)
    except (StoreUnavailable, TimeoutError):
        return [None] * len(users)


def told(use: QuotaUse) -> str:
    of_model = f" of {use.model}" if use.model else ""
    return f"{use.percent}%: {use.used:,} of {use.limit:,} {use.metric} this {use.window}{of_model}"
