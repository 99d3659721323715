"""Events are the documented JSON, and their time left is arithmetic."""

import dataclasses
import json
from typing import get_args

import pytest
from SpatialARAnomalyLib.engine.errors import Cancelled
from SpatialARAnomalyLib.engine.progress import EpochFigures, Reporter
from SpatialARAnomalyLib.service import events
from SpatialARAnomalyLib.service.events import (
    MIN_INTERVAL_S,
    CancelledEvent,
    ContinuedEvent,
    EpochEvent,
    EventReporter,
    FailedEvent,
    HelloEvent,
    NoticeEvent,
    PausedEvent,
    ProgressEvent,
    ResultEvent,
    StageEvent,
    to_json,
)

DOCUMENTED = [
    (
        HelloEvent(protocol=1, engine="0.1.0", pid=4711, device="cuda:0"),
        '{"event":"hello","protocol":1,"engine":"0.1.0","pid":4711,"device":"cuda:0"}',
    ),
    (
        StageEvent(name="embed", index=2, of=4),
        '{"event":"stage","name":"embed","index":2,"of":4}',
    ),
    (
        ProgressEvent(done=120, total=155, unit="slice", eta_s=3.1),
        '{"event":"progress","done":120,"total":155,"unit":"slice","eta_s":3.1}',
    ),
    (
        ProgressEvent(done=0, total=155, unit="slice", eta_s=None),
        '{"event":"progress","done":0,"total":155,"unit":"slice","eta_s":null}',
    ),
    (
        EpochEvent(epoch=3, train_mse=0.5, held_out_nll=1.25),
        '{"event":"epoch","epoch":3,"train_mse":0.5,"held_out_nll":1.25}',
    ),
    (
        NoticeEvent(code="device-fallback", text="…"),
        '{"event":"notice","code":"device-fallback","text":"\\u2026"}',
    ),
    (
        ResultEvent(result={"findings": [{"rank": 1}], "files": {}}),
        '{"event":"result","findings":[{"rank":1}],"files":{}}',
    ),
    (
        FailedEvent(code="input-missing", text="What", facts={"n": 2}, hint="Do"),
        '{"event":"failed","code":"input-missing","text":"What","facts":{"n":2},"hint":"Do"}',
    ),
    (
        FailedEvent(code="input-missing", text="What"),
        '{"event":"failed","code":"input-missing","text":"What","facts":{}}',
    ),
    (CancelledEvent(), '{"event":"cancelled"}'),
    (PausedEvent(), '{"event":"paused"}'),
    (ContinuedEvent(), '{"event":"continued"}'),
]


class Clock:
    """A clock that moves only when it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def emitted() -> list:
    return []


@pytest.fixture
def report(clock, emitted) -> EventReporter:
    return EventReporter(emitted.append, clock=clock)


def report_steps(report, clock, steps, total=100):
    """Report `done` units at each time."""
    begin = clock.now
    for seconds, done in steps:
        clock.now = begin + seconds
        report.progress(done, total, "slice")


@pytest.mark.parametrize(("event", "text"), DOCUMENTED, ids=lambda one: type(one).__name__)
def test_an_event_is_exactly_the_documented_json(event, text):
    assert json.dumps(to_json(event), separators=(",", ":")) == text
    numbered = json.dumps(to_json(event, job=7), separators=(",", ":"))
    assert numbered == '{"id":7,' + text.removeprefix("{")


@pytest.mark.parametrize(("event", "text"), DOCUMENTED, ids=lambda one: type(one).__name__)
def test_an_event_can_be_made_again_from_its_json(event, text):
    values = json.loads(text)
    name = values.pop("event")
    (kind,) = (one for one in get_args(events.Event) if one.wire_name == name)
    again = kind(result=values) if kind is ResultEvent else kind(**values)
    assert again == event


def test_every_event_is_documented():
    assert {type(event) for event, _ in DOCUMENTED} == set(get_args(events.Event))


def test_events_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CancelledEvent().extra = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        DOCUMENTED[0][0].pid = 1


def test_the_reporter_is_one_of_the_engine(report):
    checked: Reporter = report
    checked.check_cancelled()


def test_reports_become_events(report, emitted):
    figures = EpochFigures(epoch=1, train_mse=0.5, held_out_nll=1.5)
    report.stage("fit", 3, 4)
    report.epoch(figures)
    report.notice("code", "Text.")
    assert emitted == [
        StageEvent(name="fit", index=3, of=4),
        EpochEvent(epoch=1, train_mse=0.5, held_out_nll=1.5),
        NoticeEvent(code="code", text="Text."),
    ]


def test_time_left_is_that_of_the_speed_so_far(report, clock, emitted):
    report_steps(report, clock, [(0, 0), (10, 20), (20, 30), (30, 90)])
    # 20 in 10 s leave 80 for 40 s; 30 in 20 s leave 70 for 46.7 s; 90 in 30 s leave 10 for 3.3 s.
    assert [event.eta_s for event in emitted] == [None, 40.0, 46.7, 3.3]
    assert emitted[1] == ProgressEvent(done=20, total=100, unit="slice", eta_s=40.0)


def test_a_resumed_stage_counts_its_speed_from_where_it_began(report, clock, emitted):
    report_steps(report, clock, [(0, 80), (5, 90)])
    assert [event.eta_s for event in emitted] == [None, 5.0]


def test_every_stage_has_its_own_speed(report, clock, emitted):
    report.stage("embed", 1, 2)
    report_steps(report, clock, [(0, 0), (50, 10)])
    report.stage("fit", 2, 2)
    report_steps(report, clock, [(0, 0), (1, 10)])
    assert [event.eta_s for event in emitted if isinstance(event, ProgressEvent)] == [
        None,
        450.0,
        None,
        9.0,
    ]


def test_no_time_left_is_reported_before_anything_is_known(report, clock, emitted):
    report_steps(report, clock, [(0, 5), (1, 5), (2, 5)])
    assert [event.eta_s for event in emitted] == [None, None, None]


def test_a_finished_stage_has_no_time_left(report, clock, emitted):
    report_steps(report, clock, [(0, 100)])
    assert [event.eta_s for event in emitted] == [0.0]
    report.progress(0, 0, "file")
    assert emitted[-1].eta_s == 0.0


def test_progress_is_reported_at_most_so_often(report, clock, emitted):
    step = MIN_INTERVAL_S / 10
    report_steps(report, clock, [(index * step * 1.0001, index) for index in range(100)])
    assert [event.done for event in emitted] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]


def test_the_last_progress_is_always_reported(report, clock, emitted):
    report_steps(report, clock, [(0, 98), (0.001, 99), (0.002, 100)])
    assert [event.done for event in emitted] == [98, 100]


def test_the_first_progress_of_a_stage_is_always_reported(report, clock, emitted):
    report_steps(report, clock, [(0, 1), (0.001, 2)])
    report.stage("write", 2, 2)
    report_steps(report, clock, [(0.001, 3), (0.002, 4)])
    assert [event.done for event in emitted if isinstance(event, ProgressEvent)] == [1, 3]


def test_cancel_is_checked_every_time():
    answers = iter([False, False, True])
    report = EventReporter(lambda event: None, lambda: next(answers))
    report.check_cancelled()
    report.check_cancelled()
    with pytest.raises(Cancelled):
        report.check_cancelled()


class Button:
    """Pauses a job; `minutes` later its user goes on, or cancels."""

    def __init__(self, clock, minutes=10.0, cancels=False) -> None:
        self.clock, self.minutes, self.cancels = clock, minutes, cancels
        self.paused = self.cancelled = False

    def wait(self) -> None:
        self.clock.now += 60 * self.minutes
        self.paused, self.cancelled = False, self.cancels


def test_a_pause_is_reported_and_does_not_count(clock, emitted):
    button = Button(clock)
    report = EventReporter(
        emitted.append, paused=lambda: button.paused, wait_while_paused=button.wait, clock=clock
    )
    report.progress(0, 100, "batch")
    clock.now += 10
    report.progress(20, 100, "batch")
    button.paused = True
    report.check_cancelled()
    clock.now += 10
    report.progress(40, 100, "batch")
    summary = [event.eta_s if isinstance(event, ProgressEvent) else event for event in emitted]
    assert summary == [None, 40.0, PausedEvent(), ContinuedEvent(), 30.0]


def test_a_pause_before_the_first_progress_changes_nothing(clock, emitted):
    button = Button(clock)
    report = EventReporter(
        emitted.append, paused=lambda: button.paused, wait_while_paused=button.wait, clock=clock
    )
    report.stage("read", 1, 4)
    button.paused = True
    report.check_cancelled()
    report.check_cancelled()
    report_steps(report, clock, [(0, 0), (5, 50)])
    assert emitted[1:3] == [PausedEvent(), ContinuedEvent()]
    assert emitted[-1].eta_s == 5.0


def test_a_paused_job_can_be_cancelled(clock, emitted):
    button = Button(clock, cancels=True)
    report = EventReporter(
        emitted.append,
        cancelled=lambda: button.cancelled,
        paused=lambda: button.paused,
        wait_while_paused=button.wait,
        clock=clock,
    )
    button.paused = True
    with pytest.raises(Cancelled):
        report.check_cancelled()
    assert emitted == [PausedEvent()]
