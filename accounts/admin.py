"""The admin of accounts: tiers with their quotas and members, and keys that are shown once."""

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.models import Group
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline
from unfold.widgets import UnfoldAdminTextareaWidget

from . import login_admin  # noqa: F401  # registers pages
from .models import ApiKey, Quota, Tier, User
from .tokens import ApiKeyToken
from .user_admin import is_id, within_reach

admin.site.index_title = "Dashboard"
admin.site.unregister(Group)

MEMBERS_SHOWN = 20


class NamesField(forms.CharField):
    """A list of names, one on each line. None where there are none."""

    widget = UnfoldAdminTextareaWidget(attrs={"rows": 3})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return (value or "").split() or None


class TierForm(forms.ModelForm):
    allowed_models = NamesField(required=False, help_text="Those this tier may use, one on each line. Empty: all.")


class TierQuotas(TabularInline):
    model = Quota
    fields = ["metric", "window", "limit", "model"]
    extra = 0


@admin.register(Tier)
class TierAdmin(ModelAdmin):
    form = TierForm
    exclude = ["weight"]  # it has no effect yet
    empty_value_display = "no limit"
    list_display = [
        "name",
        "quota_list",
        "max_concurrent_requests",
        "max_output_tokens",
        "is_default",
        "members",
    ]
    search_fields = ["name"]
    inlines = [TierQuotas]
    change_form_outer_after_template = "admin/accounts/tier/members.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tier]:
        return super().get_queryset(request).annotate(members=Count("users")).prefetch_related("quotas")

    @admin.display(description="quotas", empty_value="no limit")
    def quota_list(self, tier: Tier) -> str | None:
        return ", ".join(str(quota) for quota in tier.quotas.all()) or None

    @admin.display(ordering="members")
    def members(self, tier: Any) -> int:
        return tier.members

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        told = dict(extra_context or {})
        tier = self.get_object(request, object_id)
        if tier is not None and request.user.has_perm("accounts.view_user"):
            members = User.objects.filter(tier=tier)
            told |= {"members": members.order_by("username")[:MEMBERS_SHOWN], "member_count": members.count()}
        return super().change_view(request, object_id, form_url, told)


class ApiKeyForm(forms.ModelForm):
    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"]
        if expires_at <= timezone.now():
            raise forms.ValidationError("This moment has passed. A key needs some time to live.")
        return expires_at


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):
    form = ApiKeyForm
    list_display = ["name", "user", "created_at", "expires_at", "state"]
    list_filter = ["user__tier"]
    show_facets = admin.ShowFacets.NEVER
    list_select_related = ["user"]
    search_fields = ["name", "user__username"]
    autocomplete_fields = ["user"]
    actions = ["revoke"]

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        return ["user", "name", "expires_at"] if obj is None else ["user", "name", "created_at", "expires_at", "state"]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        user = request.GET.get("user", "")
        chosen = {"user": user} if is_id(user) else {}
        return {**chosen, "expires_at": timezone.now() + timedelta(seconds=settings.API_KEY_LIFETIME)}

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Staff make keys for those whom they may change, and for themselves."""
        if db_field.name == "user":
            kwargs["queryset"] = within_reach(request.user, User.objects.all())
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """A key's row can be looked at and revoked, not edited: the key in a client's hands would not change."""
        return obj is None and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False

    @admin.display(empty_value="-")
    def state(self, key: ApiKey) -> str:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else key.state

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        """Show the key instead of the list: no copy of it is kept, not even in a message's cookie."""
        context = self.admin_site.each_context(request)
        context |= {"title": "API key made", "key": obj, "opts": self.opts, "token": str(ApiKeyToken.for_key(obj))}
        response = TemplateResponse(request, "admin/accounts/apikey/made.html", context)
        response["Cache-Control"] = "no-store"
        return response

    @admin.action(description="Revoke: these keys stop working", permissions=["change"])
    def revoke(self, request: HttpRequest, keys: Any) -> None:
        keys = keys.filter(user__in=within_reach(request.user, User.objects.all()))
        for key in keys.filter(revoked_at=None):
            self.log_change(request, key, "Revoked.")
        self.message_user(request, f"{keys.revoke()} revoked; they stop working within 2 seconds.", messages.SUCCESS)
