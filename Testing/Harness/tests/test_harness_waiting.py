"""Waiting handles events, tells what did not come, and measures when events had to wait."""

import time

import pytest
import qt
from Harness import gui_gap, run_events, wait_until


def test_what_comes_is_waited_for(app) -> None:
    got = []
    qt.QTimer.singleShot(30, lambda: got.append(1))
    wait_until(lambda: got, 5, "the timer")
    assert got == [1]


def test_what_does_not_come_is_named(app) -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.05 s in vain for: the result"):
        wait_until(lambda: False, 0.05, "the result")


def test_what_is_there_is_not_waited_for(app) -> None:
    start = time.monotonic()
    wait_until(lambda: True, 10)
    assert time.monotonic() - start < 1


def test_an_error_of_the_condition_is_the_tests(app) -> None:
    with pytest.raises(KeyError, match="broken"):
        wait_until(lambda: {}["broken"], 5)


def test_waiting_leaves_the_processor_alone(app) -> None:
    start = time.process_time()
    with pytest.raises(AssertionError):
        wait_until(lambda: False, 0.5)
    assert time.process_time() - start < 0.3


def test_a_gap_is_the_time_in_which_nothing_was_handled(app) -> None:
    with gui_gap() as gap:
        run_events(0.1)
        time.sleep(0.3)
    assert gap.longest_s >= 0.3
    with gui_gap() as gap:
        run_events(0.2)
    assert 0 < gap.longest_s < 0.2
