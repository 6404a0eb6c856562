"""What the proxy keeps: upstreams, names for models, and the ledger of what was used."""

from datetime import datetime
from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q

from accounts.models import ApiKey

from .destinations import problem_with
from .encryption import EncryptedField, Unreadable
from .members import Spec

ANY = "*"  # the alias of all names that nothing else knows
TAKEN_FOR_LOST = "lost"  # the error of a call whose worker died, or was cut off


def check_base_url(value: str) -> None:
    if problem := problem_with(value):
        raise ValidationError(problem)


class Upstream(models.Model):
    """A llama-server. An API key is for the one URL that it was given for: with another URL it is gone."""

    name = models.SlugField(unique=True, help_text="In metrics and in the ledger.")
    base_url = models.CharField(
        "base URL",
        max_length=200,
        unique=True,
        validators=[check_base_url],
        help_text="Scheme, host and port: http://gpu1:8080. Whatever runs there reads every prompt.",
    )
    api_key = EncryptedField("API key", blank=True, default="", help_text="Its --api-key, if it has one.")
    slots = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Calls that it gets at the same time. Empty: as many as its /props tells.",
    )
    is_enabled = models.BooleanField(
        "enabled", default=True, help_text="Without this it gets no more calls; those that run there end well."
    )

    _read: tuple[str | None, str | None] = None, None  # base URL and API key, as they are in the database

    class Meta:
        ordering = ["name"]
        permissions: ClassVar = [("redirect_upstream", "Can change the base URL of an upstream")]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def from_db(cls, db: Any, field_names: Any, values: Any, **kwargs: Any) -> "Upstream":
        made = super().from_db(db, field_names, values, **kwargs)
        made._read = made.__dict__.get("base_url"), made.__dict__.get("api_key")
        return made

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.base_url = self.base_url.rstrip("/")
        url, key = self._read
        if url not in (None, self.base_url) and self.api_key == key:
            self.api_key = ""
            if kwargs.get("update_fields") is not None:
                kwargs["update_fields"] = {*kwargs["update_fields"], "api_key"}
        super().save(*args, **kwargs)
        self._read = self.base_url, self.api_key

    @property
    def spec(self) -> Spec:
        """It as the pool knows it."""
        problem = "its API key cannot be read: FIELD_ENCRYPTION_KEYS lacks the one it was encrypted with"
        is_readable = not isinstance(self.api_key, Unreadable)
        key, problem = (self.api_key, "") if is_readable else ("", problem)
        return Spec(self.name, self.base_url, key, self.slots, self.is_enabled, problem)


class ModelAlias(models.Model):
    """Another name for a model, for clients that cannot be told its own."""

    name = models.CharField(
        max_length=200, unique=True, help_text=f"What clients ask for, for example gpt-4o. {ANY} is any unknown name."
    )
    model = models.CharField(max_length=200, help_text="The model that answers: its own name, as /v1/models lists it.")

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "model aliases"

    def __str__(self) -> str:
        return f"{self.name} → {self.model}"

    def clean(self) -> None:
        if self.name == self.model:
            raise ValidationError({"model": "A model answers to its own name already."})


class CachePage(models.Model):
    """No table: it gives the cache its page in the admin, and the permissions for that."""

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions: ClassVar = [("empty_cachepage", "Can empty the answer cache")]
        verbose_name_plural = "answer cache"

    def __str__(self) -> str:
        return "answer cache"


class UsageRecord(models.Model):
    """One admitted call. Written once, when the call has ended, and never changed, unless it was taken for lost.

    Users and keys are named without a constraint: the ledger outlives them, and a row never fails for one's sake.
    """

    request_id = models.CharField(max_length=40, unique=True)
    admitted_at = models.DateTimeField(db_index=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="+"
    )
    api_key = models.ForeignKey(
        ApiKey, models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="+"
    )
    tier = models.CharField(max_length=50)
    endpoint = models.CharField(max_length=32)
    model = models.CharField(max_length=200, blank=True)
    upstream = models.CharField(max_length=200, blank=True, help_text="Empty: none was asked.")
    status = models.PositiveSmallIntegerField(help_text="499: the client left before its answer began.")
    error = models.CharField(max_length=40, blank=True, help_text="Its code, or client_left. Empty: it ended well.")
    prompt_tokens = models.PositiveIntegerField(help_text="Cached ones included.")
    cached_tokens = models.PositiveIntegerField()
    completion_tokens = models.PositiveIntegerField()
    is_estimated = models.BooleanField("estimated", help_text="Counted up to where the answer was cut.")
    cache = models.CharField(max_length=8, blank=True, help_text="hit, miss, joined or bypass.")
    is_free = models.BooleanField(
        "free",
        default=False,
        db_default=False,
        help_text="It left the queue, or found no upstream: nothing was charged.",
    )
    queue_ms = models.PositiveIntegerField(null=True, help_text="Until it got a slot of an upstream, or gave up.")
    first_token_ms = models.PositiveIntegerField(null=True)
    total_ms = models.PositiveIntegerField()
    streamed = models.BooleanField()

    class Meta:
        ordering = ["-admitted_at"]
        verbose_name = "call"
        indexes: ClassVar = [
            models.Index(fields=["user", "admitted_at"], name="usage_of_a_user"),
            models.Index(
                fields=["admitted_at", "status", "error"],
                condition=~Q(status__lt=400, error=""),  # few rows: a chart of a month counts them
                name="calls_not_completed",
            ),
        ]

    def __str__(self) -> str:
        return self.request_id


class DailyUsage(models.Model):
    """The ledger of one whole day (UTC), added up for a user, a tier and a model. See rollup.py."""

    day = models.DateField(db_index=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.DO_NOTHING, null=True, db_constraint=False, related_name="+"
    )
    tier = models.CharField(max_length=50)
    model = models.CharField(max_length=200, blank=True)
    calls = models.PositiveBigIntegerField()
    failed = models.PositiveBigIntegerField(help_text="Those with a fault of a server's: a status of 500 or more.")
    free_calls = models.PositiveBigIntegerField(
        null=True, help_text="Those that no quota was charged for. Empty: added up by an earlier version."
    )
    prompt_tokens = models.PositiveBigIntegerField()
    cached_tokens = models.PositiveBigIntegerField()
    completion_tokens = models.PositiveBigIntegerField()
    total_ms = models.PositiveBigIntegerField(help_text="Of all calls together.")
    rolled_up_at = models.DateTimeField()

    class Meta:
        ordering = ["-day"]
        verbose_name_plural = "daily usage"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["user", "day", "tier", "model"], name="one_sum_of_a_kind_a_day"),
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.model}"


class RefusalQuerySet(models.QuerySet["RefusalCount"]):
    def add(self, minute: datetime, user_id: int, reason: str, count: int) -> None:
        """Add so many refusals to the row of this minute, user and reason."""
        row, is_new = self.get_or_create(minute=minute, user_id=user_id, reason=reason, defaults={"count": count})
        if not is_new:
            self.filter(pk=row.pk).update(count=F("count") + count)


class RefusalCount(models.Model):
    """How often a limit refused a user in one minute: refused calls have no rows of their own."""

    minute = models.DateTimeField(help_text="Its first second.")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.DO_NOTHING, null=True, db_constraint=False, related_name="+"
    )
    reason = models.CharField(max_length=40)
    count = models.PositiveBigIntegerField()

    objects: ClassVar = RefusalQuerySet.as_manager()

    class Meta:
        ordering = ["-minute"]
        verbose_name = "refusal"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["minute", "user", "reason"], name="one_count_of_a_kind_a_minute"),
        ]

    def __str__(self) -> str:
        return f"{self.count} × {self.reason}"
