"""What /auth takes and gives."""

from typing import Any, cast

from django.conf import settings
from django.contrib.auth.signals import user_logged_in
from django.core.exceptions import ValidationError
from rest_framework import serializers
from rest_framework_simplejwt.exceptions import ExpiredTokenError, TokenError
from rest_framework_simplejwt.serializers import TokenObtainPairSerializer
from rest_framework_simplejwt.tokens import Token

from .errors import AccountSuspended, InvalidApiKey, TokenExpired
from .logins import own_request
from .models import ApiKey, SignIn, User
from .tokens import AccessToken, RefreshToken


def token_pair(refresh: Token) -> dict[str, Any]:
    """SimpleJWT's names for a pair of tokens, and OAuth's beside them."""
    access = str(refresh.access_token)  # type: ignore[attr-defined]  # a RefreshToken
    return {
        "access": access,
        "refresh": str(refresh),
        "access_token": access,
        "token_type": "bearer",
        "expires_in": settings.ACCESS_TOKEN_LIFETIME,
    }


class TokenSerializer(TokenObtainPairSerializer):
    """A user name and a password for a pair of tokens. Whatever else is sent, a tier for one, changes nothing."""

    token_class = RefreshToken

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        super(TokenObtainPairSerializer, self).validate(attrs)
        user = cast(User, self.user)
        user_logged_in.send(User, request=own_request(self.context["request"]), user=user)
        return token_pair(RefreshToken.for_user(user))


class RefreshSerializer(serializers.Serializer[Any]):
    """A refresh token, good for one use, for the next pair. Using it a second time ends the sign-in."""

    refresh = serializers.CharField()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        refresh = read_token(attrs["refresh"], RefreshToken)
        sign_in = sign_in_of(refresh)
        user = sign_in.user
        if not user.is_active:
            raise AccountSuspended
        if sign_in.ended_at or refresh["iat"] < user.tokens_valid_from.timestamp():
            raise InvalidApiKey("This sign-in has ended. Sign in again.")
        used_jti = refresh["jti"]
        refresh.set_jti()
        refresh.set_exp()
        refresh.set_iat()
        if not sign_in.rotate(used_jti, refresh["jti"], refresh.expires_at):
            raise InvalidApiKey("This refresh token was used before, so its sign-in was ended. Sign in again.")
        return token_pair(refresh)


class NewKeySerializer(serializers.Serializer[Any]):
    """What a key is for, and until when it works: API_KEY_LIFETIME from now, or an earlier moment."""

    name = serializers.CharField(max_length=100)
    expires_at = serializers.DateTimeField(required=False)


class KeySerializer(serializers.ModelSerializer[ApiKey]):
    """A key, without its text."""

    class Meta:
        model = ApiKey
        fields = ("id", "name", "created_at", "expires_at", "revoked_at", "state")


class RevokeSerializer(serializers.Serializer[Any]):
    """Either token of a pair. Both stop working."""

    token = serializers.CharField()

    def to_internal_value(self, data: Any) -> Any:
        """The token, also under the name that it was given out by."""
        if isinstance(data, dict) or hasattr(data, "get"):
            names = ("token", "refresh", "access", "refresh_token", "access_token")
            data = {"token": next((data[name] for name in names if data.get(name)), None)}
        return super().to_internal_value(data)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        return {"sign_in": sign_in_of(read_token(attrs["token"], RefreshToken, AccessToken))}


def read_token(raw: str, *token_classes: type[Token]) -> Any:
    """A token of one of these types. Raises InvalidApiKey or TokenExpired."""
    for token_class in token_classes:
        try:
            return token_class(raw)  # type: ignore[arg-type]  # SimpleJWT takes encoded tokens, and says otherwise
        except ExpiredTokenError as exc:
            raise TokenExpired("This token has expired. Sign in again at /auth/token.") from exc
        except TokenError:
            continue
    raise InvalidApiKey(f"This is not a valid {' or '.join(str(c.token_type) for c in token_classes)} token.")


def sign_in_of(token: Token) -> SignIn:
    try:
        return SignIn.objects.select_related("user").get(sid=token["sid"])
    except (SignIn.DoesNotExist, KeyError, ValidationError) as exc:
        raise InvalidApiKey("This sign-in has ended. Sign in again.") from exc
