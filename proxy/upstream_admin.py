"""Upstreams in the admin: which there are, how they fare, and where they lead."""

import re
from collections.abc import Iterable
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from .destinations import Destinations, Forbidden, without_userinfo
from .gateway import UpstreamState, gateway, upstreams_of_settings
from .models import Upstream

HOLDS_WITHIN = "Takes effect within 2 seconds."
LONGEST_NAME = 50  # letters of a SlugField


class KeyInput(UnfoldAdminPasswordWidget):
    """Takes an API key, and never shows one."""

    def __init__(self) -> None:
        super().__init__(render_value=False, attrs={"autocomplete": "new-password"})


class UpstreamForm(forms.ModelForm):
    """The first upstream also takes over the servers of LLAMA_SERVERS: with it here, that setting counts no more."""

    new_key = forms.CharField(
        label="API key",
        required=False,
        widget=KeyInput,
        help_text="The server's --api-key, if it has one. Never shown.",
    )
    has_no_key = forms.BooleanField(label="Remove its API key", required=False, widget=UnfoldBooleanSwitchWidget)
    takes_over = forms.BooleanField(
        label="Also add the servers of LLAMA_SERVERS", required=False, initial=True, widget=UnfoldBooleanSwitchWidget
    )

    class Meta:
        model = Upstream
        fields = ("name", "base_url", "slots", "is_enabled")
        help_texts = {
            "name": "Shown in metrics and in the call log.",
            "slots": "Maximum simultaneous calls. Leave empty to use what the server reports.",
            "is_enabled": "Turn off to stop sending new calls; running calls finish.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.taken_over: list[Upstream] = []
        self.not_taken_over: list[str] = []  # their URLs, each with the reason
        if self.instance.api_key:
            self.fields["new_key"].help_text = "The server has one. Leave empty to keep it."
        else:
            del self.fields["has_no_key"]
        if self.instance.pk is None and (serving := servers_of_settings()):
            self.fields["takes_over"].help_text = format_html(
                "No upstream is defined here, so LLAMA_SERVERS is in use: <strong>{}</strong>. Saving ends that. "
                "Leave this on to keep {}{}; turn it off, and no more calls go there.",
                ", ".join(map(with_health, serving)),
                "these servers" if len(serving) > 1 else "this server",
                ", with LLAMA_API_KEY" if settings.LLAMA_API_KEY else "",
            )
        else:
            del self.fields["takes_over"]

    def clean_base_url(self) -> str:
        return checked_url(self.cleaned_data["base_url"])

    def clean_new_key(self) -> str:
        return checked_key(self.cleaned_data["new_key"])

    def clean(self) -> None:
        """Prepare what is taken over. A server of LLAMA_SERVERS that is being added here only keeps its API key."""
        super().clean()
        if not self.cleaned_data.get("takes_over"):
            return
        added = self.cleaned_data.get("base_url")
        for upstream in servers_of_settings({self.cleaned_data.get("name", "")}):
            if upstream.base_url != added:
                try:
                    upstream.full_clean()
                    upstream.base_url = checked_url(upstream.base_url)
                    self.taken_over.append(upstream)
                except forms.ValidationError as exc:
                    self.not_taken_over.append(f"{without_userinfo(upstream.base_url)} ({' '.join(exc.messages)})")
            elif not self.cleaned_data.get("new_key"):
                self.cleaned_data["new_key"] = upstream.api_key


def servers_of_settings(taken_names: Iterable[str] = ()) -> list[Upstream]:
    """The servers of LLAMA_SERVERS as upstreams that are not saved; none where upstreams are defined already."""
    if Upstream.objects.exists():
        return []
    names = set(taken_names)
    upstreams = []
    for spec in upstreams_of_settings():
        name = free_name(spec.name, names)
        names.add(name)
        upstreams.append(Upstream(name=name, base_url=spec.base_url, api_key=spec.api_key))
    return upstreams


def free_name(netloc: str, taken: set[str]) -> str:
    """A name like gpu1-8080 for gpu1:8080, with a number where that is taken."""
    base = re.sub(r"[^A-Za-z0-9]+", "-", netloc).strip("-")[: LONGEST_NAME - 3] or "upstream"
    names = (base, *(f"{base}-{number}" for number in range(2, 100)))
    return next(name for name in names if name not in taken)


def with_health(upstream: Upstream) -> str:
    """Its name and URL, and how it is where that is not well."""
    state = state_of(upstream)
    health = "" if state is None or state.is_up else f"; {state.health_line}"
    return f"{upstream} ({without_userinfo(upstream.base_url)}{health})"


def names_and_urls(upstreams: Iterable[Upstream]) -> str:
    return ", ".join(f"{upstream} ({upstream.base_url})" for upstream in upstreams)


class RedirectForm(forms.ModelForm):
    new_key = forms.CharField(label="API key of the new server", required=False, widget=KeyInput)
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
            raise forms.ValidationError("That is the current URL.")
        return url

    def clean_new_key(self) -> str:
        return checked_key(self.cleaned_data["new_key"])


def checked_key(key: str) -> str:
    """A key that can be sent in a header."""
    if not (key.isascii() and key.isprintable()):
        raise forms.ValidationError("The API key may contain only printable ASCII characters.")
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
            return [*fields, *(["takes_over"] if servers_of_settings() else [])]
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
        for upstream in form.taken_over:
            upstream.save()
            self.log_addition(request, upstream, "Taken over from LLAMA_SERVERS.")
        if form.not_taken_over:
            messages.warning(request, f"Not taken over from LLAMA_SERVERS: {', '.join(form.not_taken_over)}")
        left = [without_userinfo(url) for url in settings.LLAMA_SERVERS if url.rstrip("/") != obj.base_url]
        if form.taken_over:
            messages.success(request, f"Taken over from LLAMA_SERVERS: {names_and_urls(form.taken_over)}.")
        elif left and form.cleaned_data.get("takes_over") is False:
            messages.warning(request, f"LLAMA_SERVERS is no longer used: {', '.join(left)}. {HOLDS_WITHIN}")

    # -- how they fare -------------------------------------------------------------------------------------------

    @admin.display(empty_value="unknown (no gateway runs in this process)")
    def health(self, upstream: Upstream) -> str | None:
        state = state_of(upstream)
        if state is None:
            return None
        if upstream.is_enabled:
            return state.health_line
        return f"disabled, {state.busy} still running" if state.busy else "disabled"

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
            servers = ", ".join(map(without_userinfo, settings.LLAMA_SERVERS)) or "none"
            told = f"No upstreams are defined here, so the gateway uses LLAMA_SERVERS: {servers}."
            messages.info(request, f"{told} Adding one ends that; its form offers to add these servers, too.")
        return super().changelist_view(request, extra_context)

    # -- enabled and disabled ------------------------------------------------------------------------------------

    @admin.action(description="Enable: send calls", permissions=["change"])
    def enable(self, request: HttpRequest, upstreams: Any) -> None:
        self._set(request, upstreams.filter(is_enabled=False), is_enabled=True)

    @admin.action(description="Drain: send no more calls; running calls finish", permissions=["change"])
    def disable(self, request: HttpRequest, upstreams: Any) -> None:
        self._set(request, upstreams.filter(is_enabled=True), is_enabled=False)

    def _set(self, request: HttpRequest, upstreams: Any, *, is_enabled: bool) -> None:
        verb = "enabled" if is_enabled else "disabled"
        changed = list(upstreams)
        if not changed:
            self.message_user(request, f"Nothing to do: {verb} already.")
            return
        for upstream in changed:
            self.log_change(request, upstream, f"{verb.capitalize()}.")
        upstreams.filter(pk__in=[each.pk for each in changed]).update(is_enabled=is_enabled)
        names = ", ".join(each.name for each in changed)
        self.message_user(request, f"{verb.capitalize()}: {names}. {HOLDS_WITHIN}", messages.SUCCESS)

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
            messages.success(request, f"{upstream} points to {upstream.base_url} now. {HOLDS_WITHIN}")
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
