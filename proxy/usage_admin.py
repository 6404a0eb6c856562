"""What was used, in the admin: the ledger, its daily sums and the refusals, to be looked at, searched and exported.

The ledger has millions of rows, so none of its pages counts them or looks for the values that a column has.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ERROR_FLAG
from django.core.exceptions import PermissionDenied
from django.db.models import Max, Min, QuerySet
from django.http import HttpRequest, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import path, reverse
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.paginator import InfinitePaginator

from accounts.models import Quota, Tier
from accounts.user_admin import is_id

from .cache import Result
from .endpoints import ENDPOINTS
from .export import csv_of
from .models import DailyUsage, RefusalCount, UsageRecord
from .outcomes import OUTCOMES
from .rollup import begin_of


class ReadOnlyAdmin(ModelAdmin):
    """Rows that the gateway writes and nobody edits."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class UserFilter(AutocompleteSelectFilter):
    """By one user. What can be nobody's id finds nobody."""

    def __init__(self, field: Any, request: HttpRequest, params: dict[str, Any], *rest: Any, **named: Any) -> None:
        name = f"{field.name}__id__exact"
        if name in params:
            value = str(params[name][-1])
            params[name] = [value if is_id(value) else "0"]
        super().__init__(field, request, params, *rest, **named)


class OneOf(admin.SimpleListFilter):
    """A filter by one of some values that are known beforehand, of the field that it is named for."""

    def queryset(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        return rows.filter((self.parameter_name, self.value())) if self.value() is not None else rows


class EndpointFilter(OneOf):
    title = parameter_name = "endpoint"

    def lookups(self, request: HttpRequest, pages: Any) -> Sequence[tuple[str, str]]:
        return [(each.name, each.name) for each in ENDPOINTS]


class TierFilter(OneOf):
    title = parameter_name = "tier"

    def lookups(self, request: HttpRequest, pages: Any) -> Sequence[tuple[str, str]]:
        return [(name, name) for name in Tier.objects.values_list("name", flat=True)]


class CacheFilter(OneOf):
    title = parameter_name = "cache"

    def lookups(self, request: HttpRequest, pages: Any) -> Sequence[tuple[str, str]]:
        return [(each.value, each.value) for each in Result]


class OutcomeFilter(admin.SimpleListFilter):
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, pages: Any) -> Sequence[tuple[str, str]]:
        return [(each.name, each.label) for each in OUTCOMES.values()]

    def queryset(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        chosen = OUTCOMES.get(self.value() or "")
        return rows if chosen is None else rows.filter(chosen.rows)


class SpannedQuerySet(QuerySet[Any]):
    """Rows whose months or days are all between the first and the last, instead of what a look at each row says."""

    def datetimes(self, field_name: str, kind: str, order: str = "ASC", tzinfo: Any = None) -> Any:
        ends = self.aggregate(first=Min(field_name), last=Max(field_name))
        return steps(ends["first"], ends["last"], kind) if ends["first"] else []

    def dates(self, field_name: str, kind: str, order: str = "ASC") -> Any:
        ends = self.aggregate(first=Min(field_name), last=Max(field_name))
        return steps(begin_of(ends["first"]), begin_of(ends["last"]), kind) if ends["first"] else []


class LongList(ReadOnlyAdmin):
    """A list of so many rows that they are not counted."""

    list_filter_submit = True
    list_select_related = ["user"]
    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # they count the rows of each value of each filter
    paginator = InfinitePaginator

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return SpannedQuerySet(self.model).order_by(*self.model._meta.ordering)


class ReasonFilter(OneOf):
    title = parameter_name = "reason"

    def lookups(self, request: HttpRequest, pages: Any) -> Sequence[tuple[str, str]]:
        limits = [f"{metric}_{window}" for metric in Quota.Metric.values for window in Quota.Window.values]
        return [(each, each) for each in ("concurrency", *limits)]


def steps(first: datetime, last: datetime, kind: str) -> list[datetime]:
    """The first moment of each month or day from the one to the other, in UTC."""
    first, last = first.astimezone(UTC), last.astimezone(UTC)
    if kind == "day":
        midnight = first.replace(hour=0, minute=0, second=0, microsecond=0)
        return [midnight + timedelta(days=n) for n in range((last - midnight).days + 1)]
    months = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)
    return [datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC) for month in months]


@admin.register(UsageRecord)
class UsageRecordAdmin(LongList):
    list_display = [
        "admitted_at",
        "user",
        "tier",
        "endpoint",
        "model",
        "status",
        "error",
        "cache",
        "tokens",
        "total_ms",
    ]
    list_filter = [
        OutcomeFilter,
        TierFilter,
        EndpointFilter,
        CacheFilter,
        ("user", UserFilter),
    ]
    list_fullwidth = True
    date_hierarchy = "admitted_at"
    search_fields = ["request_id"]
    search_help_text = "The x-request-id of an answer."

    def get_search_results(self, request: HttpRequest, rows: Any, search_term: str) -> tuple[Any, bool]:
        """The one row of an id, by its index."""
        return (rows.filter(request_id=search_term.strip()) if search_term.strip() else rows), False

    @admin.display(description="tokens, prompt + answer")
    def tokens(self, row: UsageRecord) -> str:
        return f"{row.prompt_tokens:,} + {row.completion_tokens:,}"

    # -- export --------------------------------------------------------------------------------------------------

    def get_urls(self) -> list[Any]:
        page = self.admin_site.admin_view(self.export_view)
        return [path("export/", page, name="proxy_usagerecord_export"), *super().get_urls()]

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """All rows that the list's filters let through, as CSV, the oldest first."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            rows = self.get_changelist_instance(request).get_queryset(request)
        except IncorrectLookupParameters:
            return HttpResponseRedirect(f"{reverse('admin:proxy_usagerecord_changelist')}?{ERROR_FLAG}=1")
        name = f"calls-{timezone.now():%Y-%m-%d}.csv"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return StreamingHttpResponse(csv_of(rows), content_type="text/csv; charset=utf-8", headers=headers)


@admin.register(DailyUsage)
class DailyUsageAdmin(LongList):
    list_display = ["day", "user", "tier", "model", "calls", "failed", "prompt_tokens", "completion_tokens"]
    list_filter = [TierFilter, ("user", UserFilter)]
    date_hierarchy = "day"


@admin.register(RefusalCount)
class RefusalCountAdmin(LongList):
    list_display = ["minute", "user", "reason", "count"]
    list_filter = [ReasonFilter, ("user", UserFilter)]
    date_hierarchy = "minute"
