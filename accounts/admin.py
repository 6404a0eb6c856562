"""The admin of accounts: tiers with their quotas and members, and keys that are shown once."""

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin, TabularInline
from unfold.widgets import UnfoldAdminTextareaWidget

from . import login_admin  # noqa: F401  # registers pages
from .confirmation import AskingAdmin, Question, is_confirmed, named
from .keys import FormId, free_jti, made_by, show_once, text_to_show
from .models import ApiKey, Quota, Tier, User
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
    form_id = FormId()

    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"]
        if expires_at <= timezone.now():
            raise forms.ValidationError("This moment has passed. A key needs some time to live.")
        return expires_at


class SentAgain(Exception):
    """The form has made its key already."""

    def __init__(self, key: ApiKey) -> None:
        super().__init__()
        self.key = key


@admin.register(ApiKey)
class ApiKeyAdmin(AskingAdmin):
    form = ApiKeyForm
    change_form_outer_before_template = "admin/accounts/apikey/revoke.html"
    list_display = ["name", "user", "created_at", "expires_at", "state"]
    list_filter = ["user__tier"]
    show_facets = admin.ShowFacets.NEVER
    list_select_related = ["user"]
    search_fields = ["name", "user__username"]
    autocomplete_fields = ["user"]
    actions = ["revoke"]

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        if obj is None:
            return ["user", "name", "expires_at", "form_id"]
        return ["user", "name", "created_at", "expires_at", "state"]

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

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        key = self.get_object(request, object_id)
        may_revoke = key is not None and key.revoked_at is None and super().has_change_permission(request)
        if may_revoke:
            may_revoke = within_reach(request.user, User.objects.filter(pk=key.user_id)).exists()
        return super().change_view(request, object_id, form_url, {"may_revoke": may_revoke, **(extra_context or {})})

    @admin.display(empty_value="-")
    def state(self, key: ApiKey) -> str:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else key.state

    # -- a new key is shown once ---------------------------------------------------------------------------------

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """One button: after a key comes its page, and nothing is edited. A form that is sent again leads there, too."""
        buttons = {"show_save_and_add_another": False, "show_save_and_continue": False}
        try:
            return super().add_view(request, form_url, {**buttons, **(extra_context or {})})
        except SentAgain as exc:
            return self.response_add(request, exc.key)

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: Any) -> None:
        form_id = form.cleaned_data["form_id"]
        User.objects.select_for_update().get(pk=obj.user_id)  # one at a time, or both would make a key
        if made := made_by(form_id, obj.user_id, obj.name):
            raise SentAgain(made)
        obj.jti = free_jti(form_id)
        super().save_model(request, obj, form, change)

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        """Lead to the key's page, so that loading the answer again makes no second key."""
        show_once(request.session, obj)
        return HttpResponseRedirect(reverse("admin:accounts_apikey_made", args=[obj.pk]))

    def get_urls(self) -> list[Any]:
        page = self.admin_site.admin_view(self.made_view)
        return [path("<int:pk>/made/", page, name="accounts_apikey_made"), *super().get_urls()]

    def made_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The page of a new key, with its text for whoever made it, once."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        key = get_object_or_404(ApiKey, pk=pk)
        context = self.admin_site.each_context(request)
        context |= {"opts": self.opts, "key": key, "token": text_to_show(request, key)}
        context["title"] = "New API key"
        response = TemplateResponse(request, "admin/accounts/apikey/made.html", context)
        response["Cache-Control"] = "no-store"
        return response

    # -- revoking ------------------------------------------------------------------------------------------------

    @admin.action(description="Revoke: these keys stop working", permissions=["change"])
    def revoke(self, request: HttpRequest, keys: Any) -> HttpResponse | None:
        chosen = list(keys.filter(user__in=within_reach(request.user, User.objects.all()), revoked_at=None))
        if left := keys.count() - len(chosen):
            self.message_user(
                request, f"Left as they are, since they are revoked or of staff: {left}.", messages.WARNING
            )
        if not chosen:
            return None
        names = [str(key) for key in chosen]
        if not is_confirmed(request):
            effects = ["The keys stop working within 2 seconds. Programs that use them need new keys."]
            several = names if len(names) > 1 else ()
            title = format_html("Revoke {}?", named(names))
            return self.ask(request, Question(title, "Revoke", effects, is_final=True, names=several), chosen)
        with transaction.atomic():
            ApiKey.objects.filter(pk__in=[key.pk for key in chosen]).revoke()
            LogEntry.objects.log_actions(request.user.pk, chosen, CHANGE, "Revoked.")  # type: ignore[arg-type]  # signed in
        told = format_html("{} revoked. Takes effect within 2 seconds.", named(names))
        self.message_user(request, told, messages.SUCCESS)
        return None
