"""SimpleJWT tokens as this gateway makes and reads them: keys by id, exact times, three types."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple, cast

import jwt
from django.conf import settings
from django.utils import timezone
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.exceptions import TokenBackendError, TokenBackendExpiredToken
from rest_framework_simplejwt.tokens import AccessToken as SimpleAccessToken
from rest_framework_simplejwt.tokens import RefreshToken as SimpleRefreshToken
from rest_framework_simplejwt.tokens import Token

from .models import ApiKey, SignIn, User


class Key(NamedTuple):
    """A signing key, the one algorithm it may be used with, and the id that tokens name it by."""

    kid: str
    algorithm: str
    secret: str

    @classmethod
    def hs256(cls, secret: str) -> "Key":
        return cls(hashlib.sha256(b"kid" + secret.encode()).hexdigest()[:8], "HS256", secret)


class KeyRing(TokenBackend):
    """SimpleJWT's backend with several keys: the first signs, all verify, each with its own algorithm.

    Checking a signature costs about 140 us, so the claims of the last `memory` tokens are remembered by the
    SHA-256 of the token. Only the signature is: expiry is looked at on every call.
    """

    def __init__(self, keys: Sequence[Key], memory: int = 10_000) -> None:
        self.signer = keys[0]
        super().__init__(self.signer.algorithm, self.signer.secret)
        self.keys = {key.kid: key for key in keys}
        self.memory = memory
        self._verified: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    def encode(self, payload: dict[str, Any]) -> str:
        return jwt.encode(
            payload, self.signer.secret, algorithm=self.signer.algorithm, headers={"kid": self.signer.kid}
        )

    def decode(self, token: Any, verify: bool = True) -> dict[str, Any]:
        """The claims of a token. Raises TokenBackendError, or TokenBackendExpiredToken. It always verifies."""
        raw = token if isinstance(token, bytes) else str(token).encode()
        digest = hashlib.sha256(raw).digest()
        claims = self._verified.get(digest)
        if claims is None:
            claims = self._verified[digest] = self._verify(raw)
            if len(self._verified) > self.memory:
                self._verified.popitem(last=False)
        if claims["exp"] <= time.time():
            raise TokenBackendExpiredToken("Token is expired")
        return dict(claims)

    def _verify(self, raw: bytes) -> dict[str, Any]:
        try:
            key = self.keys[jwt.get_unverified_header(raw)["kid"]]
            required = ["exp", "iat", "jti", "token_type"]
            options: Any = {"require": required, "verify_exp": False, "verify_iat": False}
            return jwt.decode(raw, key.secret, algorithms=[key.algorithm], options=options)
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError) as exc:
            raise TokenBackendError("Token is invalid") from exc


@cache
def key_ring(signing_key: str, retired_keys: tuple[str, ...]) -> KeyRing:
    return KeyRing([Key.hs256(secret) for secret in (signing_key, *retired_keys)])


class GatewayToken(Token):
    """What our tokens share: our keys, and `iat` to the microsecond, since a password change cuts between two."""

    @property
    def token_backend(self) -> TokenBackend:
        return key_ring(settings.JWT_SIGNING_KEY, settings.JWT_RETIRED_KEYS)

    def verify(self) -> None:
        """The key ring has seen to expiry and to the claims; what is left is the type."""
        self.verify_token_type()

    def set_iat(self, claim: str = "iat", at_time: datetime | None = None) -> None:
        self.payload[claim] = (at_time or self.current_time).timestamp()


class AccessToken(GatewayToken, SimpleAccessToken):
    pass


class RefreshToken(GatewayToken, SimpleRefreshToken):
    """Carries `sid`, the sign-in that it belongs to, and so do the access tokens made from it."""

    access_token_class = AccessToken

    @property
    def expires_at(self) -> datetime:
        return datetime.fromtimestamp(self.payload["exp"], tz=timezone.get_default_timezone())

    @classmethod
    def for_user(cls, user: User) -> "RefreshToken":  # type: ignore[override]  # SimpleJWT is generic over users
        token = cast(RefreshToken, super().for_user(user))
        SignIn.objects.filter(user=user, expires_at__lt=timezone.now()).delete()
        sign_in = SignIn.objects.create(user=user, refresh_jti=token["jti"], expires_at=token.expires_at)
        token["sid"] = sign_in.sid.hex
        return token


class ApiKeyToken(GatewayToken):
    """The long-lived token of an ApiKey row, which alone decides whether it still works."""

    token_type = "api_key"
    lifetime = timedelta(seconds=settings.API_KEY_LIFETIME)

    @classmethod
    def for_key(cls, key: ApiKey) -> "ApiKeyToken":
        token = cls()
        token["jti"] = key.jti
        token["user_id"] = str(key.user_id)
        token["exp"] = int(key.expires_at.timestamp())
        return token
