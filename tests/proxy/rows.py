"""Rows of the ledger, made directly."""

import itertools
from datetime import datetime
from typing import Any

from proxy.models import UsageRecord

numbers = itertools.count(1)


def usage_row(admitted_at: datetime, **fields: Any) -> UsageRecord:
    """A call of 10 tokens and 100 ms that ended well."""
    usual = {
        "request_id": f"req_made_{next(numbers)}",
        "user_id": 1,
        "tier": "free",
        "endpoint": "chat-completions",
        "model": "m",
        "status": 200,
        "error": "",
        "prompt_tokens": 7,
        "cached_tokens": 0,
        "completion_tokens": 3,
        "is_estimated": False,
        "total_ms": 100,
        "streamed": False,
    }
    return UsageRecord.objects.create(admitted_at=admitted_at, **{**usual, **fields})
