"""When an upstream is left alone, and when it is tried again."""

import pytest

from proxy.circuit import FAILURES, FIRST_PAUSE, Circuit, State

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
