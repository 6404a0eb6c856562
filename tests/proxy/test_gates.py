"""A view of the relay lane cannot be defined so that callers pass unasked. And the throttle serves stock DRF."""

import pytest
from django.core.exceptions import ImproperlyConfigured
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory
from rest_framework.throttling import BaseThrottle, UserRateThrottle
from rest_framework.views import APIView
from rest_framework_simplejwt.authentication import JWTAuthentication

from accounts.throttles import ReadThrottle
from proxy.gates import GatedView, ReadView
from proxy.gateway import gateway
from proxy.stores.memory import MemoryStore
from proxy.throttles import TierThrottle
from tests.cast import new_tier, person


class Unasking(BaseThrottle):
    """Never limits."""

    async def aallow_request(self, request, view):
        return True


@pytest.mark.parametrize(
    ("policies", "complaint"),
    [
        ({"throttle_classes": (UserRateThrottle,)}, "no async aallow_request"),
        ({"throttle_classes": ()}, "0 throttles that limit"),
        ({"throttle_classes": (Unasking,)}, "0 throttles that limit"),
        ({"throttle_classes": (TierThrottle, TierThrottle)}, "2 throttles that limit"),
        ({"throttle_classes": (ReadThrottle, TierThrottle)}, "2 throttles that limit"),
        ({"throttle_classes": (ReadThrottle,), "post": None}, "takes POST"),
        ({"throttle_classes": (TierThrottle, Unasking)}, "must be the last"),
        ({"permission_classes": (IsAuthenticated,)}, "no async ahas_permission"),
        ({"authentication_classes": (JWTAuthentication,)}, "no async aauthenticate"),
    ],
)
def test_a_view_that_would_fail_open_is_refused(policies, complaint):
    with pytest.raises(ImproperlyConfigured, match=complaint):
        type("Careless", (GatedView,), policies)


def test_a_view_that_reads_takes_no_post():
    with pytest.raises(ImproperlyConfigured, match="takes POST"):
        type("Careless", (ReadView,), {"post": None})
    assert type("Careful", (ReadView,), {"get": None})


def test_a_throttle_before_the_one_that_charges_is_welcome():
    assert type("Careful", (GatedView,), {"throttle_classes": (Unasking, TierThrottle)})


class Stock(APIView):
    """An APIView as DRF has it, synchronous."""

    throttle_classes = (TierThrottle,)

    def get(self, request):
        return Response({"hello": request.user.username})


@pytest.mark.django_db
def test_the_throttle_enforces_tiers_on_a_stock_apiview(monkeypatch):
    store = MemoryStore()  # this user's id will be another's
    monkeypatch.setattr(gateway(), "store", store)
    monkeypatch.setattr(gateway().admission, "store", store)
    grace = person("grace", new_tier(requests_a_minute=2, max_concurrent_requests=1))
    token = grace.token
    calls = [Stock.as_view()(APIRequestFactory().get("/", HTTP_AUTHORIZATION=f"Bearer {token}")) for _ in range(3)]
    assert [call.status_code for call in calls] == [200, 200, 429]
    assert 1 <= int(calls[-1]["Retry-After"]) <= 61
