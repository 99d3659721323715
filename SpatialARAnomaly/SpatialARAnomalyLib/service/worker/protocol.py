"""The messages that the worker reads, one JSON object per line.

{"protocol": 1, "id": 7, "job": "detect", "inputs": {…}, "spec": {…}, "output": "/folder"}
{"cancel": 7}
{"pause": 7}
{"continue": 7}
{"shutdown": true}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.service.events import PROTOCOL
from SpatialARAnomalyLib.service.jobs import JOBS

_KEYS = ("protocol", "id", "job", "inputs", "spec", "output")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Do a job."""

    id: int
    job: str
    inputs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    spec: Mapping[str, Any] = field(default_factory=dict)
    output: str | None = None


@dataclass(frozen=True)
class Cancel:
    """Stop the job with this id at its next step, or do not begin it."""

    id: int


@dataclass(frozen=True)
class Pause:
    """Hold the job with this id at its next step."""

    id: int


@dataclass(frozen=True)
class Continue:
    """Resume the paused job with this id."""

    id: int


@dataclass(frozen=True)
class End:
    """Cancel all jobs and end the worker."""


Message = Request | Cancel | Pause | Continue | End

_JOB_CONTROLS: dict[str, type[Cancel | Pause | Continue]] = {
    "cancel": Cancel,
    "pause": Pause,
    "continue": Continue,
}


class RequestError(SpatialARError):
    """A line is not a valid message; `id` is the request's, if it could be read."""

    def __init__(self, code: str, message: str, id_: int | None = None) -> None:
        super().__init__(code, message)
        self.id = id_


def read_message(line: bytes) -> Message:
    """Parse one line; raises `RequestError` if it is not a message of this protocol."""
    try:
        values = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise _unreadable("Every line must be a JSON object.")
    if set(values) == {"shutdown"} and values["shutdown"] is True:
        return End()
    for key, control in _JOB_CONTROLS.items():
        if set(values) == {key} and type(values[key]) is int:
            return control(values[key])
    return _read_request(values)


def _read_request(values: dict[str, Any]) -> Request:
    id_ = values.get("id")
    if type(id_) is not int:
        raise _unreadable("The id of a request must be a whole number.")
    # Checked first, because a newer protocol may have other keys and jobs.
    if values.get("protocol") != PROTOCOL or type(values["protocol"]) is not int:
        raise RequestError(
            "protocol-unknown",
            f"The protocol of a request must be {PROTOCOL}; found another.",
            id_,
        )
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise _unreadable(
            f"A request has no key {', '.join(unknown)}; it has {', '.join(_KEYS)}.", id_
        )
    name, output = values.get("job"), values.get("output")
    if not isinstance(name, str) or name not in JOBS:
        found = repr(name[:40]) if isinstance(name, str) else "none"
        raise RequestError(
            "job-unknown",
            f"The job must be one of {', '.join(JOBS)}; found {found}.",
            id_,
        )
    inputs, spec = values.get("inputs", {}), values.get("spec", {})
    if not isinstance(inputs, dict) or not isinstance(spec, dict):
        raise _unreadable("The inputs and the spec of a request must be JSON objects.", id_)
    needed = JOBS[name].writes_output or output is not None
    if needed and (not isinstance(output, str) or not output or "\0" in output):
        raise _unreadable(f"The output of a {name} must be a folder's path.", id_)
    return Request(id=id_, job=name, inputs=inputs, spec=spec, output=output)


def _unreadable(message: str, id_: int | None = None) -> RequestError:
    return RequestError("request-unreadable", message, id_)
