"""What the pages of the admin cost with a million rows in the ledger: time and queries of each, on PostgreSQL.

Usage: pages.py [--rows 1000000]. It makes a database of its own where PostgreSQL listens on 127.0.0.1, else in SQLite.
Each page is opened once to warm up, and then ROUNDS times; the time is the median, of one thread on this machine.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from ledger import new_database

ROOT = Path(__file__).parent.parent
ROUNDS = 7
USERS = 1000
MOST_QUERIES, MOST_MS = 12, 300  # of a list
FILL = """
INSERT INTO proxy_usagerecord (request_id, admitted_at, user_id, api_key_id, tier, endpoint, model, upstream, status,
    error, prompt_tokens, cached_tokens, completion_tokens, is_estimated, cache, is_free, queue_ms, first_token_ms,
    total_ms, streamed)
SELECT 'req_' || md5(n::text), moment, caller, NULL,
    (ARRAY['free', 'premium', 'enterprise'])[1 + caller % 3],
    (ARRAY['chat-completions', 'chat-completions', 'messages', 'embeddings'])[1 + n % 4],
    'model-' || n % 2, 'gpu' || n % 2,
    CASE WHEN n % 200 = 0 THEN 502 WHEN n % 150 = 0 THEN 499 ELSE 200 END, CASE WHEN n % 200 = 0 THEN 'upstream_error'
    WHEN n % 150 = 0 THEN 'client_left' ELSE '' END, (random() * 2000)::int, 0, (random() * 500)::int, false,
    (ARRAY['miss', 'bypass', 'hit'])[1 + n % 3], false, (random() * 100)::int, (random() * 500)::int,
    (random() * 9000)::int, true
FROM (SELECT n, now() - (random() ^ 1.2) * interval '30 days' AS moment, 1 + (random() ^ 2 * {users})::int AS caller
    FROM generate_series(1, {rows}) n) made
ORDER BY moment;
"""
REFUSALS = """
INSERT INTO proxy_refusalcount (minute, user_id, reason, count)
SELECT DISTINCT ON (1, 2) date_trunc('minute', now() - random() * interval '30 days'), 1 + (random() * {users})::int,
    'requests_minute', 1 + (random() * 50)::int
FROM generate_series(1, {rows});
"""


NO_LISTS = ("dashboard, last hour", "dashboard, last day", "dashboard, last month", "a user")


def fill(rows: int) -> None:
    """A million calls of a thousand users in a month, most of them lately, and the refusals beside them."""
    from django.core.management import call_command
    from django.db import connection

    from accounts.models import Tier, User
    from proxy.rollup import roll_up_due

    call_command("migrate", verbosity=0)
    tiers = list(Tier.objects.all())
    User.objects.create_superuser("admin", password="bench")
    User.objects.bulk_create([User(username=f"user{n}", tier=tiers[n % len(tiers)]) for n in range(USERS)])
    with connection.cursor() as cursor:
        began = time.monotonic()
        cursor.execute(FILL.format(rows=rows, users=USERS))
        cursor.execute(REFUSALS.format(rows=rows // 20, users=USERS))
        cursor.execute("ANALYZE")
        print(f"{rows:,} rows made in {time.monotonic() - began:.0f} s")
    began = time.monotonic()
    days = roll_up_due()
    print(f"{len(days)} days rolled up in {time.monotonic() - began:.1f} s")


def pages() -> dict[str, str]:
    from django.urls import reverse

    from accounts.models import Tier, User
    from proxy.models import UsageRecord

    user = User.objects.get(username="user0")
    last = UsageRecord.objects.latest("admitted_at")
    ledger = reverse("admin:proxy_usagerecord_changelist")
    month = f"admitted_at__year={last.admitted_at.year}&admitted_at__month={last.admitted_at.month}"
    return {
        "dashboard, last hour": "/admin/",
        "dashboard, last day": "/admin/?span=day",
        "dashboard, last month": "/admin/?span=month",
        "dashboard, its live part": reverse("admin-live"),
        "users": reverse("admin:accounts_user_changelist"),
        "users, a search": reverse("admin:accounts_user_changelist") + "?q=user77",
        "a user": reverse("admin:accounts_user_change", args=[user.pk]),
        "tiers": reverse("admin:accounts_tier_changelist"),
        "a tier": reverse("admin:accounts_tier_change", args=[Tier.objects.latest("pk").pk]),
        "API keys": reverse("admin:accounts_apikey_changelist"),
        "calls": ledger,
        "calls, with counts typed by hand": f"{ledger}?_facets=True",
        "calls, page 100": f"{ledger}?p=100",
        "calls of a month": f"{ledger}?{month}",
        "calls of a day": f"{ledger}?{month}&admitted_at__day={last.admitted_at.day}",
        "calls of a user": f"{ledger}?user__id__exact={user.pk}",
        "calls that failed": f"{ledger}?outcome=failed",
        "calls of a tier and endpoint": f"{ledger}?tier=free&endpoint=messages",
        "calls, by request id": f"{ledger}?q={last.request_id}",
        "a call": reverse("admin:proxy_usagerecord_change", args=[last.pk]),
        "daily usage": reverse("admin:proxy_dailyusage_changelist"),
        "refusals": reverse("admin:proxy_refusalcount_changelist"),
        "upstreams": reverse("admin:proxy_upstream_changelist"),
        "the client's own page": reverse("account"),
    }


def measured(get: Callable[[str], object], url: str) -> tuple[float, int, list[str]]:
    """Milliseconds, queries and the slowest of these, of a page."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    get(url)
    with CaptureQueriesContext(connection) as queries:
        get(url)
    count = len(queries)
    slowest = sorted(queries.captured_queries, key=lambda each: -float(each["time"]))
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        get(url)
        times.append((time.perf_counter() - began) * 1000)
    return median(times), count, [f"{each['time']} s: {each['sql'][:300]}" for each in slowest[:2]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    url = new_database()
    if url is None:
        print("PostgreSQL does not listen on 127.0.0.1:5432, and the figures are about it.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"DATABASE_URL": url, "SECRET_KEY": "bench" * 10, "LOG_LEVEL": "ERROR", "HOME": folder}
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmgateway.settings")
        os.environ["ALLOWED_HOSTS"] = "testserver"
        sys.path.insert(0, str(ROOT))
        import django

        django.setup()
        return report(options.rows)


def report(rows: int) -> int:
    from django.test import Client

    from accounts.models import User

    fill(rows)
    client = Client()
    client.force_login(User.objects.get(username="admin"), backend="django.contrib.auth.backends.ModelBackend")

    def get(url: str) -> object:
        answer = client.get(url)
        assert answer.status_code == 200, (url, answer.status_code)
        return answer.content

    too_much = 0
    print("\n| page | ms | queries |\n|---|---|---|")
    for name, url in pages().items():
        ms, queries, slowest = measured(get, url)
        is_too_much = name not in NO_LISTS and (ms > MOST_MS or queries > MOST_QUERIES)
        print(f"| {name} | {ms:.0f} | {queries} |{' too much for a list' if is_too_much else ''}", flush=True)
        if is_too_much:
            print("\n".join(slowest), file=sys.stderr)
        too_much += is_too_much
    return 1 if too_much else 0


if __name__ == "__main__":
    sys.exit(main())
