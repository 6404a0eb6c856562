"""Who may call, and how much: users, tiers, quotas, API keys and sign-ins."""

import uuid
from datetime import datetime
from typing import Any, ClassVar

from django.contrib.auth.models import AbstractUser, UserManager
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.crypto import salted_hmac


def check_model_names(value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise ValidationError('Write a list of model names, for example ["smollm2-135m"].')


class Tier(models.Model):
    name = models.SlugField(unique=True)
    weight = models.PositiveIntegerField(
        default=1,
        validators=[MinValueValidator(1)],
        help_text="Share of the llama-servers' time while callers of several tiers wait: 4 gets four times that of 1.",
    )
    max_concurrent_requests = models.PositiveIntegerField(
        null=True, blank=True, help_text="Calls that one user may have running at the same time. Empty: no limit."
    )
    max_output_tokens = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Longest answer, in tokens. A call that asks for more, or does not say, gets this. Empty: no limit.",
    )
    max_queue_seconds = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Longest wait for a free slot of an upstream. 0: calls never wait. Empty: QUEUE_TIMEOUT.",
    )
    is_default = models.BooleanField("default", default=False, help_text="New users start on this tier.")
    allowed_models = models.JSONField(
        null=True,
        blank=True,
        validators=[check_model_names],
        help_text='Models that this tier may use, for example ["smollm2-135m"]. Empty: all.',
    )
    uses_cache = models.BooleanField(
        "answers from the cache",
        default=True,
        help_text="A call that always has the same answer (temperature 0) is computed once.",
    )

    class Meta:
        ordering = ["weight", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["is_default"],
                condition=Q(is_default=True),
                name="one_default_tier",
                violation_error_message="Another tier is the default one. Take the mark from it first.",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class UserQuerySet(models.QuerySet["User"]):
    def suspend(self) -> int:
        """Suspend these users, and end their tokens and browser sessions. API keys work again once they are active."""
        return self.update(is_active=False, tokens_valid_from=timezone.now())

    def reactivate(self) -> int:
        """Let these users sign in and call again. Tokens and sessions from before stay dead."""
        return self.update(is_active=True, tokens_valid_from=timezone.now())

    def revoke_tokens(self) -> int:
        """Sign these users out: every token and browser session so far ends. Their API keys go on working."""
        return self.update(tokens_valid_from=timezone.now())

    def reset_quotas(self) -> int:
        """Let these users begin every quota anew, as if they had used nothing of it."""
        return self.update(quotas_reset_at=timezone.now())


class Users(UserManager.from_queryset(UserQuerySet)):  # type: ignore[misc]  # a class made at run time
    pass


class User(AbstractUser):
    tier = models.ForeignKey(Tier, on_delete=models.PROTECT, related_name="users")
    tokens_valid_from = models.DateTimeField(
        default=timezone.now,
        editable=False,
        help_text="Tokens made before this moment are refused. Set by a new password and by suspension.",
    )
    quotas_reset_at = models.DateTimeField(
        null=True, editable=False, help_text="What was used before this moment counts on no quota."
    )
    erased_at = models.DateTimeField(
        null=True, editable=False, help_text="When the person was erased. The account cannot be used again."
    )

    objects: ClassVar[Users] = Users()

    class Meta(AbstractUser.Meta):
        permissions: ClassVar = [("erase_user", "Can erase a person")]

    def set_password(self, raw_password: str | None) -> None:
        super().set_password(raw_password)
        self.tokens_valid_from = timezone.now()

    def get_session_auth_hash(self) -> str:
        """A value that browser sessions are checked by, so that they end with the tokens."""
        value = f"{self.password} {self.tokens_valid_from.timestamp()}"
        return salted_hmac("accounts.User.get_session_auth_hash", value, algorithm="sha256").hexdigest()

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.tier_id is None:
            self.tier = Tier.objects.get(is_default=True)
        if not self.is_active:
            self.tokens_valid_from = timezone.now()
        fields = kwargs.get("update_fields")
        if fields is not None and {"password", "is_active"} & set(fields):
            kwargs["update_fields"] = {*fields, "tokens_valid_from"}
        super().save(*args, **kwargs)


class Quota(models.Model):
    class Metric(models.TextChoices):
        REQUESTS = "requests"
        TOKENS = "tokens"

    class Window(models.TextChoices):
        MINUTE = "minute"
        HOUR = "hour"
        DAY = "day"
        MONTH = "month"

    tier = models.ForeignKey(Tier, on_delete=models.CASCADE, null=True, blank=True, related_name="quotas")
    user = models.ForeignKey(User, on_delete=models.CASCADE, null=True, blank=True, related_name="quotas")
    metric = models.CharField(
        max_length=16,
        choices=Metric,
        default=Metric.REQUESTS,
        help_text="Tokens are those of prompt and answer together.",
    )
    window = models.CharField(
        max_length=16,
        choices=Window,
        default=Window.MINUTE,
        help_text="Minute and hour slide; day and month are calendar ones, in UTC.",
    )
    limit = models.PositiveBigIntegerField(null=True, blank=True, help_text="Empty: no limit.")
    model = models.CharField(max_length=200, blank=True, help_text="Its own name, as /v1/models lists it. Empty: all.")

    class Meta:
        ordering = ["tier", "user", "metric", "model"]
        constraints = [
            models.CheckConstraint(
                condition=Q(tier__isnull=True) ^ Q(user__isnull=True),
                name="quota_of_a_tier_or_a_user",
                violation_error_message="A quota belongs to a tier or to a user, not to both.",
            ),
            *(
                models.UniqueConstraint(
                    fields=[owner, "metric", "window", "model"],
                    condition=Q(**{f"{owner}__isnull": False}),
                    name=f"one_quota_of_a_kind_for_a_{owner}",
                    violation_error_message="There is such a quota already: change that one.",
                )
                for owner in ("tier", "user")
            ),
        ]

    def __str__(self) -> str:
        amount = "unlimited" if self.limit is None else self.limit
        return f"{amount} {self.metric} per {self.window}" + (f" of {self.model}" if self.model else "")


def new_jti() -> str:
    return uuid.uuid4().hex


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def working(self) -> "ApiKeyQuerySet":
        return self.filter(revoked_at=None, expires_at__gt=timezone.now())

    def revoke(self) -> int:
        """End these keys. Gives how many were not ended before."""
        return self.filter(revoked_at=None).update(revoked_at=timezone.now())


class ApiKey(models.Model):
    """A long-lived token of one user. The row is its life: it is revoked, never deleted."""

    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="api_keys")
    name = models.CharField(max_length=100, help_text="Where the key is used, for example: nightly report.")
    jti = models.CharField(max_length=32, unique=True, default=new_jti, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(help_text="The key stops working at this moment.")
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects: ClassVar = ApiKeyQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.user})"

    @property
    def state(self) -> str:
        if self.revoked_at:
            return "revoked"
        return "expired" if self.expires_at <= timezone.now() else "works"


class SignIn(models.Model):
    """One password given, and the refresh token that is good for it now. Each rotation replaces the token's id.

    A token whose id is no longer `refresh_jti` was used before: somebody holds a copy, and the sign-in ends.
    """

    sid = models.UUIDField(primary_key=True, default=uuid.uuid4)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sign_ins")
    refresh_jti = models.CharField(max_length=32)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.user} since {self.created_at}"

    def rotate(self, used_jti: str, new_jti: str, expires_at: datetime) -> bool:
        """Replace the refresh token in one atomic step. False, and an ended sign-in, where it was used before."""
        live = SignIn.objects.filter(pk=self.pk, ended_at=None)
        if live.filter(refresh_jti=used_jti).update(refresh_jti=new_jti, expires_at=expires_at):
            return True
        live.update(ended_at=timezone.now())
        return False
