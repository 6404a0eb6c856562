"""What the first call of an account with many rows in this month waits for, after a start: the table of docs/ledger.md.

Usage: history.py [ROWS ...]. One account has made so many calls, all of today or evenly since the month began. Each
reading is that of a gateway that has just started, on SQLite and, where one is reachable, on PostgreSQL.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ledger import new_database

ROOT = Path(__file__).parent.parent
COLUMNS = """request_id, admitted_at, user_id, tier, endpoint, model, upstream, status, error, prompt_tokens,
    cached_tokens, completion_tokens, is_estimated, cache, is_free, total_ms, streamed"""
VALUES = """'req_' || n, {moment}, 1, 'free', 'chat-completions', 'model-' || (n % 3), 'gpu', 200, '', n % 2000,
    0, n % 500, false, '', n % 50 = 0, 100, false"""
FILL = {
    "sqlite": "WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < {rows})"
    " INSERT INTO proxy_usagerecord ({columns}) SELECT {values} FROM g",
    "postgresql": "INSERT INTO proxy_usagerecord ({columns}) SELECT {values} FROM generate_series(1, {rows}) n",
}
MOMENT = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', julianday('{begin:%Y-%m-%d}') + n * {days} / {rows})",
    "postgresql": "timestamptz '{begin:%Y-%m-%d} 00:00+00' + n * interval '1 day' * {days} / {rows}",
}
MOST = 5.0  # seconds that a call waits


def fill(rows: int, *, today_only: bool) -> None:
    """The calls of one account: of the days of this month so far, or all of today."""
    from datetime import UTC, datetime

    from django.db import connection

    now = datetime.now(UTC)
    begin = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if not today_only:
        begin = begin.replace(day=1)
    days = (now - begin).total_seconds() / 86400
    moment = MOMENT[connection.vendor].format(begin=begin, days=f"{days:.9f}", rows=f"{rows}.0")
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM proxy_usagerecord")
        cursor.execute("DELETE FROM proxy_dailyusage")
        cursor.execute(FILL[connection.vendor].format(rows=rows, columns=COLUMNS, values=VALUES.format(moment=moment)))
        cursor.execute("ANALYZE")


def first_reading(*models: str) -> float:
    """Seconds until a gateway that has just started knows the use of four quotas."""
    import asyncio

    from proxy.history import History
    from proxy.stores import AccountId, Meter
    from proxy.windows import WINDOWS

    meters = [
        Meter(f"{metric}:{window}:{model}", WINDOWS[window], 10, metric, model)
        for metric in ("requests", "tokens")
        for window in ("day", "month")
        for model in models
    ]

    async def read() -> float:
        history = History()
        began = time.perf_counter()
        await history.used(AccountId(1), meters, time.time())
        took = time.perf_counter() - began
        history.stop()
        return took

    return asyncio.run(read())


def rolled_up() -> float:
    from proxy.rollup import roll_up_due

    began = time.perf_counter()
    roll_up_due()
    return time.perf_counter() - began


def measure(name: str, sizes: list[int]) -> None:
    """One database, in this process."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connections

    call_command("migrate", verbosity=0)
    for rows in sizes:
        fill(rows, today_only=True)
        today = first_reading("")
        fill(rows, today_only=False)
        plain, of_model = first_reading(""), first_reading("", "model-1")
        seconds = rolled_up()
        summed = first_reading("")
        cells = (f"{each:.2f} s" for each in (today, plain, of_model, seconds, summed))
        print(f"| {name} | {rows:,} | {' | '.join(cells)} |", flush=True)
        if summed > MOST:
            sys.exit("A call would not have waited for what is left to be read.")
    connections.close_all()


def main() -> None:
    sizes = sys.argv[1:] or ["1000000", "3000000"]
    if database := os.environ.get("HISTORY_BENCH"):
        measure(database, [int(each) for each in sizes])
        return
    print("| database | rows | all of today | no day added up | and quotas of a model | adding up | after that |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        databases = {"SQLite": f"sqlite:///{folder}/bench.sqlite3", "PostgreSQL": new_database("llmgateway_history")}
        for name, url in databases.items():
            if url is None:
                print(f"| {name} | not reachable | | | | | |")
                continue
            env = {"DATABASE_URL": url, "SECRET_KEY": "bench" * 10, "LOG_LEVEL": "ERROR", "HISTORY_BENCH": name}
            env |= {"DJANGO_SETTINGS_MODULE": "llmgateway.settings", "PYTHONPATH": str(ROOT)}
            command = [sys.executable, __file__, *sizes]
            subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **env})


if __name__ == "__main__":
    main()
