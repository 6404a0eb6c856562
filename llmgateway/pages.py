"""Django's own error pages, on the default lane: people in the admin get Django's, everybody else the envelope."""

from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.views import defaults

from accounts.errors import GatewayError, InvalidRequest
from proxy.answers import answer_to


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if request.path.startswith("/admin/"):
        return defaults.page_not_found(request, exception)
    return answer_to(Http404())


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    return answer_to(InvalidRequest("The request is malformed, or its Host is not among ALLOWED_HOSTS."))


def server_error(request: HttpRequest) -> HttpResponseBase:
    if request.path.startswith("/admin/"):
        return defaults.server_error(request)
    return answer_to(GatewayError())
