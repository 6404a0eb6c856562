"""What the ledger says was used, by day and month, requests and tokens, of one model or all."""

import asyncio
import random
import threading
from datetime import UTC, date, datetime, timedelta

import pytest
from django.db.models import F, Q, Sum

from accounts.errors import StoreUnavailable
from proxy import admission, history
from proxy.admission import Admission
from proxy.history import History, Question, Span, parts_of, pieces_of, used
from proxy.models import DailyUsage, UsageRecord
from proxy.rollup import begin_of, exact_until, roll_up, whole_from
from proxy.stores import AccountId, Claim, Meter
from proxy.stores.memory import MemoryStore
from proxy.windows import WINDOWS
from tests.effort import effort
from tests.proxy.rows import usage_row
from tests.servers import wait_until_async

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
numbers = iter(range(10**6))


@pytest.fixture(autouse=True)
def nothing_added_up(db):
    """A gateway that serves other tests may have added up days of theirs."""
    DailyUsage.objects.all().delete()
    UsageRecord.objects.all().delete()


def meter(metric="requests", window="day", model=""):
    return Meter(f"{metric}:{window}:{model}", WINDOWS[window], 10, metric, model)


def call(before, tokens=10, user=1, model="m"):
    UsageRecord.objects.create(
        request_id=f"req-{next(numbers)}",
        admitted_at=NOW - before,
        user_id=user,
        tier="t",
        endpoint="chat-completions",
        model=model,
        status=200,
        prompt_tokens=tokens - 3,
        cached_tokens=2,
        completion_tokens=3,
        is_estimated=False,
        total_ms=1,
        streamed=False,
    )


@pytest.fixture
def calls():
    call(timedelta(hours=1))
    call(timedelta(hours=11, minutes=59), tokens=20, model="other")
    call(timedelta(hours=13), tokens=100)  # yesterday
    call(timedelta(days=30), tokens=1000)  # last month
    call(timedelta(hours=1), tokens=5000, user=2)


def sums(*meters, user=1, now=NOW, end=None, reset_at=None):
    question = Question(
        AccountId(user, reset_at and reset_at.timestamp()), meters, now.timestamp(), end and end.timestamp()
    )
    return list(used([question])[question].values())


def test_a_day_and_a_month_hold_what_was_admitted_in_them(calls):
    assert sums(meter(), meter(window="month")) == [2, 3]


def test_tokens_are_those_of_prompt_and_answer(calls):
    assert sums(meter("tokens"), meter("tokens", "month")) == [30, 130]


def test_a_meter_of_one_model_holds_only_that(calls):
    assert sums(meter("tokens", model="m"), meter("requests", "month", "other"), meter(model="none")) == [10, 1, 0]


def test_what_was_admitted_since_a_moment_can_be_left_out(calls):
    assert sums(meter(), end=NOW - timedelta(hours=2)) == [1]


def test_what_was_used_before_a_reset_counts_no_more(calls):
    reset_at = NOW - timedelta(hours=6)
    assert sums(meter(), meter("tokens", "month"), reset_at=reset_at) == [1, 10]
    assert sums(meter(), meter(window="month"), reset_at=NOW - timedelta(days=300)) == [2, 3]


def test_an_empty_ledger_says_nothing_was_used():
    assert sums(meter(), meter("tokens", "month")) == [0, 0]


def test_on_the_first_day_of_a_month_the_two_are_one():
    first = datetime(2026, 11, 1, 12, tzinfo=UTC)
    call(NOW - first)
    assert sums(meter(), meter(window="month"), now=first) == [1, 1]


def test_accounts_that_were_reset_are_asked_of_in_smaller_batches():
    history = History()
    for number in range(30):
        history._waiting[Question(AccountId(number, float(NOW.timestamp() - number)), (meter(),), NOW.timestamp())] = (
            None
        )
    assert len(history._next_batch()) == 20
    assert len(history._next_batch()) == 10


def test_many_accounts_are_one_query_for_each_stretch_of_time(calls, django_assert_num_queries):
    questions = [
        Question(AccountId(1), (meter("tokens"), meter(window="month")), NOW.timestamp()),
        Question(AccountId(2), (meter("tokens", "month", "m"),), NOW.timestamp()),
        Question(AccountId(3), (meter(),), NOW.timestamp()),
    ]
    with django_assert_num_queries(2):  # the month before today, and today
        answers = used(questions)
    assert [list(answers[question].values()) for question in questions] == [[30, 3], [5000], [0]]


# -- whole days from their sums ------------------------------------------------------------------------------------


def plain(question, meter):
    """What a quota counts, read row by row."""
    span = question.spans[meter]
    rows = UsageRecord.objects.filter(user_id=question.account.user_id, admitted_at__gte=history.moment(span.begin))
    if question.end is not None:
        rows = rows.filter(admitted_at__lt=history.moment(question.end))
    rows = rows.filter(Q(model=meter.model) if meter.model else Q())
    if meter.metric == "requests":
        return rows.filter(is_free=False).count()
    return rows.aggregate(sum=Sum(F("prompt_tokens") + F("completion_tokens"), default=0))["sum"]


def some_moment(choose, now):
    """Of this month or the end of the last one; often at midnight, or next to it."""
    begin = begin_of(now.date().replace(day=1)) - timedelta(days=1)
    at = begin + (now - begin) * choose.random()
    if choose.random() < 0.4:
        at = begin_of(at.date()) + timedelta(microseconds=choose.choice([-1, 0, 1]))
    return at


def roll_up_some(choose, now):
    """Add up days in order, the last of them at a time when not all of them was in, or by an earlier version."""
    day = begin_of(now.date().replace(day=1)).date() - timedelta(days=1)
    last = day + timedelta(days=choose.randrange((now.date() - day).days + 1))
    while day < last:
        roll_up(day)
        day += timedelta(days=1)
    whole = DailyUsage.objects.filter(day__lt=last - timedelta(days=choose.randrange(3)))
    whole.update(rolled_up_at=whole_from(last))
    DailyUsage.objects.exclude(pk__in=whole.values("pk")).update(rolled_up_at=begin_of(last))
    if choose.random() < 0.2:
        DailyUsage.objects.filter(day=last - timedelta(days=2)).update(free_calls=None)


@pytest.mark.parametrize("seed", range(effort(50)))
def test_sums_are_those_of_the_rows_whatever_was_added_up(seed):
    choose = random.Random(seed)
    now = datetime(2026, choose.choice([10, 11]), choose.choice([1, 2, 3, 28, 30]), 23, 59, tzinfo=UTC)
    for _ in range(60):
        at, model, tier = some_moment(choose, now), choose.choice("mno"), choose.choice(["free", "premium"])
        tokens = {"prompt_tokens": choose.randrange(50), "completion_tokens": choose.randrange(50)}
        usage_row(at, user_id=choose.randrange(1, 4), model=model, tier=tier, is_free=choose.random() < 0.3, **tokens)
    roll_up_some(choose, now)
    meters = [meter(*each) for each in [("requests",), ("tokens", "month"), ("requests", "month", "m")]]
    meters += [meter("tokens", "month", "n"), meter("requests", "month")]
    questions = []
    for user in range(1, 5):
        reset_at = some_moment(choose, now).timestamp() if choose.random() < 0.5 else None
        end = some_moment(choose, now).timestamp() if choose.random() < 0.3 else None
        some = tuple(choose.sample(meters, choose.randrange(1, len(meters))))
        questions.append(Question(AccountId(user, reset_at), some, now.timestamp(), end))
    until = exact_until(now.date().replace(day=1), now.date())
    for whole_days_until in (until, date.min):
        answers = used(questions, whole_days_until)
        told = {(question, each): answers[question][each] for question in questions for each in question.meters}
        assert told == {(question, each): plain(question, each) for question, each in told}


def test_days_are_read_from_their_sums_once_all_of_them_is_in():
    """Rows that are not there any more tell which days were read from sums."""
    for days in (20, 10, 2, 1, 0):
        usage_row(NOW - timedelta(days=days), is_free=days == 10)
    for days in (20, 10, 2, 1):
        roll_up((NOW - timedelta(days=days)).date())
    DailyUsage.objects.filter(day=NOW.date() - timedelta(days=1)).update(rolled_up_at=NOW)
    until = exact_until(NOW.date().replace(day=1), NOW.date())
    assert until == NOW.date() - timedelta(days=1)
    UsageRecord.objects.filter(admitted_at__lt=begin_of(until)).delete()
    question = Question(AccountId(1), (meter("tokens", "month"), meter(window="month")), NOW.timestamp())
    assert list(used([question], until)[question].values()) == [50, 4]


def test_sums_without_free_calls_are_not_used_and_are_made_anew():
    usage_row(NOW - timedelta(days=20), is_free=True)
    usage_row(NOW - timedelta(days=10))
    for days in (20, 10):
        roll_up((NOW - timedelta(days=days)).date())
    DailyUsage.objects.update(free_calls=None)  # as an earlier version writes them
    first = NOW.date().replace(day=1)
    assert exact_until(first, NOW.date()) == first
    for days in (20, 10):
        assert roll_up((NOW - timedelta(days=days)).date()) == 1
    assert exact_until(first, NOW.date()) == NOW.date() - timedelta(days=9)


def test_a_day_without_calls_is_whole_if_a_later_one_is():
    usage_row(NOW - timedelta(days=10))
    roll_up((NOW - timedelta(days=10)).date())
    first = NOW.date().replace(day=1)
    assert exact_until(first, NOW.date()) == NOW.date() - timedelta(days=9)


@pytest.mark.parametrize(
    ("span", "limit", "days", "rest"),
    [
        (Span(0), 864_000, [Span(0, 864_000)], [Span(864_000)]),
        (Span(0), -1, [], [Span(0)]),
        (Span(1), 864_000, [Span(86_400, 864_000)], [Span(1, 86_400), Span(864_000)]),
        (Span(0, 100_000), 864_000, [Span(0, 86_400)], [Span(86_400, 100_000)]),
        (Span(0, 86_400), 864_000, [Span(0, 86_400)], []),
        (Span(1, 86_400), 864_000, [], [Span(1, 86_400)]),
        (Span(5, 3), 864_000, [], []),
    ],
)
def test_a_span_is_its_whole_days_and_the_rest(span, limit, days, rest):
    assert parts_of(span, limit) == (days, rest)


def test_pieces_do_not_overlap():
    assert list(pieces_of([Span(0, 5), Span(3, 9), Span(20, 30)])) == [
        Span(0, 3), Span(3, 5), Span(5, 9), Span(20, 30)
    ]  # fmt: skip


# -- a ledger that takes its time ----------------------------------------------------------------------------------


def test_what_is_read_too_late_is_learned_all_the_same(monkeypatch):
    """The call gets 503 and is not charged, and the next one is answered at once, without another reading."""
    go, readings = threading.Event(), []
    monkeypatch.setattr(admission, "PATIENCE", 0.05)

    def slow(questions, until):
        readings.append(questions)
        go.wait(30)
        return {question: dict.fromkeys(question.meters, 7) for question in questions}

    monkeypatch.setattr(history, "used", slow)
    monkeypatch.setattr(history, "exact_until", lambda since, today: since)

    async def run():
        own = History()
        gate = Admission(MemoryStore(), own, lambda lost: None)
        meters = (meter(window="month"),)

        def call(lease):
            return gate.admit(Claim("user:1", meters, None, lease), AccountId(1), lambda: meters)

        with pytest.raises(StoreUnavailable):
            await call("too early")
        go.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*gate._teaching.values())
        verdict = await call("in time")
        assert (verdict.admitted, verdict.readings[0].used) == (True, 8)
        assert len(readings) == 1
        own.stop()

    asyncio.run(run())


def test_a_stop_waits_for_no_reading(monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(history, "used", lambda questions, until: go.wait(30))
    monkeypatch.setattr(history, "exact_until", lambda since, today: since)

    async def run():
        own = History()
        asked = asyncio.create_task(own.used(AccountId(1), (meter(),), NOW.timestamp()))
        await wait_until_async(lambda: own._being_read, "it is read")
        own.stop()
        with pytest.raises(StoreUnavailable):
            await asked
        go.set()

    asyncio.run(run())
