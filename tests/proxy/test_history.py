"""What the ledger says was used, by day and month, requests and tokens, of one model or all."""

from datetime import UTC, datetime, timedelta

import pytest

from proxy.history import History, Question, used
from proxy.models import UsageRecord
from proxy.stores import AccountId, Meter
from proxy.windows import WINDOWS

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
numbers = iter(range(10**6))


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


def test_many_accounts_are_one_query(calls, django_assert_num_queries):
    questions = [
        Question(AccountId(1), (meter("tokens"), meter(window="month")), NOW.timestamp()),
        Question(AccountId(2), (meter("tokens", "month", "m"),), NOW.timestamp()),
        Question(AccountId(1), (meter(),), NOW.timestamp(), (NOW - timedelta(hours=2)).timestamp()),
        Question(AccountId(3), (meter(),), NOW.timestamp()),
    ]
    with django_assert_num_queries(1):
        answers = used(questions)
    assert [list(answers[question].values()) for question in questions] == [[30, 3], [5000], [1], [0]]
