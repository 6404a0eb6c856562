"""/health: whether this process lives, whether it is ready, whether a llama-server can serve."""

from django.http.response import HttpResponseBase
from rest_framework.request import Request

from accounts.errors import StoreUnavailable

from .answers import json_answer
from .gates import OpenView


class Health(OpenView):
    """200 while a llama-server can serve, else 503."""

    def problem(self) -> str | None:
        return None if self.gateway.pool.is_up else "No llama-server is up."

    async def get(self, request: Request) -> HttpResponseBase:
        if problem := self.problem():
            return json_answer({"status": "unhealthy", "reason": problem}, 503)
        return json_answer({"status": "healthy"})


class Live(Health):
    """200 while the process answers at all. What restarts a process should ask this."""

    def problem(self) -> str | None:
        return None


class Ready(Health):
    """200 while calls can be admitted and served. What balances load should ask this."""

    def problem(self) -> str | None:
        if self.gateway.is_stopping:
            return "This process is about to stop."
        if problem := self.gateway.migrations.problem:
            return problem
        try:
            _ = self.gateway.snapshot.policies
        except StoreUnavailable:
            return "Tiers and quotas could not be read from the database."
        if not self.gateway.store.admits:
            return "Limits are counted in Redis, which is out of reach (STORE_DOWN_POLICY=deny)."
        return super().problem()
