"""Pages of a signed-in client: own limits and use, own keys, and lines to paste."""

from contextlib import suppress
from typing import Any, cast

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import authenticate, views
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse, reverse_lazy
from django.utils import timezone
from django.views.generic import TemplateView, View

from .confirmation import Question, ask, is_confirmed
from .errors import GatewayError, RateLimitExceeded, StoreUnavailable
from .keys import FormId, make_key, show_once, text_to_show
from .logins import GuardedOldPassword
from .models import ApiKey, User
from .usage import MONTH, RECENT_CALLS, usage_reader


class SignInForm(AuthenticationForm):
    def clean(self) -> Any:
        """Tell people when to come back, where they would be told as a program is."""
        try:
            return super().clean()
        except RateLimitExceeded as exc:
            raise forms.ValidationError(str(exc)) from exc


class SignInView(views.LoginView):
    form_class = SignInForm
    template_name = "account/sign_in.html"
    redirect_authenticated_user = True
    next_page = "account"


class PasswordForm(GuardedOldPassword, PasswordChangeForm):
    pass


class PasswordView(views.PasswordChangeView):
    """A new password signs out everywhere else, and ends all tokens."""

    form_class = PasswordForm
    template_name = "account/password.html"
    success_url = reverse_lazy("account")

    def form_valid(self, form: Any) -> HttpResponse:
        messages.success(
            self.request, "Your password is changed. You are signed out everywhere else; API keys keep working."
        )
        return super().form_valid(form)


class NewKeyForm(forms.Form):
    """What a key is for, and the password again: an open browser is not enough to take a key away."""

    name = forms.CharField(max_length=100, help_text="Where you use it, for example: laptop.")
    form_id = FormId()
    password = forms.CharField(
        label="Your password", widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}), strip=False
    )

    def __init__(self, request: HttpRequest, data: Any = None) -> None:
        super().__init__(data)
        self.request = request

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        if {"name", "password"} <= given.keys():
            try:
                user = authenticate(self.request, username=user_of(self.request).username, password=given["password"])
            except RateLimitExceeded as exc:
                raise forms.ValidationError(str(exc)) from exc
            if user != self.request.user:
                self.add_error("password", "This is not your password.")
        return given


class AccountView(LoginRequiredMixin, TemplateView):
    """Everything on one page."""

    template_name = "account/account.html"

    def get_context_data(self, **told: Any) -> dict[str, Any]:
        user = user_of(self.request)
        context: dict[str, Any] = {
            "keys": ApiKey.objects.filter(user=user),
            "totals": usage_reader().totals(user, (timezone.now() - MONTH).date()),
            "calls": usage_reader().recent(user, RECENT_CALLS),
            "uses": None,
            "base_url": f"{self.request.scheme}://{self.request.get_host()}",
            "model": next(iter(usage_reader().models(user)), "MODEL"),
            "form": NewKeyForm(self.request) if settings.MAX_KEYS_PER_USER else None,
        }
        with suppress(StoreUnavailable, TimeoutError):  # the page says so
            context["uses"] = usage_reader().remaining(user)
        return super().get_context_data(**{**context, **told})

    def post(self, request: HttpRequest) -> HttpResponse:
        """Make a key, and lead to its page: loading the answer again makes no second one."""
        form = NewKeyForm(request, request.POST)
        if form.is_valid():
            try:
                given = form.cleaned_data
                key, _ = make_key(user_of(request), given["name"], form_id=given["form_id"])
                show_once(request.session, key)
                return HttpResponseRedirect(reverse("account-key-made", args=[key.pk]))
            except GatewayError as exc:
                form.add_error(None, str(exc))
        return self.render_to_response(self.get_context_data(form=form))


class KeyMadeView(LoginRequiredMixin, View):
    """The page of a new key, with its text once."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        key = get_object_or_404(ApiKey, user=user_of(request), pk=pk)
        context = {"key": key, "text": text_to_show(request, key)}
        response = TemplateResponse(request, "account/key_made.html", context)
        response["Cache-Control"] = "no-store"
        return response


class RevokeKeyView(LoginRequiredMixin, View):
    """Asks before it revokes. The question is an answer to a button, so that a link leads back to the account."""

    def get(self, *_: Any, **__: Any) -> HttpResponse:
        return HttpResponseRedirect(reverse("account"))

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        keys = ApiKey.objects.filter(user=user_of(request), pk=pk, revoked_at=None)
        key = keys.first()
        if key is None:
            messages.warning(request, "Nothing was revoked: this key does not work any more.")
        elif not is_confirmed(request):
            effects = ["It stops working within 2 seconds. Programs that use it need a new key."]
            question = Question(f"Revoke the key “{key.name}”?", "Revoke", effects, is_final=True)
            return ask(request, question, "account/confirm.html", reverse("account"))
        else:
            keys.revoke()
            messages.success(request, f"The key “{key.name}” is revoked. It stops working within 2 seconds.")
        return HttpResponseRedirect(reverse("account"))


def user_of(request: HttpRequest) -> User:
    return cast(User, request.user)
