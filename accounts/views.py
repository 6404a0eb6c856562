"""/auth: sign in, stay signed in, sign out, and see what you may use."""

from typing import Any

from django.utils import timezone
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.generics import GenericAPIView
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from .callers import load_policies
from .errors import InvalidApiKey
from .models import User
from .serializers import RefreshSerializer, RevokeSerializer, TokenSerializer
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

    def post(self, request: Request) -> Response:
        try:
            return Response(self.validated(request), headers={"Cache-Control": "no-store"})
        except AuthenticationFailed as exc:
            raise InvalidApiKey("No active account has this user name and password.") from exc


class RefreshView(PublicView):
    serializer_class = RefreshSerializer

    def post(self, request: Request) -> Response:
        return Response(self.validated(request), headers={"Cache-Control": "no-store"})


class RevokeView(PublicView):
    serializer_class = RevokeSerializer

    def post(self, request: Request) -> Response:
        sign_in = self.validated(request)["sign_in"]
        if sign_in.ended_at is None:
            sign_in.ended_at = timezone.now()
            sign_in.save(update_fields=["ended_at"])
        return Response({"revoked": True})


class MeView(APIView):
    """The caller's own account: tier, quotas and what is left of them."""

    def get(self, request: Request) -> Response:
        user = User.objects.select_related("tier").get(pk=request.user.user_id)  # type: ignore[union-attr]  # a Caller
        tier = load_policies().tiers[user.tier_id]
        quotas = usage_reader().remaining(user.pk, user.tier_id)
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
