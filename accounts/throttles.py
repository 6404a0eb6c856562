"""The DRF throttle class of what costs no quota: reading one's account and the list of models."""

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from .errors import TooManyReads
from .usage import event_counter

MINUTE = 60  # seconds


class ReadThrottle(BaseThrottle):
    """Admits READS_PER_MINUTE requests of a user in a minute, on both lanes together. 0 admits all.

    It charges no quota. Where the store of limits is out of reach it admits everybody.
    """

    limits = True
    charges = False
    error = TooManyReads
    reason = "reads"  # in api_rejections_total
    _wait = 0

    async def aallow_request(self, request: Request, view: APIView) -> bool:
        if settings.READS_PER_MINUTE > 0:
            self._wait = await event_counter().aclaim(key_of(request), MINUTE, settings.READS_PER_MINUTE)
        return not self._wait

    def allow_request(self, request: Request, view: APIView) -> bool:
        if settings.READS_PER_MINUTE > 0:
            self._wait = event_counter().claim(key_of(request), MINUTE, settings.READS_PER_MINUTE)
        return not self._wait

    def wait(self) -> int:
        return self._wait


def key_of(request: Request) -> str:
    return f"reads:{request.user.user_id}"  # type: ignore[union-attr]  # a Caller
