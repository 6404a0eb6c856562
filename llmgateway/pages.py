"""Error pages of the default lane: a page for people, the envelope for programs.

A page needs no database, no session and no file from elsewhere, and shows the id of the request, to be quoted.
"""

import logging
import sys
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.urls import is_valid_path, reverse
from django.utils.cache import patch_vary_headers

from accounts.errors import GatewayError, InvalidRequest
from proxy.answers import answer_to

logger = logging.getLogger(__name__)

FOR_PROGRAMS = ("/auth/", "/v1/")
FOR_PEOPLE = ("/admin/", "/account/")
JSON, HTML = "application/json", "text/html"


def wants_page(request: HttpRequest) -> bool:
    """True if a person reads the answer: by the URL, or where that says nothing, as browsers ask for pages first."""
    if request.path.startswith((*FOR_PROGRAMS, *FOR_PEOPLE)):
        return request.path.startswith(FOR_PEOPLE)
    return request.get_preferred_type([JSON, HTML]) == HTML


def page(
    request: HttpRequest, status: int, title: str, *sentences: str, again: str = "", retry: str = "Try again"
) -> HttpResponse:
    """An error page with ways back: to the path `again` where there is one, named `retry`, and to the start."""
    is_admin = request.path.startswith("/admin/")
    context: dict[str, Any] = {
        "title": title,
        "sentences": sentences,
        "again": again,
        "retry": retry,
        "home": reverse("admin:index") if is_admin else reverse("account"),
        "home_name": "the admin" if is_admin else "your account",
        "request_id": getattr(request, "id", ""),
    }
    return HttpResponse(render_to_string("error.html", context), status=status, headers={"Cache-Control": "no-store"})


def answer(request: HttpRequest, error: GatewayError) -> HttpResponse:
    """The answer to an error of ours, as a page or as the envelope."""
    if not wants_page(request):
        response = answer_to(error, request)
    else:
        title = TITLES.get(error.status, "This did not work")
        response = page(request, error.status, title, str(error), again=request.get_full_path())
        for name, value in error.headers.items():
            response[name] = value
    patch_vary_headers(response, ["Accept"])
    return response


TITLES = {429: "Too many tries", 503: "Not available at the moment"}


# -- Django's handlers -----------------------------------------------------------------------------------------------


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    sentence = "The request is malformed, or its Host is not among ALLOWED_HOSTS."
    if not wants_page(request):
        return answer_to(InvalidRequest(sentence))
    if isinstance(exception, DisallowedHost):
        sentence = (
            "The gateway does not know this host name. Its administrator can name it in PUBLIC_URL or ALLOWED_HOSTS."
        )
    return page(request, 400, "This request was not understood", sentence)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    sentences = ("Your account does not have the permission for this page.", "An administrator can give it to you.")
    return page(request, 403, "You may not open this page", *sentences)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponseBase:
    """The answer to a form without a valid token, as CSRF_FAILURE_VIEW."""
    told = ["The page with the form was open too long, or you have signed in or out since then."]
    told.append("Go back, load the page again and send the form once more. Cookies must be allowed.")
    if not reason.startswith(("Origin", "Referer")):
        return page(request, 403, "The form was not accepted", *told)
    told = ["The gateway takes no forms from the address that your browser shows."]
    if settings.PUBLIC_SITE is None or not settings.PUBLIC_SITE.is_https:
        told.append("Its administrator can name that address in PUBLIC_URL or CSRF_TRUSTED_ORIGINS.")
        return page(request, 403, "The form was not accepted", *told)
    site = settings.PUBLIC_SITE.origin
    told.append(f"It is at {site}, as its administrator says in PUBLIC_URL. Open the page there.")
    told.append("Further addresses can be named in CSRF_TRUSTED_ORIGINS.")
    start = reverse("admin:index" if request.path.startswith("/admin/") else "account")
    return page(request, 403, "The form was not accepted", *told, again=f"{site}{start}", retry=f"Open {site}")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """The answer to an unknown URL, or to a view's Http404. Where a slash too many is all that is wrong, a redirect.

    The admin adds slashes itself, so a redirect below /admin/ would be one without end.
    """
    path = request.path_info
    without_slash = path.rstrip("/")
    has_no_route = request.resolver_match is None and not path.startswith("/admin/")
    if request.method in ("GET", "HEAD") and has_no_route and without_slash != path and is_valid_path(without_slash):
        query = request.META.get("QUERY_STRING", "")
        return HttpResponseRedirect(without_slash + (f"?{query}" if query else ""))
    if not wants_page(request):
        return answer_to(Http404())
    return page(request, 404, "There is no such page", "Check the address, or start from the first page.")


def server_error(request: HttpRequest) -> HttpResponseBase:
    logger.error("Request %s failed: %r", getattr(request, "id", "no request"), sys.exc_info()[1])
    if not wants_page(request):
        return answer_to(GatewayError())
    sentences = ("The gateway could not answer. Try again in a moment.", "If it fails again, tell its administrator.")
    again = request.get_full_path() if request.method == "GET" else ""
    return page(request, 500, "Something went wrong", *sentences, again=again)


def favicon(request: HttpRequest) -> HttpResponseBase:
    """The icon, for pages that name none and browsers that ask for it at the old place."""
    return HttpResponseRedirect(static("accounts/icon.svg"))
