"""Every line is a request, a word on one, a shutdown, or refused with a code and the right id."""

import json

import pytest
from SpatialARAnomalyLib.service.jobs import JOBS
from SpatialARAnomalyLib.service.worker.protocol import (
    Cancel,
    Continue,
    End,
    Pause,
    Request,
    RequestError,
    read_message,
)
from SpatialARAnomalyLib.service.worker.queue import RequestQueue

REQUEST = {"protocol": 1, "id": 7, "job": "find", "inputs": {"a": 1}, "spec": {}, "output": "/x"}


def line(**changed) -> bytes:
    said = {key: value for key, value in (REQUEST | changed).items() if value is not ...}
    return json.dumps(said).encode()


def test_what_can_be_said():
    assert read_message(line()) == Request(id=7, job="find", inputs={"a": 1}, output="/x")
    assert read_message(line(inputs=..., spec=...)) == Request(id=7, job="find", output="/x")
    assert read_message(line(job="probe", output=...)) == Request(
        id=7, job="probe", inputs={"a": 1}
    )
    assert read_message(b'{"cancel": 7}\r') == Cancel(7)
    assert read_message(b'{"pause": 7}') == Pause(7)
    assert read_message(b'{"continue": 7}') == Continue(7)
    assert read_message(b'{"shutdown": true}') == End()
    for job in JOBS:
        assert read_message(line(job=job)).job == job


@pytest.mark.parametrize(
    ("said", "code", "id_"),
    [
        (b"garbage", "request-unreadable", None),
        (b"\xff\xfe", "request-unreadable", None),
        (b"[" * 100_000, "request-unreadable", None),
        (b"[1]", "request-unreadable", None),
        (b"null", "request-unreadable", None),
        (b"{}", "request-unreadable", None),
        (b'{"shutdown": false}', "request-unreadable", None),
        (b'{"cancel": "7"}', "request-unreadable", None),
        (b'{"cancel": true}', "request-unreadable", None),
        (b'{"pause": 7, "continue": 7}', "request-unreadable", None),
        (b'{"continue": null}', "request-unreadable", None),
        (line(id=...), "request-unreadable", None),
        (line(id="7"), "request-unreadable", None),
        (line(id=True), "request-unreadable", None),
        (line(protocol=2), "protocol-unknown", 7),
        (line(protocol=2, more=1, job="new"), "protocol-unknown", 7),
        (line(protocol=...), "protocol-unknown", 7),
        (line(protocol=True), "protocol-unknown", 7),
        (line(protocol=1.0), "protocol-unknown", 7),
        (line(job="delete"), "job-unknown", 7),
        (line(job=["find"]), "job-unknown", 7),
        (line(job=...), "job-unknown", 7),
        (line(more=1), "request-unreadable", 7),
        (line(inputs=[]), "request-unreadable", 7),
        (line(spec=None), "request-unreadable", 7),
        (line(output=...), "request-unreadable", 7),
        (line(output=""), "request-unreadable", 7),
        (line(output=5), "request-unreadable", 7),
        (line(output="a\0b"), "request-unreadable", 7),
    ],
)
def test_what_cannot_be_read_is_refused(said, code, id_):
    with pytest.raises(RequestError) as caught:
        read_message(said)
    assert (caught.value.code, caught.value.id) == (code, id_)


def test_refusals_name_what_is_known():
    with pytest.raises(RequestError, match="it has protocol, id, job, inputs, spec, output"):
        read_message(line(more=1))
    with pytest.raises(RequestError, match=r"one of detect, detect_scan, .*find, export, evaluate"):
        read_message(line(job="delete"))


def request(number: int) -> Request:
    return Request(id=number, job="probe")


def test_requests_come_in_order_and_ids_are_of_one_at_a_time():
    queue = RequestQueue()
    assert queue.put(request(1))
    assert queue.put(request(2))
    assert not queue.put(request(2))
    assert queue.next().id == 1
    assert not queue.put(request(1))
    queue.done()
    assert queue.put(request(1))
    assert [queue.next().id, queue.next().id] == [2, 1]


def test_a_cancel_meets_the_one_it_names():
    queue = RequestQueue()
    for number in (1, 2, 3):
        queue.put(request(number))
    assert queue.next().id == 1
    assert queue.cancel(2).id == 2
    assert not queue.cancelled()
    assert queue.cancel(1) is None
    assert queue.cancelled()
    queue.done()
    assert not queue.cancelled()
    assert queue.cancel(1) is None
    assert queue.next().id == 3
    assert not queue.cancelled()


def test_a_closed_queue_gives_nothing_and_stops_what_runs():
    queue = RequestQueue()
    queue.put(request(1))
    queue.next()
    queue.put(request(2))
    queue.close()
    assert queue.cancelled()
    assert queue.next() is None
    assert [one.id for one in queue.clear()] == [2]
    assert queue.clear() == []
    assert not queue.put(request(3))
