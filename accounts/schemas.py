"""What /auth answers, for the API's documentation."""

from typing import Any

from rest_framework import serializers

from .models import ApiKey
from .serializers import KeySerializer


class TokenPair(serializers.Serializer[Any]):
    access = serializers.CharField(help_text="Send it as `Authorization: Bearer`, or as an SDK's API key.")
    refresh = serializers.CharField(help_text="Good once, at /auth/token/refresh.")
    access_token = serializers.CharField(help_text="The same as `access`.")
    token_type = serializers.ChoiceField(["bearer"])
    expires_in = serializers.IntegerField(help_text="Seconds that the access token is good for.")


class Revoked(serializers.Serializer[Any]):
    revoked = serializers.BooleanField()


class KeyList(serializers.Serializer[Any]):
    data = KeySerializer(many=True)  # type: ignore[assignment]  # a field of that name, not the property


class MadeKey(KeySerializer):
    """A new key, with its text."""

    key = serializers.CharField(help_text="The key itself. It is shown only now.")

    class Meta:
        model = ApiKey
        fields = (*KeySerializer.Meta.fields, "key")


class QuotaState(serializers.Serializer[Any]):
    metric = serializers.ChoiceField(["requests", "tokens"])
    window = serializers.ChoiceField(["minute", "hour", "day", "month"])
    model = serializers.CharField(help_text="Empty: all models together.")
    limit = serializers.IntegerField(allow_null=True, help_text="null: no limit.")
    used = serializers.IntegerField()
    resets_in = serializers.FloatField(help_text="Seconds until all of it is free again.")
    remaining = serializers.IntegerField(allow_null=True)


class Me(serializers.Serializer[Any]):
    username = serializers.CharField()
    tier = serializers.CharField()
    max_concurrent_requests = serializers.IntegerField(allow_null=True)
    max_output_tokens = serializers.IntegerField(allow_null=True)
    allowed_models = serializers.ListField(child=serializers.CharField(), allow_null=True, help_text="null: all.")
    quotas = QuotaState(many=True)
