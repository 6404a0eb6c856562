"""The ledger: batches, faults of the database, and what a stop writes."""

import asyncio
from datetime import UTC, datetime

import pytest
from django.db import DataError, OperationalError, ProgrammingError

from accounts.callers import Caller
from accounts.errors import StoreUnavailable
from proxy import ledger as module
from proxy.admission import lease_of
from proxy.gateway import gateway
from proxy.ledger import Ledger, write
from proxy.models import RefusalCount, UsageRecord
from proxy.records import Record, lost_row
from proxy.stores import Lost
from tests.cast import new_tier, numbers, person
from tests.servers import wait_until, wait_until_async

pytestmark = pytest.mark.usefixtures("live")  # whose database is there to be written to


OURS = "req_test_"


def row(**fields):
    return {
        "request_id": f"{OURS}{next(numbers)}",
        "admitted_at": datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC),
        "user_id": 1,
        "tier": "free",
        "model": "m",
        "upstream": "",
        "error": "",
        "cache": "",
        "endpoint": "chat-completions",
        "status": 200,
        "prompt_tokens": 5,
        "cached_tokens": 3,
        "completion_tokens": 2,
        "is_estimated": False,
        "is_free": False,
        "total_ms": 12,
        "streamed": True,
        **fields,
    }


def ids(*rows):
    return set(
        UsageRecord.objects.filter(request_id__in=[r["request_id"] for r in rows]).values_list("request_id", flat=True)
    )


def scene(play, capacity=100):
    """Run a scene with a ledger that is started, and stop it."""

    async def run():
        ledger = Ledger(capacity)
        await ledger.start()
        try:
            return await play(ledger)
        finally:
            await ledger.stop()

    return asyncio.run(run())


class Database:
    """Stands before the real one, and fails when told to."""

    def __init__(self, monkeypatch):
        self.fault: Exception | None = None
        self.batches: list[int] = []
        monkeypatch.setattr(module, "insert", self.insert)
        self.real = insert

    def insert(self, rows):
        rows = list(rows)
        if any(each["request_id"].startswith(OURS) for each in rows):  # the live gateway writes, too
            self.batches.append(len(rows))
            if self.fault:
                raise self.fault
        self.real(rows)


insert = module.insert


@pytest.fixture
def database(monkeypatch):
    return Database(monkeypatch)


# -- writing -----------------------------------------------------------------------------------------------------------


def test_rows_are_written_in_a_batch(database):
    rows = [row() for _ in range(20)]

    async def play(ledger):
        for each in rows:
            ledger.add(each)
        await wait_until_async(lambda: ledger.waiting == 0, "the ledger has tried")

    scene(play)
    assert len(ids(*rows)) == 20
    assert len([size for size in database.batches if size]) <= 2


def test_what_is_left_is_written_at_the_stop():
    rows = [row() for _ in range(module.BATCH + 7)]

    async def play(ledger):
        for each in rows:
            ledger.add(each)

    scene(play, capacity=10_000)
    assert len(ids(*rows)) == module.BATCH + 7


def test_a_row_that_is_written_twice_is_there_once():
    each = row()
    assert write([each], {}) == 1
    assert write([each, row()], {}) == 2
    assert UsageRecord.objects.filter(request_id=each["request_id"]).count() == 1


@pytest.mark.parametrize("bad", [{"completion_tokens": 10**30}, {"admitted_at": None}, {"status": None}])
def test_a_row_that_no_database_takes_keeps_no_other_out(bad, caplog):
    poison, good = row(**bad), [row(), row()]
    refusals = {module.Refusals(0, next(numbers) + 10**6, "requests_minute"): 2}
    assert write([good[0], poison, good[1]], refusals) == 2
    assert ids(*good) == {each["request_id"] for each in good}
    assert poison["request_id"] in caplog.text
    assert RefusalCount.objects.get(user_id=next(iter(refusals)).user_id).count == 2


def test_refusals_beside_a_bad_row_are_counted_once_though_the_database_goes(monkeypatch):
    user = next(numbers) + 10**6
    refusals = {module.Refusals(0, user, "a"): 1}
    faults = [DataError("bad"), OperationalError("gone"), None]

    def insert(rows):
        if fault := faults.pop(0):
            raise fault

    monkeypatch.setattr(module, "insert", insert)
    with pytest.raises(OperationalError):
        write([row()], refusals)
    write([row()], refusals)
    assert RefusalCount.objects.get(user_id=user).count == 1


@pytest.mark.parametrize("fault", [OperationalError("gone"), ProgrammingError("no such table")])
def test_without_a_database_rows_wait(database, monkeypatch, caplog, fault):
    monkeypatch.setattr(module, "RETRY_AFTER", 0.05)
    rows = [row(), row()]

    async def play(ledger):
        database.fault = fault
        for each in rows:
            ledger.add(each)
        await wait_until_async(lambda: len(database.batches) > 2, "the ledger has tried")
        assert ledger.waiting == 2
        database.fault = None
        await wait_until_async(lambda: ledger.waiting == 0, "the ledger has tried")

    scene(play)
    assert len(ids(*rows)) == 2
    assert [record.levelname for record in caplog.records if record.name == "proxy.ledger"] == ["ERROR", "WARNING"]


def test_what_cannot_be_written_at_the_stop_is_in_the_log(database, monkeypatch, caplog):
    monkeypatch.setattr(module, "LAST_TRY", 0.1)
    monkeypatch.setattr(module, "RETRY_AFTER", 0.05)
    each = row()

    async def play(ledger):
        database.fault = OperationalError("gone")
        ledger.add(each)

    scene(play)
    assert each["request_id"] in caplog.text


def test_one_bad_row_is_not_the_end_of_the_ledger(database):
    async def play(ledger):
        database.fault = DataError("bad")
        ledger.add(row())
        await wait_until_async(lambda: ledger.waiting == 0, "the ledger has tried")
        database.fault = None
        ledger.add(good)
        await wait_until_async(lambda: ledger.waiting == 0, "the ledger has tried")

    good = row()
    scene(play)
    assert ids(good)


# -- room --------------------------------------------------------------------------------------------------------------


def test_a_full_ledger_takes_no_more_calls(database):
    async def play(ledger):
        database.fault = OperationalError("gone")
        ledger.add(row())
        ledger.check_room()
        ledger.add(row())
        with pytest.raises(StoreUnavailable):
            ledger.check_room()
        database.fault = None

    scene(play, capacity=2)


def test_a_call_that_could_not_be_recorded_is_refused_uncharged(live, bob, chat, monkeypatch):
    monkeypatch.setattr(gateway().ledger, "capacity", 0)
    refused = chat(bob)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-ratelimit-remaining-requests"] == "1000"


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_refusals_are_added_up_by_minute_user_and_reason():
    user = next(numbers) + 10**6
    for _ in range(2):
        write(
            [],
            {module.Refusals(60, user, "a"): 3, module.Refusals(120, user, "a"): 1, module.Refusals(60, user, "b"): 1},
        )
    counts = RefusalCount.objects.filter(user_id=user).order_by("minute", "reason").values_list("reason", "count")
    assert list(counts) == [("a", 6), ("b", 2), ("a", 2)]


def test_refused_calls_have_a_count_and_no_row(live, chat):
    dave = person("dave", new_tier(requests_a_minute=2))
    assert [chat(dave, max_tokens=1).status_code for _ in range(6)] == [200, 200, 429, 429, 429, 429]
    wait_until(lambda: sum(RefusalCount.objects.filter(user=dave.user).values_list("count", flat=True)) == 4, "counted")
    wait_until(lambda: UsageRecord.objects.filter(user=dave.user).count() == 2, "the rows of those admitted")
    assert set(RefusalCount.objects.filter(user=dave.user).values_list("reason", flat=True)) == {"requests_minute"}


# -- a call's own row --------------------------------------------------------------------------------------------------


def rows_of(caller, count=1):
    found = UsageRecord.objects.filter(user=caller.user).order_by("admitted_at")
    wait_until(lambda: len(found.all()) == count, "the rows are written")
    return list(found.all())


def test_a_row_says_who_used_what(live, bob, post):
    response = post("chat/completions", bob, messages=[{"role": "user", "content": "Say hello."}], max_tokens=4)
    usage = response.json()["usage"]
    (row,) = rows_of(bob)
    assert row.request_id == response.headers["x-request-id"]
    assert (row.tier, row.endpoint, row.model, row.status, row.error) == (
        "enterprise", "chat-completions", "smollm2-135m", 200, "",
    )  # fmt: skip
    assert (row.prompt_tokens, row.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert row.upstream == gateway().pool.members[0].name
    assert 0 <= row.first_token_ms <= row.total_ms
    assert (row.is_estimated, row.streamed, row.api_key_id) == (False, False, None)


def test_a_row_names_the_key(live, bob, chat):
    key, token = bob.key()
    chat(token)
    assert rows_of(bob)[0].api_key == key


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        ("tokenize", {"content": "Hello"}, (0, 0)),
        ("messages/count_tokens", {"messages": [{"role": "user", "content": "Hi"}]}, (0, 0)),
        ("completions", {"prompt": ["Hello", "The sky is"], "max_tokens": 3}, (4, 6)),
        ("responses", {"input": "Say hello.", "max_output_tokens": 3}, (33, 3)),
        ("messages", {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 3}, (33, 3)),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_every_endpoint_has_its_tokens(live, bob, post, path, body, tokens, stream):
    assert post(path, bob, **body, stream=stream).status_code == 200
    (row,) = rows_of(bob)
    assert (row.prompt_tokens, row.completion_tokens, row.is_estimated) == (*tokens, False)


@pytest.mark.parametrize("path", ["embeddings", "rerank"])
def test_what_is_answered_whole_has_its_tokens(live, bob, post, served_by, embedder, ranker, path):
    served_by(embedder if path == "embeddings" else ranker)
    body = {"input": ["Hello", "world"]} if path == "embeddings" else {"query": "a", "documents": ["b"]}
    used = post(path, bob, **body).json()["usage"]["prompt_tokens"]
    (row,) = rows_of(bob)
    assert (row.prompt_tokens, row.completion_tokens, row.is_estimated) == (used, 0, False)


def test_a_call_that_was_never_admitted_has_no_row(live, bob, post):
    assert post("chat/completions", bob).status_code == 400
    assert post("tokenize", bob, content="x").status_code == 200
    assert [row.endpoint for row in rows_of(bob)] == ["tokenize"]


def test_a_call_that_no_llama_server_took_has_a_row(live, bob, fake, chat):
    fake(lambda reader, writer: None).close()
    chat(bob)
    (row,) = rows_of(bob)
    assert (row.status, row.error, row.prompt_tokens) == (503, "upstream_unavailable", 0)


def test_a_tokens_metric_counts_the_same(live, bob, post, http):
    def counted(kind):
        name = f'api_tokens_total{{kind="{kind}",model="smollm2-135m",tier="enterprise"}}'
        lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(name)]
        return float(lines[0].split()[-1]) if lines else 0.0

    before = counted("prompt"), counted("completion")
    usage = post("completions", bob, prompt="The sky is", max_tokens=3).json()["usage"]
    assert counted("prompt") - before[0] == usage["prompt_tokens"]
    assert counted("completion") - before[1] == 3
    assert 'api_time_to_first_token_seconds_count{model="smollm2-135m",tier="enterprise"}' in http.get("/metrics").text


LOST = {"error": "lost", "status": 500, "completion_tokens": 512, "is_estimated": True}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", [("lost", "real"), ("real", "lost"), ("lost", "lost", "real", "lost")])
def test_a_call_taken_for_lost_has_its_own_row_in_the_end(together, order):
    real = row(completion_tokens=7)
    rows = [real if kind == "real" else {**real, **LOST} for kind in order]
    for batch in [rows] if together else [[each] for each in rows]:
        write(batch, {})
    kept = UsageRecord.objects.get(request_id=real["request_id"])
    assert (kept.error, kept.status, kept.completion_tokens, kept.is_estimated) == ("", 200, 7, False)


def test_the_row_of_a_lost_call_says_what_was_reserved():
    caller = Caller(7, "grace", 1, is_active=True, tokens_valid_from=0.0, is_revoked=False, api_key_id=3)
    call = Record(f"{OURS}{next(numbers)}", caller, "free", "chat-completions", "m", streamed=True, began=0.0)
    lost = Lost(lease_of(call.facts | {"prompt": 150}), 1_800_000_000.25, 662)
    write([lost_row(lost)], {})
    kept = UsageRecord.objects.get(request_id=call.request_id)
    assert (kept.error, kept.prompt_tokens, kept.completion_tokens, kept.is_estimated) == ("lost", 150, 512, True)
    assert (kept.user_id, kept.api_key_id, kept.tier, kept.streamed) == (7, 3, "free", True)
    assert kept.admitted_at.timestamp() == 1_800_000_000.25


def test_the_lease_of_something_without_a_row_has_none():
    assert lost_row(Lost("0123456789", 1.0, 0)) is None
