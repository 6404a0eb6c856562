"""The admin of the proxy: other names for models, and the ledger, to be looked at."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from .models import ModelAlias, RefusalCount, UsageRecord


@admin.register(ModelAlias)
class ModelAliasAdmin(admin.ModelAdmin):
    list_display = ["name", "model"]
    search_fields = ["name", "model"]


class ReadOnlyAdmin(admin.ModelAdmin):
    """Rows that the gateway writes and nobody edits."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    list_display = [
        "admitted_at",
        "user",
        "tier",
        "endpoint",
        "model",
        "status",
        "error",
        "prompt_tokens",
        "completion_tokens",
        "total_ms",
    ]
    list_filter = ["endpoint", "tier", "status"]
    list_select_related = ["user"]
    date_hierarchy = "admitted_at"
    search_fields = ["request_id"]
    search_help_text = "The x-request-id of an answer."
    show_full_result_count = False


@admin.register(RefusalCount)
class RefusalCountAdmin(ReadOnlyAdmin):
    list_display = ["minute", "user", "reason", "count"]
    list_filter = ["reason"]
    list_select_related = ["user"]
    date_hierarchy = "minute"
