"""The worker's process: one last event per request, and an end whatever happens."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from service.worker_process import (
    BOOT,
    LIBRARY_FOLDER,
    ODD_JOBS,
    WAIT_S,
    WorkerProcess,
    group_members,
    wait_until_gone,
    without,
)
from SpatialARAnomalyLib import __version__


@pytest.fixture
def worker(tmp_path):
    with WorkerProcess(tmp_path / "desk", ODD_JOBS) as process:
        yield process
        left = process.close()
        assert [event["event"] for event in left if event["event"] != "cancelled"] == []


def begin(worker: WorkerProcess, job: str) -> int:
    """Submit an odd job and wait until it runs."""
    number = worker.submit("sample", spec={"do": job}, output="/nowhere")
    event = worker.event()
    assert (event["id"], event["event"], event["code"]) == (number, "notice", "begun")
    return number


def odd(worker: WorkerProcess, job: str, **inputs: str) -> dict:
    """Do an odd job; its last event."""
    return worker.ask("sample", inputs, {"do": job}, "/nowhere")


# What it says


def test_hello_comes_first_and_at_once_and_needs_no_package(tmp_path):
    packages = ("torch", "transformers", "jaxtyping", "typer", "safetensors", "nibabel", "scipy")
    worker = WorkerProcess(tmp_path, without(*packages, "numpy", "SimpleITK", "slicerio"))
    hello = worker.event()
    assert hello == {
        "event": "hello",
        "protocol": 1,
        "engine": __version__,
        "pid": worker.process.pid,
        "device": "auto",
    }
    assert worker.close() == []
    assert (worker.process.returncode, worker.log) == (0, "")


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "SpatialARAnomalyLib.service.worker.main"]
    environment = os.environ | {"PYTHONPATH": str(LIBRARY_FOLDER)}
    done = subprocess.run(
        command, input=b"", capture_output=True, env=environment, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["event"] == "hello"


@pytest.mark.parametrize("locale", ["C", "tr_TR.ISO-8859-9"])
def test_stray_output_is_the_log_and_events_stay_whole(tmp_path, locale):
    folder = tmp_path / "ein Ordner für 脳 scans"
    with WorkerProcess(folder, ODD_JOBS, LC_ALL=locale, PYTHONIOENCODING="ascii") as worker:
        number = worker.submit("sample", spec={"do": "stray"}, output="/nowhere")
        one, two, last = worker.events_of(number)
        assert (one["text"], two["text"]) == ("Größe 脳", "\ud800")
        assert last["stdin"] == ""
        assert not any(last["inheritable"])
        assert worker.close() == []
        for said in ("from Python", "from C", "from the first stdout", "from a child"):
            assert said in worker.log_file.read_bytes().decode("utf-8", "replace")
        assert all(line.startswith(b"{") for line in worker.lines)


def test_garbage_is_refused_line_by_line_and_the_worker_goes_on(worker):
    for garbage in (b"garbage", b'{"id": 5}', b'{"protocol": 1, "id": 9, "job": "x"}', b"\xff"):
        worker.say(garbage)
    found = [worker.event() for _ in range(4)]
    assert [(event["event"], event["id"], event["code"]) for event in found] == [
        ("failed", None, "request-unreadable"),
        ("failed", 5, "protocol-unknown"),
        ("failed", 9, "job-unknown"),
        ("failed", None, "request-unreadable"),
    ]
    worker.say(b"\n   \n")
    worker.process.stdin.write(b'{"protocol": 1, "id": 77, "job": "pro')
    worker.process.stdin.flush()
    time.sleep(0.1)
    worker.say(b'be", "spec": {"do": "echo", "said": 5}}')
    assert worker.events_of(77)[-1]["said"] == 5


def test_a_long_line_is_read_whole(worker):
    said = ["Größe"] * 300_000
    answer = worker.ask("sample", spec={"do": "echo", "said": said}, output="/nowhere")
    assert answer["said"] == said


@pytest.mark.parametrize(
    ("job", "code", "words"),
    [
        ("memory", "out-of-memory", "too little free memory"),
        ("torch_memory", "out-of-memory", "too little free memory"),
        ("bug", "internal", "Internal error (KeyError)."),
        ("no_json", "internal", "Internal error (ValueError)."),
        ("without_torch", "package-missing", "'torch'"),
        ("other_package", "package-missing", "'a_package_that_is_not_there'"),
    ],
)
def test_every_failure_has_its_code_and_the_worker_goes_on(worker, job, code, words):
    failed = odd(worker, job, voxels="/x")
    assert (failed["event"], failed["code"]) == ("failed", code)
    assert words in failed["text"]
    assert failed["facts"] == {}
    assert odd(worker, "echo")["event"] == "result"


@pytest.mark.parametrize("job", ["bug", "nested_bug"])
def test_an_internal_error_is_in_the_log_without_the_place_of_the_scan(worker, job):
    place = "/archive/Müller, Anna 1950/t1 gadolinium.npy"
    assert odd(worker, job, voxels=place)["code"] == "internal"
    worker.close()
    assert "odd_jobs.py" in worker.log
    assert "KeyError" in worker.log
    for word in ("ller", "Anna", "archive", "gadolinium"):
        assert word not in worker.log
        assert word.encode() not in b"".join(worker.lines)


# How jobs are cancelled


def test_running_and_waiting_jobs_are_cancelled_and_others_are_not(worker):
    running = begin(worker, "wait")
    waiting = worker.submit("sample", spec={"do": "echo"}, output="/nowhere")
    after = worker.submit("sample", spec={"do": "echo", "said": "kept"}, output="/nowhere")
    worker.say({"cancel": waiting})
    assert worker.event() == {"id": waiting, "event": "cancelled"}
    worker.say({"cancel": 4711})
    worker.say({"cancel": running})
    assert worker.event() == {"id": running, "event": "cancelled"}
    assert worker.events_of(after)[-1]["said"] == "kept"
    worker.say({"cancel": after})
    assert odd(worker, "echo")["event"] == "result"


def test_an_id_in_use_is_refused_without_harm_to_its_owner(worker):
    running = begin(worker, "wait")
    worker.say({"protocol": 1, "id": running, "job": "probe"})
    refused = worker.event()
    assert (refused["event"], refused["id"]) == ("failed", None)
    worker.say({"cancel": running})
    assert worker.event() == {"id": running, "event": "cancelled"}


@pytest.mark.parametrize("seed", range(3))
def test_every_request_has_exactly_one_last_event(worker, seed):
    generator = random.Random(seed)
    sent = []
    for _ in range(40):
        job = generator.choice(["wait", "echo", "bug"])
        sent.append(worker.submit("sample", {"voxels": "/x"}, {"do": job}, "/nowhere"))
        if generator.random() < 0.5:
            worker.say({"cancel": generator.choice(sent)})
        time.sleep(generator.choice([0, 0, 0.02]))
    for number in sent:
        worker.say({"cancel": number})
    worker.say({"shutdown": True})
    ends = [one["id"] for one in worker.rest() if one["event"] != "notice"]
    assert sorted(ends) == sent


# How jobs are paused


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have computed so far."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_paused_job_holds_and_goes_on(worker):
    running = begin(worker, "count")
    done = worker.event()["done"]
    worker.say({"pause": running})
    while (event := worker.event())["event"] == "progress":
        done = event["done"]
    assert event == {"id": running, "event": "paused"}
    worker.say({"pause": running})
    worker.say({"pause": 4711})
    if sys.platform == "linux":
        before = cpu_seconds(worker.process.pid)
        time.sleep(0.5)
        assert cpu_seconds(worker.process.pid) - before < 0.1
    worker.say({"continue": 4711})
    worker.say({"continue": running})
    assert worker.event() == {"id": running, "event": "continued"}
    assert worker.event()["done"] in (done, done + 1)
    worker.say({"cancel": running})
    assert worker.events_of(running)[-1]["event"] == "cancelled"


def test_a_paused_job_is_cancelled_at_once_and_its_id_is_free_again(worker):
    running = begin(worker, "wait")
    waiting = worker.submit("sample", spec={"do": "wait"}, output="/nowhere")
    worker.say({"pause": waiting})
    worker.say({"pause": running})
    assert worker.event() == {"id": running, "event": "paused"}
    worker.say({"cancel": running})
    assert worker.event() == {"id": running, "event": "cancelled"}
    # The other one holds at its first step.
    assert worker.event() == {"id": waiting, "event": "paused"}
    worker.say({"cancel": waiting})
    assert worker.event() == {"id": waiting, "event": "cancelled"}
    request = {"protocol": 1, "id": running, "job": "sample", "output": "/nowhere"}
    worker.say(request | {"spec": {"do": "echo", "said": "not paused"}})
    assert worker.events_of(running)[-1]["said"] == "not paused"


@pytest.mark.parametrize("how", ["end of input", "shutdown", "SIGTERM"])
def test_a_paused_worker_ends_as_any_other(worker, how):
    running = begin(worker, "with_child")
    worker.say({"pause": running})
    assert worker.event()["event"] == "paused"
    if how == "end of input":
        worker.process.stdin.close()
    elif how == "shutdown":
        worker.say({"shutdown": True})
    else:
        worker.process.terminate()
    assert worker.rest() == [{"id": running, "event": "cancelled"}]
    assert worker.process.wait(WAIT_S) == (128 + signal.SIGTERM if how == "SIGTERM" else 0)
    wait_until_gone(worker.process.pid)


# How it ends


def test_it_leads_a_group_of_its_own(worker):
    assert os.getpgid(worker.process.pid) == worker.process.pid != os.getpgid(0)


def test_a_shutdown_cancels_what_is_to_do_and_ends_in_peace(worker):
    running = begin(worker, "with_child")
    waiting = worker.submit("sample", spec={"do": "echo"}, output="/nowhere")
    worker.say({"shutdown": True})
    ends = worker.rest()
    assert sorted((one["id"], one["event"]) for one in ends) == [
        (running, "cancelled"),
        (waiting, "cancelled"),
    ]
    assert worker.process.wait(WAIT_S) == 0
    wait_until_gone(worker.process.pid)


@pytest.mark.parametrize("seed", range(6))
def test_end_of_input_at_any_moment_ends_it_and_its_children(tmp_path, seed):
    generator = random.Random(seed)
    worker = WorkerProcess(tmp_path, ODD_JOBS)
    time.sleep(generator.uniform(0, 0.3))
    for job in generator.choices(["with_child", "echo"], k=generator.randint(0, 3)):
        worker.submit("sample", spec={"do": job}, output="/nowhere")
    time.sleep(generator.uniform(0, 0.3))
    worker.close()
    assert worker.process.returncode == 0
    wait_until_gone(worker.process.pid)


def test_a_deaf_job_is_ended_with_its_children(worker):
    begin(worker, "stuck")
    assert len(group_members(worker.process.pid)) == 2
    worker.process.stdin.close()
    assert worker.process.wait(WAIT_S) == -signal.SIGKILL
    wait_until_gone(worker.process.pid)
    assert "did not stop in time" in worker.log


def test_sigterm_stops_a_job(worker):
    running = begin(worker, "with_child")
    worker.process.terminate()
    assert worker.rest() == [{"id": running, "event": "cancelled"}]
    assert worker.process.wait(WAIT_S) == 128 + signal.SIGTERM
    wait_until_gone(worker.process.pid)


def test_sigterm_ends_a_deaf_job_and_an_idle_worker(worker, tmp_path):
    begin(worker, "stuck")
    worker.process.terminate()
    assert worker.process.wait(WAIT_S) == -signal.SIGKILL
    wait_until_gone(worker.process.pid)
    with WorkerProcess(tmp_path / "idle", BOOT) as idle:
        idle.process.terminate()
        assert idle.process.wait(WAIT_S) == 128 + signal.SIGTERM


def test_a_broken_pipe_ends_it_quietly(tmp_path):
    read, write = os.pipe()
    with (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", ODD_JOBS, str(LIBRARY_FOLDER)],
            stdin=subprocess.PIPE,
            stdout=write,
            stderr=log,
        )
    os.close(write)
    assert b"hello" in os.read(read, 1000)
    os.close(read)
    said = {"protocol": 1, "id": 1, "job": "sample", "spec": {"do": "with_child"}, "output": "/x"}
    process.stdin.write(json.dumps(said).encode() + b"\n")
    process.stdin.flush()
    assert process.wait(WAIT_S) == 0
    process.stdin.close()
    wait_until_gone(process.pid)
    assert (tmp_path / "log.txt").read_bytes() == b""
