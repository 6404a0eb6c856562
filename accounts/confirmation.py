"""A page that asks before something is done. Its button posts the same form again with a yes, so it needs no script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin

NOT_SENT_AGAIN = ("csrfmiddlewaretoken", "confirmed", "index")
NAMED = 4  # names that a sentence holds; of more it says how many
LISTED = 50  # the same for the list below a question
MOST_AT_ONCE = 900  # rows that a question can be about; Django takes 1000 fields of a form


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


def ask(
    request: HttpRequest,
    question: Question,
    template: str,
    back: str,
    instead: Mapping[str, Sequence[str]] | None = None,
    **context: Any,
) -> TemplateResponse:
    """The page with a question. It sends all fields of this request again, those of `instead` with other values.

    `back` is where Cancel leads.
    """
    sent = {**dict(request.POST.lists()), **(instead or {})}
    fields = [(name, value) for name, values in sent.items() if name not in NOT_SENT_AGAIN for value in values]
    names, more = question.names[:LISTED], len(question.names) - LISTED
    told = {"title": question.title, "question": question, "names": names, "more": more, "fields": fields, "back": back}
    return TemplateResponse(request, template, {**context, **told})


class AskingAdmin(ModelAdmin):
    """A ModelAdmin whose actions can ask first, and lead back to the page that they were chosen on.

    All actions are posted to the list. The page of a single row posts there, too, with its own path in `next`.
    """

    def ask(self, request: HttpRequest, question: Question, rows: Sequence[Model]) -> HttpResponse:
        """The page that asks about these rows. Its yes names each, so that it is about no row made since then."""
        if len(rows) > MOST_AT_ONCE:
            told = f"Nothing was changed: {len(rows):,} are chosen, and at most {MOST_AT_ONCE} can be changed at once."
            self.message_user(request, f"{told} Narrow the list by a filter or a search.", messages.WARNING)
            return HttpResponseRedirect(origin_of(request))
        context = {**self.admin_site.each_context(request), "opts": self.opts}
        chosen = {ACTION_CHECKBOX_NAME: [str(row.pk) for row in rows], "select_across": []}
        return ask(request, question, "admin/confirm.html", origin_of(request), chosen, **context)

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
