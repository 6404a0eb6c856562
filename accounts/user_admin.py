"""Users in the admin: what they have used, what they may, and what can be done with them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from .confirmation import AskingAdmin, is_confirmed, named
from .errors import StoreUnavailable
from .models import ApiKey, Quota, Tier, User
from .usage import MONTH, RECENT_CALLS, QuotaUse, usage_reader
from .user_actions import (
    ERASE,
    REACTIVATE,
    RESET_QUOTAS,
    REVOKE_KEYS,
    REVOKE_TOKENS,
    SUSPEND,
    UserAction,
    move_to,
)

KEYS_SHOWN = 20
LONGEST_ID = 18  # digits
RIGHTS = ("is_staff", "is_superuser", "user_permissions")
OF_STAFF = Q(is_staff=True) | Q(is_superuser=True)


class UserQuotas(TabularInline):
    model = Quota
    fields = ["metric", "window", "limit", "model"]
    extra = 0
    verbose_name_plural = "Quotas of this user alone, each in place of the tier's quota of the same kind"


@admin.register(User)
class UserAdmin(DjangoUserAdmin, AskingAdmin):
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
    actions = ["suspend", "reactivate", "make_key", "revoke_keys", "revoke_tokens", "reset_quotas", "erase"]
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
        return super().has_change_permission(request, obj) and (
            obj is None or (obj.erased_at is None and self.may_reach(request, obj))
        )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or self.may_reach(request, obj))

    def has_erase_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A permission of its own. Nobody erases themselves, so a superuser always remains."""
        return request.user.has_perm("accounts.erase_user") and (
            obj is None or (obj.erased_at is None and obj.pk != request.user.pk and self.may_reach(request, obj))
        )

    def has_make_key_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("accounts.add_apikey") and (
            obj is None or within_reach(request.user, User.objects.filter(pk=obj.pk)).exists()
        )

    def may_reach(self, request: HttpRequest, user: User) -> bool:
        return request.user.is_superuser or not (user.is_staff or user.is_superuser)

    def changeable(self, request: HttpRequest, users: QuerySet[User]) -> QuerySet[User]:
        """Those of them that may be changed; the others are told of."""
        if not request.user.is_superuser:
            self.leave_out(request, users.filter(OF_STAFF), "Left as they are, since only superusers change staff: {}.")
            users = users.exclude(OF_STAFF)
        self.leave_out(request, users.exclude(erased_at=None), "Left as they are, since they were erased: {}.")
        return users.filter(erased_at=None)

    def leave_out(self, request: HttpRequest, users: QuerySet[User], sentence: str) -> None:
        if names := [user.username for user in users]:
            self.message_user(request, format_html(sentence, named(names)), messages.WARNING)

    # -- who cannot be deleted -----------------------------------------------------------------------------------

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """API keys protect their user. That nobody may delete a key is not the reason, so it is not told as one."""
        to_delete, counts, perms_needed, protected = super().get_deleted_objects(objs, request)
        perms_needed.discard(ApiKey._meta.verbose_name)
        return to_delete, counts, perms_needed, protected

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        user = self.get_object(request, object_id)
        context = {"may_erase": user is not None and self.has_erase_permission(request, user)}
        return super().delete_view(request, object_id, {**context, **(extra_context or {})})

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
        shown |= {"may_make_key": self.has_make_key_permission(request, user)}
        shown |= {"may_erase": self.has_erase_permission(request, user)}
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

    def act(self, request: HttpRequest, users: QuerySet[User], action: UserAction) -> HttpResponse | None:
        """Do something with those of these users whom it concerns, once the question of it was answered with yes."""
        users = users.filter(action.concerns)
        chosen = list(users)
        if not chosen:
            self.message_user(request, action.needless, messages.WARNING)
            return None
        if action.effects and not is_confirmed(request):
            return self.ask(request, action.question(chosen), chosen)
        before = [user.username for user in chosen]
        with transaction.atomic():
            count = action.carry_out(users)
            now = User.objects.filter(pk__in=[user.pk for user in chosen]).order_by("username")
            LogEntry.objects.log_actions(request.user.pk, now, CHANGE, action.noted)  # type: ignore[arg-type]  # signed in
        self.message_user(request, action.report(before, now, count), messages.SUCCESS)
        return None

    @admin.action(description="Suspend: end tokens and refuse calls", permissions=["change"])
    def suspend(self, request: HttpRequest, users: Any) -> HttpResponse | None:
        return self.act(request, self.changeable(request, users), SUSPEND)

    @admin.action(description="Reactivate: let them call and sign in again", permissions=["change"])
    def reactivate(self, request: HttpRequest, users: Any) -> HttpResponse | None:
        return self.act(request, self.changeable(request, users), REACTIVATE)

    @admin.action(description="Make an API key", permissions=["make_key"])
    def make_key(self, request: HttpRequest, users: Any) -> HttpResponse | None:
        """On the page that makes keys, with the user filled in."""
        if users.count() != 1:
            self.message_user(request, "Choose one user: a key belongs to one.", messages.ERROR)
            return None
        return HttpResponseRedirect(f"{reverse('admin:accounts_apikey_add')}?user={users.get().pk}")

    @admin.action(description="Revoke all API keys", permissions=["change"])
    def revoke_keys(self, request: HttpRequest, users: Any) -> HttpResponse | None:
        return self.act(request, self.changeable(request, users), REVOKE_KEYS)

    @admin.action(description="Revoke all tokens: they must sign in again", permissions=["change"])
    def revoke_tokens(self, request: HttpRequest, users: Any) -> HttpResponse | None:
        return self.act(request, self.changeable(request, users), REVOKE_TOKENS)

    @admin.action(description="Reset quotas: count what they use from zero", permissions=["change"])
    def reset_quotas(self, request: HttpRequest, users: Any) -> HttpResponse | None:
        return self.act(request, self.changeable(request, users), RESET_QUOTAS)

    @admin.action(description="Erase these persons, and keep what they used", permissions=["erase"])
    def erase(self, request: HttpRequest, users: Any) -> HttpResponse | None:
        self.leave_out(
            request, users.filter(pk=request.user.pk), "Left as they are, since nobody erases themselves: {}."
        )
        return self.act(request, self.changeable(request, users.exclude(pk=request.user.pk)), ERASE)


def move(pages: UserAdmin, request: HttpRequest, users: Any, *, tier: Tier) -> HttpResponse | None:
    """The action that puts users on a tier."""
    users = pages.changeable(request, users)
    return pages.act(request, users, move_to(tier, users))


def is_id(text: str) -> bool:
    """Whether it can be somebody's: a number that every database takes."""
    return text.isascii() and text.isdigit() and len(text) <= LONGEST_ID


def within_reach(whoever: Any, users: QuerySet[User]) -> QuerySet[User]:
    """Those of these users that somebody may act for: superusers all, other staff nobody but themselves of staff."""
    users = users.filter(erased_at=None)
    return users if whoever.is_superuser else users.filter(~OF_STAFF | Q(pk=whoever.pk))


def uses_of(users: Sequence[User]) -> Sequence[Sequence[QuotaUse] | None]:
    """The use of each quota of these users; None where that is not known at the moment."""
    try:
        return usage_reader().remaining_of(users)
    except (StoreUnavailable, TimeoutError):
        return [None] * len(users)


def told(use: QuotaUse) -> str:
    of_model = f" of {use.model}" if use.model else ""
    return f"{use.percent}%: {use.used:,} of {use.limit:,} {use.metric} this {use.window}{of_model}"
