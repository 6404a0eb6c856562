"""DRF permission classes of the relay lane."""

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from .errors import ModelNotAllowed


class MayUseModel(BasePermission):
    """The caller's tier allows the model of the call. Raises ModelNotAllowed."""

    async def ahas_permission(self, request: Request, view: Any) -> bool:
        if not view.tier.allows(view.model):
            raise ModelNotAllowed(f"Your tier, {view.tier.name}, may not use '{view.model}'.", param="model")
        return True
