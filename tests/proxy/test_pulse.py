"""Whether this process stood still, and lines of the log that come in floods."""

import pytest

from proxy.floods import FIRST, WINDOW, Floods
from proxy.pulse import EVERY, GRACE, LATE, Pulse

pytestmark = pytest.mark.once


def test_a_pulse_that_beats_is_no_standstill():
    pulse = Pulse(0)
    for number in range(10):
        assert not pulse.has_just_stood_still(number * EVERY)
    assert not pulse.has_just_stood_still(9 * EVERY + EVERY + LATE)


def test_after_a_standstill_deadlines_say_nothing_for_a_while():
    pulse = Pulse(0)
    assert pulse.has_just_stood_still(20)
    pulse.beat(20.1)
    pulse.beat(20.6)
    assert pulse.has_just_stood_still(20 + GRACE - 0.1)
    pulse.beat(21.1)
    pulse.beat(21.6)
    assert not pulse.has_just_stood_still(20 + GRACE)


def test_the_first_lines_of_a_flood_are_written_and_the_others_counted():
    floods = Floods()
    written = [floods.lets_through(("gpu1", "answered 500"), now / 10) for now in range(100)]
    assert written == [True] * FIRST + [False] * (100 - FIRST)
    assert floods.lets_through(("gpu2", "answered 500"), 10)
    assert list(floods.over(WINDOW - 1)) == []
    assert list(floods.over(WINDOW)) == [(("gpu1", "answered 500"), 100 - FIRST)]
    assert floods.lets_through(("gpu1", "answered 500"), WINDOW)
    assert list(floods.over(3 * WINDOW)) == []
