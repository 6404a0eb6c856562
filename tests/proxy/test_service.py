"""How long who waits for a slot will have to."""

import pytest

from proxy.service import Service

pytestmark = pytest.mark.once


def served(*seconds):
    service = Service()
    for each in seconds:
        service.begin(0)
        service.end(0, each)
    return service


def test_nothing_is_known_before_a_call_has_begun():
    assert Service().wait(100, 1, now=5) == 0


def test_who_is_next_waits_for_one_slot_of_several():
    assert served(4.0).wait(ahead=0, slots=4, now=9) == 1.0


def test_each_one_ahead_takes_a_turn():
    assert served(2.0).wait(ahead=9, slots=2, now=9) == 10.0


def test_calls_that_run_for_longer_than_those_before_count():
    service = served(1.0)
    service.begin(10)
    assert service.wait(ahead=0, slots=1, now=40) == 30.0


def test_the_mean_follows_what_ends():
    assert served(*[1.0] * 5, *[3.0] * 100).seconds(0) == pytest.approx(3, abs=0.01)
