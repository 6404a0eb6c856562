"""Sign-ins in the admin: who came from where, and which names are locked at which address."""

from typing import Any

from axes.models import AccessAttempt, AccessLog
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from unfold.admin import ModelAdmin

from .confirmation import named


class SignInPages(ModelAdmin):
    """Rows that nobody edits."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(AccessAttempt)
class AccessAttemptAdmin(SignInPages):
    """Deleting a row unlocks its name at its address."""

    list_display = ["attempt_time", "username", "ip_address", "failures_since_start", "is_locked"]
    search_fields = ["username", "ip_address"]
    search_help_text = "A user name or an address."
    fields = ["attempt_time", "username", "ip_address", "failures_since_start", "path_info", "user_agent"]
    actions = ["unlock"]

    def get_actions(self, request: HttpRequest) -> Any:
        return {name: action for name, action in super().get_actions(request).items() if name != "delete_selected"}

    @admin.display(boolean=True, description="locked")
    def is_locked(self, attempt: AccessAttempt) -> bool:
        return attempt.failures_since_start >= settings.AXES_FAILURE_LIMIT

    @admin.action(description="Unlock: forget these failures", permissions=["delete"])
    def unlock(self, request: HttpRequest, attempts: QuerySet[AccessAttempt]) -> None:
        chosen = list(attempts)
        self.log_deletions(request, chosen)
        attempts.delete()
        names = [f"{attempt.username} at {attempt.ip_address}" for attempt in chosen]
        self.message_user(request, format_html("{} unlocked.", named(names)), messages.SUCCESS)


@admin.register(AccessLog)
class AccessLogAdmin(SignInPages):
    list_display = ["attempt_time", "username", "ip_address", "logout_time", "path_info"]
    search_fields = ["username", "ip_address"]
    search_help_text = "A user name or an address."
    fields = ["attempt_time", "username", "ip_address", "logout_time", "path_info", "user_agent"]
    show_full_result_count = False
