"""Upstreams in the admin: which there are, how they fare, and where they lead."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from .destinations import Destinations, Forbidden
from .gateway import UpstreamState, gateway
from .models import Upstream

HOLDS_WITHIN = "This holds within 2 seconds."


class KeyInput(UnfoldAdminPasswordWidget):
    """Takes an API key, and never shows one."""

    def __init__(self) -> None:
        super().__init__(render_value=False, attrs={"autocomplete": "new-password"})


class UpstreamForm(forms.ModelForm):
    new_key = forms.CharField(
        label="API key", required=False, widget=KeyInput, help_text="Its --api-key, if it has one. Never shown again."
    )
    has_no_key = forms.BooleanField(label="Remove its API key", required=False, widget=UnfoldBooleanSwitchWidget)

    class Meta:
        model = Upstream
        fields = ("name", "base_url", "slots", "is_enabled")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.api_key:
            self.fields["new_key"].help_text = "It has one. Empty: that stays."
        else:
            del self.fields["has_no_key"]

    def clean_base_url(self) -> str:
        return checked_url(self.cleaned_data["base_url"])

    def clean_new_key(self) -> str:
        return checked_key(self.cleaned_data["new_key"])


class RedirectForm(forms.ModelForm):
    new_key = forms.CharField(label="API key there", required=False, widget=KeyInput)
    is_sure = forms.BooleanField(
        label="I trust whoever runs that server with every prompt and answer", widget=UnfoldBooleanSwitchWidget
    )

    class Meta:
        model = Upstream
        fields = ("base_url",)
        widgets = {"base_url": UnfoldAdminTextInputWidget}

    def clean_base_url(self) -> str:
        url = checked_url(self.cleaned_data["base_url"])
        if "base_url" not in self.changed_data:
            raise forms.ValidationError("It is there already.")
        return url

    def clean_new_key(self) -> str:
        return checked_key(self.cleaned_data["new_key"])


def checked_key(key: str) -> str:
    """A key that can be sent in a header."""
    if not (key.isascii() and key.isprintable()):
        raise forms.ValidationError("A key is made of letters, digits and signs, without others than those of ASCII.")
    return key


def checked_url(url: str) -> str:
    """A base URL without the slash at its end. What a name resolves to is looked at with each connection."""
    url = url.rstrip("/")
    host = url.split("//", 1)[-1].rsplit(":", 1)[0].strip("[]")
    try:
        Destinations(settings.UPSTREAM_ALLOW).check(host, host)
    except Forbidden as exc:
        raise forms.ValidationError(str(exc)) from exc
    except ValueError:  # a name
        return url
    return url


@admin.register(Upstream)
class UpstreamAdmin(ModelAdmin):
    form = UpstreamForm
    list_display = ["name", "base_url", "is_enabled", "health", "models", "busy", "context"]
    actions = ["enable", "disable"]
    readonly_fields = ["health", "models", "busy", "context"]
    change_form_outer_before_template = "admin/proxy/upstream/redirect_link.html"

    def get_fields(self, request: HttpRequest, obj: Upstream | None = None) -> Any:
        fields = ["name", "base_url", "new_key", "slots", "is_enabled"]
        if obj is None:
            return fields
        return [*fields[:3], *(["has_no_key"] if obj.api_key else []), *fields[3:], *self.readonly_fields]

    def get_readonly_fields(self, request: HttpRequest, obj: Upstream | None = None) -> Any:
        """Where it leads is changed on a page of its own."""
        return self.readonly_fields if obj is None else ["base_url", *self.readonly_fields]

    def save_model(self, request: HttpRequest, obj: Upstream, form: Any, change: Any) -> None:
        if form.cleaned_data.get("has_no_key"):
            obj.api_key = ""
        if key := form.cleaned_data["new_key"]:
            obj.api_key = key
        super().save_model(request, obj, form, change)

    # -- how they fare -------------------------------------------------------------------------------------------

    @admin.display(empty_value="not known: no gateway runs here")
    def health(self, upstream: Upstream) -> str | None:
        state = state_of(upstream)
        if state is None:
            return None
        if upstream.is_enabled:
            return state.health
        return f"disabled; {state.busy} still run there" if state.busy else "disabled"

    @admin.display(empty_value="-")
    def models(self, upstream: Upstream) -> str | None:
        state = state_of(upstream)
        return ", ".join(state.models) if state and state.models else None

    @admin.display(description="busy slots", empty_value="-")
    def busy(self, upstream: Upstream) -> str | None:
        state = state_of(upstream)
        if state is None:
            return None
        return f"{'?' if state.busy is None else state.busy} of {state.slots}"

    @admin.display(description="context, tokens", empty_value="-")
    def context(self, upstream: Upstream) -> int | None:
        state = state_of(upstream)
        return state.context if state else None

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if request.method == "GET" and not Upstream.objects.exists():
            told = f"None here yet, so those of LLAMA_SERVERS serve: {', '.join(settings.LLAMA_SERVERS)}."
            messages.info(request, f"{told} The first one here replaces them.")
        return super().changelist_view(request, extra_context)

    # -- enabled and disabled ------------------------------------------------------------------------------------

    @admin.action(description="Enable: give them calls", permissions=["change"])
    def enable(self, request: HttpRequest, upstreams: Any) -> None:
        self._set(request, upstreams.filter(is_enabled=False), is_enabled=True)

    @admin.action(description="Drain: give them no more calls, and let those that run end", permissions=["change"])
    def disable(self, request: HttpRequest, upstreams: Any) -> None:
        self._set(request, upstreams.filter(is_enabled=True), is_enabled=False)

    def _set(self, request: HttpRequest, upstreams: Any, *, is_enabled: bool) -> None:
        verb = "enabled" if is_enabled else "disabled"
        changed = list(upstreams)
        for upstream in changed:
            self.log_change(request, upstream, f"{verb.capitalize()}.")
        upstreams.filter(pk__in=[each.pk for each in changed]).update(is_enabled=is_enabled)
        self.message_user(request, f"{len(changed)} {verb}. {HOLDS_WITHIN}")

    # -- where they lead -----------------------------------------------------------------------------------------

    def get_urls(self) -> list[Any]:
        page = self.admin_site.admin_view(self.redirect_view)
        return [path("<int:pk>/redirect/", page, name="proxy_upstream_redirect"), *super().get_urls()]

    def may_redirect(self, request: HttpRequest) -> bool:
        return request.user.has_perm("proxy.redirect_upstream")

    def redirect_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """One page, of a permission of its own: another base URL, confirmed, and noted in the history."""
        if not self.may_redirect(request):
            raise PermissionDenied
        upstream = get_object_or_404(Upstream, pk=pk)
        was = upstream.base_url
        form = RedirectForm(request.POST or None, instance=upstream)
        if request.method == "POST" and form.is_valid():
            form.save()
            upstream.api_key = form.cleaned_data["new_key"]
            upstream.save(update_fields=["api_key"])
            self.log_change(request, upstream, f"Redirected from {was} to {upstream.base_url}. Its API key is gone.")
            messages.success(request, f"{upstream} leads to {upstream.base_url} now. {HOLDS_WITHIN}")
            return HttpResponseRedirect(reverse("admin:proxy_upstream_change", args=[pk]))
        context = {
            **self.admin_site.each_context(request),
            "title": f"Redirect {upstream}",
            "opts": self.opts,
            "original": upstream,
            "was": was,
            "form": form,
        }
        return TemplateResponse(request, "admin/proxy/upstream/redirect.html", context)


def state_of(upstream: Upstream) -> UpstreamState | None:
    """How it fares, looked up once for each row."""
    if "state" not in vars(upstream):
        vars(upstream)["state"] = gateway().upstream_state(upstream.base_url)
    return vars(upstream)["state"]
