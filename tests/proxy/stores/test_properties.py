"""Stores against a naive model that keeps every call and its moment: 1,000 random histories each."""

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy.stores import Claim, Meter
from proxy.windows import WINDOWS
from tests.effort import effort

from .conftest import START

pytestmark = pytest.mark.once
numbers = itertools.count(1)
CASES = settings(max_examples=effort(1000), deadline=None)

waits = st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 90), st.floats(0, 4000)).map(lambda s: round(s, 3))
calls = st.tuples(st.integers(0, 40), st.integers(0, 60)).map(lambda two: (two[0], two[0] + two[1]))
settled = st.one_of(st.none(), st.floats(0, 1))  # None: it goes on; else the part of its reservation that it used
steps = st.lists(st.tuples(waits, calls, settled), min_size=1, max_size=25)
quotas = st.lists(
    st.tuples(st.sampled_from(["requests", "tokens"]), st.sampled_from(["minute", "hour", "day"]), st.integers(1, 120)),
    min_size=1,
    max_size=4,
    unique_by=lambda quota: quota[:2],
)


class Model:
    """Every admitted call: when it was, and what it counts on a meter."""

    def __init__(self):
        self.calls = []  # [admitted_at, tokens]

    def used(self, meter, after, until=float("inf")):
        return sum(tokens if meter.counts_tokens else 1 for at, tokens in self.calls if after < at <= until)


def meters_of(quotas):
    return tuple(Meter(f"{m}:{w}:", WINDOWS[w], limit, m, "") for m, w, limit in quotas)


class History:
    """Calls of one new account, to a store and to the model."""

    def __init__(self, store, quotas):
        self.store = store
        self.account = f"user:{next(numbers)}"
        self.meters = meters_of(quotas)
        self.model = Model()
        store.now = START + next(numbers) % 7919 / 8
        days = {meter: 0 for meter in self.meters if meter.window.is_calendar}
        if days:
            store.learn(self.account, days)

    def call(self, least, most):
        return self.store.admit(Claim(self.account, self.meters, None, f"call-{next(numbers)}", least, most))

    def run(self, steps):
        """Play a history. Gives the steps' verdicts, and the model as it was just after each."""
        for wait, (least, most), part in steps:
            self.store.move(wait, holds=False)
            verdict = self.call(least, most)
            if verdict.grant:
                entry = [self.store.now, verdict.grant.tokens]
                self.model.calls.append(entry)
            yield least, verdict
            if verdict.grant and part is not None:
                entry[1] = int(verdict.grant.tokens * part)
                self.store.settle(verdict.grant, entry[1])


def length_of(meter):
    return getattr(meter.window, "seconds", None)


@CASES
@given(quotas=quotas, steps=steps)
def test_no_window_ever_holds_more_than_its_limit(driven, quotas, steps):
    history = History(driven, quotas)
    for _, verdict in history.run(steps):
        if verdict.grant:
            for meter in history.meters:
                begin = driven.now - length_of(meter) if length_of(meter) else START - START % 86400 - 1
                assert history.model.used(meter, begin) <= meter.limit


@CASES
@given(quotas=quotas, steps=steps)
def test_room_comes_back_at_most_one_bucket_late(driven, quotas, steps):
    history = History(driven, quotas)
    for least, verdict in history.run(steps):
        if verdict.refused_by and verdict.retry_after is not None:
            meter = verdict.refused_by
            late = length_of(meter) + meter.window.width if length_of(meter) else driven.now % 86400 + 1e-9
            asked = least if meter.counts_tokens else 1
            assert history.model.used(meter, driven.now - late) + asked > meter.limit


@CASES
@given(quotas=quotas, steps=steps)
def test_a_refused_call_fits_at_the_second_it_was_told_and_not_one_before(driven, quotas, steps):
    history = History(driven, quotas)
    unsettled = [(wait, call, None) for wait, call, _ in steps]
    for least, verdict in history.run(unsettled):
        if verdict.refused_by and verdict.retry_after is not None:
            driven.move(verdict.retry_after - 1, holds=False)
            assert verdict.retry_after == 1 or not history.call(least, least).admitted
            driven.move(1, holds=False)
            assert history.call(least, least).admitted
            return
    assume(False)  # only histories with a refusal count


@CASES
@given(quotas=quotas, steps=steps)
def test_a_call_that_will_never_fit_names_no_second(driven, quotas, steps):
    history = History(driven, quotas)
    for least, verdict in history.run(steps):
        never = [m for m in history.meters if (least if m.counts_tokens else 1) > m.limit]
        assert bool(never) == (verdict.refused_by is not None and verdict.retry_after is None)


@CASES
@given(quotas=quotas, steps=steps)
def test_memory_and_redis_decide_alike(both, quotas, steps):
    histories = [History(driven, quotas) for driven in both]
    for driven in both:
        driven.now = START
    for (_, here), (_, there) in zip(*(history.run(steps) for history in histories), strict=True):
        assert (here.admitted, here.retry_after, here.refused_by) == (
            there.admitted,
            there.retry_after,
            there.refused_by,
        )
        assert (here.grant and here.grant.tokens) == (there.grant and there.grant.tokens)
        for mine, its in zip(here.readings, there.readings, strict=True):
            assert mine.used == its.used
            assert mine.resets_in == pytest.approx(its.resets_in, abs=1e-5)
