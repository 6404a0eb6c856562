"""When an upstream is left alone, and when it is tried again."""

import pytest

from proxy.circuit import (
    FAILURES,
    FIRST_EJECTION,
    FIRST_PAUSE,
    LONGEST_EJECTION,
    MEMORY,
    REFUSALS,
    Circuit,
    State,
)

pytestmark = pytest.mark.once


def opened(at=0.0):
    circuit = Circuit()
    for _ in range(FAILURES):
        circuit.failed(at, "cut")
    return circuit


def test_one_failure_may_be_a_calls_own_fault():
    circuit = Circuit()
    for _ in range(FAILURES - 1):
        circuit.failed(0, "cut")
    assert circuit.state is State.CLOSED


def test_failures_in_a_row_open_it():
    assert opened().state is State.OPEN
    assert opened().reason == "cut"


def test_a_call_that_ends_well_between_them_keeps_it_closed():
    circuit = Circuit()
    for _ in range(2 * FAILURES):
        circuit.failed(0, "cut")
        circuit.ended_well()
    assert circuit.state is State.CLOSED


def test_where_nobody_is_one_refusal_opens_it():
    circuit = Circuit()
    circuit.refused(0, "nobody is there")
    assert circuit.is_open
    circuit.found_well(0)
    assert circuit.state is State.HALF_OPEN


def test_one_that_failed_has_a_pause_and_each_time_a_longer_one():
    circuit = opened(0)
    for pause in (FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE):
        circuit.found_well(pause - 0.1)
        assert circuit.is_open
        circuit.found_well(pause)
        assert circuit.state is State.HALF_OPEN
        circuit.failed(0, "cut again")
    circuit.found_well(10**6)
    circuit.ended_well()
    assert opened().__dict__ == {**circuit.__dict__, **opened().__dict__}


def test_on_trial_an_answer_closes_it_and_a_failure_opens_it():
    circuit = opened(0)
    circuit.found_well(FIRST_PAUSE)
    circuit.answered()
    assert circuit.state is State.CLOSED


def test_what_calls_from_before_say_does_not_count():
    circuit = opened(0)
    circuit.failed(100, "late")
    circuit.ended_well()
    assert (circuit.state, circuit.reason) == (State.OPEN, "cut")


# -- calls that fail here while others answer them -----------------------------------------------------------------


def after(outcomes: str, every: float = 1.0) -> Circuit:
    """One that has had calls: + ended well, - failed."""
    circuit = Circuit()
    for number, outcome in enumerate(outcomes):
        if outcome == "+":
            circuit.ended_well()
        else:
            circuit.convicted(number * every, "answered 500")
    return circuit


@pytest.mark.parametrize(
    ("outcomes", "fails"),
    [
        ("--", False),
        ("---", True),
        ("-+-+-", True),
        ("---+++", False),
        ("---+++-", True),
        ("+" * 50 + "-----", False),
        ("+" * 50 + "------", True),
        ("-" * 50 + "+++++", False),
    ],
)
def test_one_fails_where_most_of_its_last_calls_did(outcomes, fails):
    assert after(outcomes).fails(len(outcomes)) is fails


def test_failures_of_long_ago_do_not_count():
    assert not after("---", every=MEMORY / 2).fails(MEMORY)


def ejected(at: float = 0.0) -> Circuit:
    circuit = Circuit()
    circuit.convicted(at, "answered 500")
    circuit.eject(at)
    return circuit


def test_one_that_is_out_of_turn_is_tried_again_soon():
    circuit = ejected(10)
    assert (circuit.state, circuit.is_ejected, circuit.reason) == (State.OPEN, True, "answered 500")
    circuit.found_well(10 + FIRST_EJECTION - 0.1)
    assert circuit.is_open
    assert circuit.tried_in(10 + FIRST_EJECTION - 0.25) == pytest.approx(0.25)
    circuit.found_well(10 + FIRST_EJECTION)
    assert circuit.state is State.HALF_OPEN
    circuit.answered()
    assert (circuit.state, circuit.is_ejected) == (State.CLOSED, False)


def test_each_trial_that_fails_has_a_longer_pause_up_to_a_limit():
    circuit, now, pauses = ejected(), 0.0, []
    for _ in range(5):
        pauses.append(circuit.tried_in(now))
        now += pauses[-1]
        circuit.found_well(now)
        circuit.doubted(now, "answered 500")
    assert pauses == [1, 2, 4, LONGEST_EJECTION, LONGEST_EJECTION]


def test_once_it_is_back_one_more_failure_is_enough():
    circuit = ejected()
    circuit.found_well(5)
    circuit.answered()
    assert not circuit.fails(5)
    circuit.convicted(5, "answered 500")
    assert circuit.fails(5)


def test_a_trial_with_a_call_that_fails_everywhere_is_repeated_at_once():
    circuit = ejected()
    circuit.found_well(1)
    circuit.doubted(1, "answered 500")
    assert circuit.tried_in(1) > 0
    circuit.acquitted()
    circuit.found_well(1)
    assert circuit.state is State.HALF_OPEN


def test_a_cut_on_trial_is_no_ejection():
    circuit = ejected()
    circuit.found_well(1)
    circuit.failed(1, "broke the connection")
    assert (circuit.is_open, circuit.is_ejected) == (True, False)


def test_refusals_are_compared_once_it_has_said_nothing_else():
    circuit = Circuit()
    for _ in range(REFUSALS):
        assert not circuit.is_refusing
        circuit.refused_call()
    assert circuit.is_refusing
    circuit.ended_well()
    assert not circuit.is_refusing


def test_what_calls_from_before_say_does_not_bring_it_back():
    circuit = ejected()
    circuit.convicted(1, "late")
    circuit.ended_well()
    assert (circuit.state, circuit.reason) == (State.OPEN, "answered 500")
