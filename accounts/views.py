"""/auth: sign in, stay signed in, sign out, and see what you may use."""

import math
from typing import Any, NoReturn

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.generics import GenericAPIView
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework_simplejwt.tokens import Token

from .callers import load_policies
from .errors import InvalidApiKey, TooManyReads, UnknownKey
from .keys import check_is_sign_in, check_password_is_recent, make_key
from .models import ApiKey, User
from .schemas import KeyList, MadeKey, Me, Revoked, TokenPair
from .serializers import KeySerializer, NewKeySerializer, RefreshSerializer, RevokeSerializer, TokenSerializer
from .throttles import ReadThrottle
from .usage import usage_reader


class PublicView(GenericAPIView[Any]):
    """A view that takes its credentials in the body."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    def validated(self, request: Request) -> Any:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return serializer.validated_data


class TokenView(PublicView):
    serializer_class = TokenSerializer

    @extend_schema(summary="Sign in", responses=TokenPair)
    def post(self, request: Request) -> Response:
        try:
            return Response(self.validated(request), headers={"Cache-Control": "no-store"})
        except AuthenticationFailed as exc:
            raise InvalidApiKey("No active account has this user name and password.") from exc


class RefreshView(PublicView):
    serializer_class = RefreshSerializer

    @extend_schema(summary="Stay signed in", responses=TokenPair)
    def post(self, request: Request) -> Response:
        return Response(self.validated(request), headers={"Cache-Control": "no-store"})


class RevokeView(PublicView):
    serializer_class = RevokeSerializer

    @extend_schema(summary="Sign out: both tokens of a pair end", responses=Revoked)
    def post(self, request: Request) -> Response:
        sign_in = self.validated(request)["sign_in"]
        if sign_in.ended_at is None:
            sign_in.ended_at = timezone.now()
            sign_in.save(update_fields=["ended_at"])
        return Response({"revoked": True})


class KeysView(GenericAPIView[ApiKey]):
    """The caller's own API keys."""

    serializer_class = NewKeySerializer

    @extend_schema(summary="List the own API keys", operation_id="auth_keys_list", responses=KeyList)
    def get(self, request: Request) -> Response:
        check_is_sign_in(token_of(request))
        keys = ApiKey.objects.filter(user_id=user_id_of(request))
        return Response({"data": KeySerializer(keys, many=True).data})

    @extend_schema(summary="Make an API key, shown once", responses={201: MadeKey})
    def post(self, request: Request) -> Response:
        check_password_is_recent(token_of(request))
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        key, text = make_key(User.objects.get(pk=user_id_of(request)), **serializer.validated_data)
        return Response({**KeySerializer(key).data, "key": text}, status=201, headers={"Cache-Control": "no-store"})


class KeyView(APIView):
    """One of the caller's own API keys."""

    @extend_schema(summary="Revoke an own API key", responses=KeySerializer)
    def delete(self, request: Request, pk: int) -> Response:
        check_is_sign_in(token_of(request))
        keys = ApiKey.objects.filter(user_id=user_id_of(request), pk=pk)
        keys.revoke()
        if (key := keys.first()) is None:
            raise UnknownKey
        return Response(KeySerializer(key).data)


class MeView(APIView):
    """The caller's own account: tier, quotas and what is left of them."""

    throttle_classes = (ReadThrottle,)

    def throttled(self, request: Request, wait: float) -> NoReturn:
        raise TooManyReads(retry_after=math.ceil(wait))

    @extend_schema(summary="See the own tier, quotas and what is left of them", responses=Me)
    def get(self, request: Request) -> Response:
        user = User.objects.select_related("tier").get(pk=user_id_of(request))
        tier = load_policies().tiers[user.tier_id]
        quotas = usage_reader().remaining(user)
        return Response(
            {
                "username": user.username,
                "tier": tier.name,
                "max_concurrent_requests": tier.max_concurrent_requests,
                "max_output_tokens": tier.max_output_tokens,
                "allowed_models": None if tier.allowed_models is None else sorted(tier.allowed_models),
                "quotas": [quota._asdict() | {"remaining": quota.remaining} for quota in quotas],
            }
        )


def user_id_of(request: Request) -> int:
    return request.user.user_id  # type: ignore[union-attr]  # a Caller


def token_of(request: Request) -> Token:
    """The token that it came with."""
    return request.auth  # type: ignore[return-value]  # ours, not DRF's own
