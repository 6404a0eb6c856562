"""SimpleJWT authentication on both lanes: the same gates, fed by a query or by the snapshot."""

import re

from rest_framework.request import Request
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.exceptions import ExpiredTokenError, TokenError
from rest_framework_simplejwt.settings import api_settings
from rest_framework_simplejwt.tokens import Token

from .callers import Caller, Credential, load_callers
from .errors import AccountSuspended, InvalidApiKey, TokenExpired
from .snapshot import Snapshot

SID = re.compile(r"[0-9a-f]{32}")


class TokenAuthentication(JWTAuthentication):
    """`Authorization: Bearer` with an access token or an API key. `request.user` becomes a Caller.

    Raises InvalidApiKey, TokenExpired or AccountSuspended; a call without a token is InvalidApiKey, too.
    """

    def __init__(self) -> None:
        """One is made for each call, and SimpleJWT's would look the user model up, which only its get_user needs."""

    def authenticate(self, request: Request) -> tuple[Caller, Token]:  # type: ignore[override]  # never None
        token = self.token_of(request)
        credential = credential_of(token)
        return self.check(load_callers([credential]).get(credential), token), token

    async def aauthenticate(self, request: Request, snapshot: Snapshot) -> tuple[Caller, Token]:
        return await self.averified(self.raw_token_of(request), snapshot)

    async def averified(self, raw_token: str, snapshot: Snapshot) -> tuple[Caller, Token]:
        token = self.get_validated_token(raw_token.encode("latin-1"))
        return self.check(await snapshot.caller(credential_of(token)), token), token

    def token_of(self, request: Request) -> Token:
        """The verified token of a request."""
        return self.get_validated_token(self.raw_token_of(request).encode("latin-1"))

    def raw_token_of(self, request: Request) -> str:
        """The token as it was sent."""
        words: list[str] = request.META.get("HTTP_AUTHORIZATION", "").split()
        if len(words) != 2 or words[0].lower() != "bearer":
            raise InvalidApiKey("Send a token as 'Authorization: Bearer TOKEN'. Get one at /auth/token.")
        return words[1]

    def get_validated_token(self, raw_token: bytes) -> Token:
        for token_class in api_settings.AUTH_TOKEN_CLASSES:
            try:
                return token_class(raw_token)
            except ExpiredTokenError as exc:
                raise TokenExpired from exc
            except TokenError:
                continue
        raise InvalidApiKey

    def check(self, caller: Caller | None, token: Token) -> Caller:
        """The gates behind the signature: a live credential, an active account, no token from before a cut."""
        if caller is None or caller.is_revoked:
            raise InvalidApiKey("This token or API key was revoked.")
        if not caller.is_active:
            raise AccountSuspended
        if token["token_type"] == "access" and token["iat"] < caller.tokens_valid_from:
            raise InvalidApiKey("This token was made before the last password change or suspension. Sign in again.")
        return caller


class ApiKeyHeaderAuthentication(TokenAuthentication):
    """The same, or `x-api-key` as Anthropic's clients send it. It is a class of the relay lane.

    Of two tokens one good one is enough: SDKs send both headers where both variables are set, and one may be stale.
    """

    async def aauthenticate(self, request: Request, snapshot: Snapshot) -> tuple[Caller, Token]:
        key = request.META.get("HTTP_X_API_KEY")
        if not key:
            return await super().aauthenticate(request, snapshot)
        try:
            return await self.averified(key, snapshot)
        except (InvalidApiKey, AccountSuspended) as exc:
            if "HTTP_AUTHORIZATION" not in request.META:
                raise
            of_key = exc
        try:
            return await super().aauthenticate(request, snapshot)
        except InvalidApiKey as exc:  # of two reasons the one that says more than "not valid"
            raise (exc if type(of_key) is InvalidApiKey else of_key) from exc


def credential_of(token: Token) -> Credential:
    if token["token_type"] == "api_key":
        return Credential("api_key", token["jti"])
    sid = token.get("sid")
    if not isinstance(sid, str) or not SID.fullmatch(sid):
        raise InvalidApiKey("This token belongs to no sign-in. Get one at /auth/token.")
    return Credential("sign_in", sid)
