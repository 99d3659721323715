"""The worker process: whatever it does, every job ends once, and the next can start."""

import os
import sys
from collections import Counter

import pytest
from Harness import run_events, slot_errors, wait_until
from slicerapp.fake_workers import fake_command

WAIT_S = 120.0
"""Limit of all waits: far more than a loaded machine needs."""


class Recorder:
    """Records the events of jobs."""

    def __init__(self):
        self.events, self.ends, self.log = [], [], []

    def submit(self, worker, job="any", **more):
        return worker.submit(job, onEvent=self.events.append, onEnd=self.ends.append, **more)

    @property
    def end(self):
        wait_until(lambda: self.ends, WAIT_S, "the end of a job")
        run_events(0.05)  # a second end would come now
        assert len(self.ends) == 1
        return self.ends[0]


@pytest.fixture
def started(app, tmp_path):
    """Start workers with a fake behavior, and end them after the test."""
    from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

    workers = []

    def start(behavior, **settings):
        recorder = Recorder()
        workers.append(
            WorkerProcess(recorder.log.append, command=fake_command(behavior, tmp_path), **settings)
        )
        return workers[-1], recorder

    yield start
    for worker in workers:
        worker.stop()


def exists(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_job_hears_its_events_and_its_result(started):
    worker, recorder = started("answers")
    recorder.submit(worker, inputs={"name": "čaj 茶"})
    assert recorder.end["echo"] == {"name": "čaj 茶"}
    assert [event["event"] for event in recorder.events] == ["stage"]
    assert worker.running
    assert not worker.busy


def test_jobs_hear_only_of_themselves(started):
    worker, _ = started("answers")
    recorder = [Recorder() for _ in range(5)]
    for number, one in enumerate(recorder):
        one.submit(worker, inputs={"number": number})
    assert [one.end["echo"]["number"] for one in recorder] == list(range(5))


def test_the_process_is_kept_for_the_next_job(started):
    worker, first = started("answers")
    first.submit(worker)
    assert first.end["event"] == "result"
    pid, second = worker.pid, Recorder()
    second.submit(worker)
    assert second.end["event"] == "result"
    assert worker.pid == pid


def test_a_renewed_worker_finishes_what_runs_and_begins_anew_for_the_next(started):
    worker, first = started("answers")
    first.submit(worker)
    worker.restartWhenIdle()
    assert first.end["event"] == "result"
    assert not worker.running
    second, third = Recorder(), Recorder()
    second.submit(worker)
    assert second.end["event"] == "result"
    pid = worker.pid
    worker.restartWhenIdle()
    third.submit(worker)
    assert third.end["event"] == "result"
    assert worker.pid != pid
    assert worker.running


@pytest.mark.parametrize(
    ("behavior", "code"),
    [
        ("garbage", "worker-garbage"),
        ("no event", "worker-garbage"),
        ("id that is none", "worker-garbage"),
        ("everybody's group", "protocol-unknown"),
        ("exits without result", "worker-died"),
        ("half a line", "worker-died"),
        ("exits with words", "worker-died"),
        ("killed", "worker-died"),
        ("other protocol", "protocol-unknown"),
    ],
)
def test_a_worker_that_misbehaves_fails_its_jobs_and_is_gone(behavior, code, started):
    worker, recorder = started(behavior)
    recorder.submit(worker)
    assert recorder.end["event"] == "failed"
    assert recorder.end["code"] == code
    assert recorder.end["text"]
    assert not worker.running
    assert not worker.busy


def test_a_crash_is_called_one_and_other_ends_are_not(started):
    for behavior, how in (("killed", "crashed"), ("exits without result", "without a result")):
        worker, recorder = started(behavior)
        recorder.submit(worker)
        assert how in recorder.end["text"]


def test_the_last_words_are_told_without_places(started):
    worker, recorder = started("exits with words")
    recorder.submit(worker)
    assert "CUDA exploded" in recorder.end["facts"]["logTail"]
    assert os.path.expanduser("~") not in recorder.end["facts"]["logTail"]
    assert any("CUDA exploded" in line for line in recorder.log)
    assert not any(os.path.expanduser("~") + "/" in line for line in recorder.log)


def test_a_place_is_known_also_where_it_comes_in_pieces(started):
    worker, recorder = started("words in pieces")
    recorder.submit(worker)
    assert "lost in <home>/ä" in recorder.end["facts"]["logTail"]
    assert not any(os.path.expanduser("~") + "/" in line for line in recorder.log)


def test_a_line_without_end_is_not_collected_for_ever(started, monkeypatch):
    from SpatialARAnomalyLib.slicerapp.worker import WorkerProcess

    monkeypatch.setattr(WorkerProcess, "MAX_LINE_BYTES", 1_000_000)
    worker, recorder = started("endless line")
    recorder.submit(worker)
    assert recorder.end["code"] == "worker-garbage"


@pytest.mark.parametrize("behavior", ["silent", "hangs in the job"])
def test_a_silent_worker_is_ended(behavior, started):
    worker, recorder = started(behavior, silenceS=0.5)
    recorder.submit(worker)
    assert recorder.end["code"] == "worker-silent"
    assert not worker.running


def heard_events(recorder, *names):
    wait_until(lambda: [event["event"] for event in recorder.events] == list(names), WAIT_S, names)


def test_a_paused_job_may_be_silent_and_a_resumed_one_not(started):
    worker, recorder = started("pauses")
    job = recorder.submit(worker)
    heard_events(recorder, "stage")
    worker.pause(job)
    heard_events(recorder, "stage", "paused")
    worker._silence.setInterval(300)
    waiting = Recorder()
    waiting.submit(worker)  # it waits, too, and may be silent
    run_events(1.0)
    assert worker.running
    assert not recorder.ends
    worker._silence.setInterval(int(WAIT_S * 1000))
    worker.resume(job)
    heard_events(recorder, "stage", "paused", "continued")
    worker._silence.setInterval(300)
    assert recorder.end["code"] == waiting.end["code"] == "worker-silent"


def test_a_paused_job_can_be_cancelled(started):
    worker, recorder = started("pauses")
    job = recorder.submit(worker)
    worker.pause(job)
    heard_events(recorder, "stage", "paused")
    worker.cancel(job)
    assert recorder.end == {"id": job, "event": "cancelled"}
    worker.pause(job)
    worker.resume(job)
    assert not worker.busy


def test_a_worker_that_ignores_a_cancel_is_ended_with_its_children(started):
    worker, recorder = started("ignores cancel", cancelGraceS=0.3)
    job = recorder.submit(worker)
    wait_until(lambda: recorder.events, WAIT_S, "the first event")
    child, pid = int(recorder.events[0]["name"]), worker.pid
    assert exists(child)
    worker.cancel(job)
    worker.cancel(job)
    assert recorder.end == {"event": "cancelled"}
    wait_until(lambda: not exists(child) and not exists(pid), WAIT_S, "the group to end")


def test_cancels_of_other_jobs_do_not_put_off_the_end(started):
    """As with a slider, every change cancels the job of the change before."""
    worker, recorder = started("ignores cancel", cancelGraceS=0.4)
    first = recorder.submit(worker)
    later = [Recorder() for _ in range(200)]
    jobs = iter([(one, one.submit(worker)) for one in later])
    worker.cancel(first)

    def cancel_another():
        _, job = next(jobs)
        worker.cancel(job)
        return recorder.ends

    wait_until(cancel_another, WAIT_S, "the end of the first")
    assert recorder.end == {"event": "cancelled"}
    assert all(len(one.ends) == 1 for one in later)


def test_children_of_a_worker_that_died_are_ended(started):
    worker, recorder = started("killed with a child")
    job = recorder.submit(worker)
    wait_until(lambda: recorder.events, WAIT_S, "the first event")
    child = int(recorder.events[0]["name"])
    assert exists(child)
    worker.cancel(job)
    assert recorder.end == {"event": "cancelled"}
    wait_until(lambda: not exists(child), WAIT_S, "the child to end")


def test_other_jobs_of_a_process_ended_for_one_have_failed(started):
    worker, first = started("ignores cancel", cancelGraceS=0.3)
    job, second = first.submit(worker), Recorder()
    second.submit(worker)
    worker.cancel(job)
    assert first.end == {"event": "cancelled"}
    assert second.end["code"] == "worker-ended"


def test_a_python_that_is_not_there_is_told(app, tmp_path):
    from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

    worker, recorder = WorkerProcess(command=(str(tmp_path / "no python"),)), Recorder()
    recorder.submit(worker)
    assert recorder.end["code"] == "worker-missing"
    assert not worker.running


def test_large_messages_arrive_whole(started):
    worker, recorder = started("many large lines")
    recorder.submit(worker)
    assert recorder.end["event"] == "result"
    assert [event["code"] for event in recorder.events] == [str(number) for number in range(300)]
    assert Counter(event["text"] for event in recorder.events) == {"ä" * 10_000: 300}


def test_stop_ends_every_job_and_the_process(started):
    worker, first = started("hangs in the job")
    second = Recorder()
    first.submit(worker)
    second.submit(worker)
    wait_until(lambda: worker.pid, WAIT_S, "hello")
    pid = worker.pid
    worker.stop()
    assert first.end == second.end == {"event": "cancelled"}
    assert not exists(pid)
    worker.stop()


def test_an_idle_worker_is_ended_and_the_next_job_starts_another(started):
    worker, first = started("answers", idleS=0.2)
    first.submit(worker)
    assert first.end["event"] == "result"
    pid = worker.pid
    wait_until(lambda: not worker.running, WAIT_S, "the idle worker to end")
    assert not exists(pid)
    second = Recorder()
    second.submit(worker)
    assert second.end["event"] == "result"


def test_who_hears_of_a_failure_can_begin_anew_at_once(started, tmp_path):
    worker, recorder = started("killed")

    def again(event):
        worker._command = fake_command("answers", tmp_path)
        recorder.submit(worker)

    worker.submit("any", onEnd=again)
    assert recorder.end["event"] == "result"


def test_what_an_ended_process_said_is_not_held_against_the_next(started, tmp_path):
    worker, recorder = started("garbage twice")
    ended = []

    def again(event):
        ended.append(event)
        worker._command = fake_command("answers", tmp_path)
        recorder.submit(worker)

    worker.submit("any", onEnd=again)
    assert recorder.end["event"] == "result"
    assert [event["code"] for event in ended] == ["worker-garbage"]


def test_a_receiver_that_raises_takes_nothing_from_the_others(started):
    def fail(event):
        raise ZeroDivisionError(event["event"])

    worker, recorder = started("hangs in the job")
    with slot_errors.expected_slot_errors() as errors:
        worker.submit("any", onEnd=fail)
        recorder.submit(worker)
        worker.stop()
        assert recorder.end == {"event": "cancelled"}
    assert [str(error) for error in errors] == ["cancelled"]
    worker, recorder = started("answers")
    with slot_errors.expected_slot_errors() as errors:
        worker.submit("any", onEvent=fail, onEnd=fail)
        recorder.submit(worker)
        assert recorder.end["event"] == "result"
    assert [str(error) for error in errors] == ["stage", "result"]
    assert not worker.busy


def test_a_request_that_cannot_be_said_is_no_job(started):
    worker, recorder = started("answers")
    with pytest.raises(ValueError, match="JSON"):
        recorder.submit(worker, inputs={"number": float("nan")})
    assert not worker.busy
    assert not recorder.ends
    recorder.submit(worker)
    assert recorder.end["event"] == "result"


def test_the_real_worker_ends_when_its_parents_end_closes(app):
    from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

    worker, recorder = WorkerProcess(), Recorder()
    recorder.submit(worker, "no such job")
    assert recorder.end["code"] == "job-unknown"
    pid = worker.pid
    assert pid != os.getpid()
    worker._process.closeWriteChannel()
    wait_until(lambda: not worker.running and not exists(pid), WAIT_S, "the worker to end")


def test_the_workers_python_is_slicers(app):
    from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import pythonSlicer

    assert os.path.basename(pythonSlicer()).startswith("PythonSlicer")
    assert pythonSlicer() != sys.executable or "PythonSlicer" in sys.executable
