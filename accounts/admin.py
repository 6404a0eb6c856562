"""The admin of accounts: tiers with their quotas, users with what they have used, keys that are shown once."""

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.sites import AdminSite
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from .errors import StoreUnavailable
from .models import ApiKey, Quota, Tier, User
from .tokens import ApiKeyToken
from .usage import usage_reader

admin.site.site_header = "llmgateway"
admin.site.site_title = "llmgateway"
admin.site.index_title = "Who may call, and how much"
admin.site.unregister(Group)

NO_WRAP = '<span style="white-space: nowrap">{} of {} {} this {} {}</span>'


class NamesField(forms.CharField):
    """A list of names, one on each line. None where there are none."""

    widget = forms.Textarea(attrs={"rows": 3, "cols": 40})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return (value or "").split() or None


class TierForm(forms.ModelForm):
    allowed_models = NamesField(required=False, help_text="Those this tier may use, one on each line. Empty: all.")


class TierQuotas(admin.TabularInline):
    model = Quota
    fields = ["metric", "window", "limit", "model"]
    extra = 0


class UserQuotas(TierQuotas):
    verbose_name_plural = "Quotas of this user alone, each in place of the tier's quota of the same kind"


@admin.register(Tier)
class TierAdmin(admin.ModelAdmin):
    form = TierForm
    empty_value_display = "no limit"
    list_display = [
        "name",
        "weight",
        "quota_list",
        "max_concurrent_requests",
        "max_output_tokens",
        "is_default",
        "members",
    ]
    search_fields = ["name"]
    inlines = [TierQuotas]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tier]:
        return super().get_queryset(request).annotate(members=Count("users")).prefetch_related("quotas")

    @admin.display(description="quotas", empty_value="no limit")
    def quota_list(self, tier: Tier) -> str | None:
        return ", ".join(str(quota) for quota in tier.quotas.all()) or None

    @admin.display(ordering="members")
    def members(self, tier: Any) -> int:
        return tier.members


@admin.register(User)
class UserAdmin(DjangoUserAdmin):
    list_display = ["username", "tier", "is_active", "used", "is_staff", "last_login"]
    list_filter = ["tier", "is_active", "is_staff"]
    list_select_related = ["tier"]
    inlines = [UserQuotas]
    actions = ["suspend", "reactivate"]
    readonly_fields = ["used", "last_login", "date_joined"]
    fieldsets = [
        (None, {"fields": ["username", "password", "tier", "is_active", "used"]}),
        ("Person", {"fields": ["first_name", "last_name", "email"]}),
        ("Admin", {"classes": ["collapse"], "fields": ["is_staff", "is_superuser", "user_permissions"]}),
        ("Dates", {"classes": ["collapse"], "fields": ["last_login", "date_joined"]}),
    ]
    add_fieldsets = [(None, {"fields": ["username", "usable_password", "password1", "password2", "tier"]})]

    def get_inlines(self, request: HttpRequest, obj: User | None) -> Any:
        return self.inlines if obj else []

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        default = Tier.objects.filter(is_default=True).first()
        return {"tier": default.pk if default else None}

    @admin.display(description="used now", empty_value="-")
    def used(self, user: User) -> SafeString | None:
        if user.pk is None:
            return None
        try:
            rows = usage_reader().remaining(user)
        except StoreUnavailable:
            return SafeString("not known at the moment")
        lines = ((row.used, "∞" if row.limit is None else row.limit, row.metric, row.window, row.model) for row in rows)
        return format_html_join(SafeString("<br>"), NO_WRAP, lines) or None

    @admin.action(description="Suspend: end tokens and refuse calls")
    def suspend(self, request: HttpRequest, users: Any) -> None:
        for user in users:
            self.log_change(request, user, "Suspended.")
        self.message_user(request, f"{users.suspend()} suspended; their calls are refused within 2 seconds.")

    @admin.action(description="Reactivate: let them call and sign in again")
    def reactivate(self, request: HttpRequest, users: Any) -> None:
        for user in users:
            self.log_change(request, user, "Reactivated.")
        self.message_user(request, f"{users.reactivate()} reactivated; they must sign in again.")


class ApiKeyForm(forms.ModelForm):
    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"]
        if expires_at <= timezone.now():
            raise forms.ValidationError("This moment has passed. A key needs some time to live.")
        return expires_at


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):
    form = ApiKeyForm
    list_display = ["name", "user", "created_at", "expires_at", "state"]
    list_filter = ["user__tier"]
    list_select_related = ["user"]
    search_fields = ["name", "user__username"]
    autocomplete_fields = ["user"]
    actions = ["revoke"]

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        return ["user", "name", "expires_at"] if obj is None else ["user", "name", "created_at", "expires_at", "state"]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        lifetime = timedelta(seconds=settings.API_KEY_LIFETIME)
        return {**super().get_changeform_initial_data(request), "expires_at": timezone.now() + lifetime}

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """A key's row can be looked at and revoked, not edited: the key in a client's hands would not change."""
        return obj is None and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False

    @admin.display(empty_value="-")
    def state(self, key: ApiKey) -> str:
        if key.revoked_at:
            return f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
        return "expired" if key.expires_at <= timezone.now() else "works"

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        """Show the key instead of the list: no copy of it is kept, not even in a message's cookie."""
        context = {**AdminSite.each_context(self.admin_site, request), "title": "API key made", "key": obj}
        context |= {"opts": self.opts, "token": str(ApiKeyToken.for_key(obj))}
        response = TemplateResponse(request, "admin/accounts/apikey/made.html", context)
        response["Cache-Control"] = "no-store"
        return response

    @admin.action(description="Revoke: these keys stop working")
    def revoke(self, request: HttpRequest, keys: QuerySet[ApiKey]) -> None:
        live = keys.filter(revoked_at=None)
        for key in live:
            self.log_change(request, key, "Revoked.")
        count = live.update(revoked_at=timezone.now())
        self.message_user(request, f"{count} revoked; they stop working within 2 seconds.", messages.SUCCESS)
