"""The admin of the proxy: other names for models, and the cache. Upstreams and use have modules of their own."""

from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from unfold.admin import ModelAdmin

from accounts.confirmation import Question, ask, is_confirmed
from accounts.errors import StoreUnavailable
from accounts.models import Tier

from . import upstream_admin  # noqa: F401  # registers a page
from .gateway import gateway
from .models import CachePage, ModelAlias
from .usage_admin import ReadOnlyAdmin

EMPTY = Question(
    title="Empty the answer cache?",
    button="Empty the cache",
    effects=["All kept answers are dropped. Each is computed again when it is asked for, and charged as a new call."],
    is_final=True,
)


@admin.register(ModelAlias)
class ModelAliasAdmin(ModelAdmin):
    list_display = ["name", "model"]
    search_fields = ["name", "model"]


@admin.register(CachePage)
class CachePageAdmin(ReadOnlyAdmin):
    """One page: how much the cache holds, what it goes by, and a button that empties it."""

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST" and self.may_empty(request) and not is_confirmed(request):
            context = {**self.admin_site.each_context(request), "opts": self.opts}
            return ask(request, EMPTY, "admin/confirm.html", request.path, **context)
        if request.method == "POST":
            self.empty(request)
            return HttpResponseRedirect(request.path)
        context = {
            **self.admin_site.each_context(request),
            "title": "Answer cache",
            "opts": self.opts,
            "may_empty": self.may_empty(request),
            "is_elsewhere": settings.LANES == "default" and not settings.REDIS_URL,
            "settings": settings,
            "without": Tier.objects.filter(uses_cache=False),
        }
        try:
            context["size"] = gateway().cache_size()
        except (StoreUnavailable, TimeoutError) as exc:
            messages.error(request, str(exc))
        return TemplateResponse(request, "admin/proxy/answer_cache.html", context)

    def may_empty(self, request: HttpRequest) -> bool:
        return request.user.has_perm("proxy.empty_cachepage")

    def empty(self, request: HttpRequest) -> None:
        """Forget all answers, say how many, and note in the history who did."""
        if not self.may_empty(request):
            raise PermissionDenied
        try:
            emptied = gateway().empty_cache()
        except (StoreUnavailable, TimeoutError) as exc:
            messages.error(request, f"The cache was not emptied. {exc}")
            return
        told = f"{emptied} answer{'' if emptied == 1 else 's'} forgotten."
        LogEntry.objects.create(
            user=request.user,  # type: ignore[misc]  # ours, and signed in
            content_type=ContentType.objects.get_for_model(CachePage),
            object_repr=str(CachePage()),
            action_flag=CHANGE,
            change_message=f"Emptied: {told}",
        )
        messages.success(request, told)
