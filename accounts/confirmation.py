"""A page that asks before something is done. Its button posts the same form again with a yes, so it needs no script."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin

NOT_SENT_AGAIN = ("csrfmiddlewaretoken", "confirmed", "index")
NAMED = 4  # names that a sentence holds; of more it says how many
LISTED = 50  # the same for the list below a question


@dataclass(frozen=True, slots=True)
class Question:
    """A question: its title, the label of its button, what a yes does, and what stays as it is."""

    title: str
    button: str
    effects: Sequence[str]
    stays: Sequence[str] = ()
    is_final: bool = False  # nothing brings back what was there before
    names: Sequence[str] = ()  # of all that it is about, where the title holds some of them only


def is_confirmed(request: HttpRequest) -> bool:
    return request.POST.get("confirmed") == "yes"


def ask(request: HttpRequest, question: Question, template: str, back: str, **context: Any) -> TemplateResponse:
    """The page with a question. It sends all fields of this request again; `back` is where Cancel leads."""
    fields = [(name, value) for name, values in request.POST.lists() if name not in NOT_SENT_AGAIN for value in values]
    names, more = question.names[:LISTED], len(question.names) - LISTED
    told = {"title": question.title, "question": question, "names": names, "more": more, "fields": fields, "back": back}
    return TemplateResponse(request, template, {**context, **told})


class AskingAdmin(ModelAdmin):
    """A ModelAdmin whose actions can ask first, and lead back to the page that they were chosen on.

    All actions are posted to the list. The page of a single row posts there, too, with its own path in `next`.
    """

    def ask(self, request: HttpRequest, question: Question) -> TemplateResponse:
        context = {**self.admin_site.each_context(request), "opts": self.opts}
        return ask(request, question, "admin/confirm.html", origin_of(request), **context)

    def response_action(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponseBase | None:
        response: HttpResponseBase | None = super().response_action(request, queryset)
        if isinstance(response, HttpResponseRedirect) and response.url == request.get_full_path():
            return HttpResponseRedirect(origin_of(request))
        return response


def origin_of(request: HttpRequest) -> str:
    """The page of this site where an action was chosen: `next`, or else the list with its filters."""
    path = request.POST.get("next", "")
    return path if url_has_allowed_host_and_scheme(path, allowed_hosts=None) else request.get_full_path()


def named(names: Sequence[str]) -> SafeString:
    """These names as a part of a sentence, in HTML: "a and b", or "a, b, c and 12 more"."""
    if len(names) > NAMED:
        names = [*names[: NAMED - 1], f"{len(names) - NAMED + 1} more"]
    if len(names) < 2:
        return conditional_escape(names[0] if names else "nobody")
    *first, last = names
    return format_html("{} and {}", format_html_join(", ", "{}", ((name,) for name in first)), last)
