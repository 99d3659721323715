"""What may be said to the worker, one JSON object a line.

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

from ..engine.errors import SpatialARError
from .events import PROTOCOL

LIBRARY_JOBS = (
    "model_export",
    "model_import",
    "model_rename",
    "model_delete",
    "model_verify",
)
"""Those of the model library."""

ENCODER_JOBS = ("encoder_get", "encoder_check", "encoder_add", "encoder_remove")
"""Those of the library of encoders."""

KIT_JOBS = ("kit_verify", "kit_weights")
"""Those of offline kits."""

JOBS = (
    "detect",
    "find",
    "export",
    "evaluate",
    "sample",
    "demonstration_model",
    "survey",
    "train",
    "training_discard",
    "probe",
    *LIBRARY_JOBS,
    *ENCODER_JOBS,
    *KIT_JOBS,
)
"""What the worker can do."""

WITHOUT_OUTPUT = (
    "probe",
    "survey",
    "training_discard",
    "model_rename",
    "model_delete",
    "model_verify",
    *ENCODER_JOBS,
    *KIT_JOBS,
)
"""The jobs that write no files, or none elsewhere."""

TOKEN = "token"
"""The input that is a secret: nothing may repeat its value."""

_KEYS = ("protocol", "id", "job", "inputs", "spec", "output")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A job to do."""

    id: int
    job: str
    inputs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    spec: Mapping[str, Any] = field(default_factory=dict)
    output: str | None = None


@dataclass(frozen=True)
class Cancel:
    """A job to stop, or not to begin."""

    id: int


@dataclass(frozen=True)
class Pause:
    """A job to hold between two of its steps, or at its first."""

    id: int


@dataclass(frozen=True)
class Continue:
    """A paused job to go on."""

    id: int


@dataclass(frozen=True)
class Shutdown:
    """Stop what runs, and end."""


Said = Request | Cancel | Pause | Continue | Shutdown
"""What a line can say."""

_OF_A_JOB: dict[str, type[Cancel | Pause | Continue]] = {
    "cancel": Cancel,
    "pause": Pause,
    "continue": Continue,
}


class RequestError(SpatialARError):
    """A line that is none of these; `id` is the request's where that could be read."""

    def __init__(self, code: str, message: str, hint: str = "", id_: int | None = None) -> None:
        super().__init__(code, message, hint)
        self.id = id_


def read_line(line: bytes) -> Said:
    """What a line says; raises `RequestError` where it says nothing of the protocol."""
    try:
        said = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise _unreadable("A line must be a JSON object; this one is not.")
    if set(said) == {"shutdown"} and said["shutdown"] is True:
        return Shutdown()
    for key, about in _OF_A_JOB.items():
        if set(said) == {key} and type(said[key]) is int:
            return about(said[key])
    return _request(said)


def _request(said: dict[str, Any]) -> Request:
    id_ = said.get("id")
    if type(id_) is not int:
        raise _unreadable("A request must have a whole number as its id; this one has none.")
    # First: a newer protocol may have other keys and jobs.
    if said.get("protocol") != PROTOCOL or type(said["protocol"]) is not int:
        raise RequestError(
            "protocol-unknown",
            f"This worker speaks protocol {PROTOCOL}; the request has another.",
            "Restart the program after an update.",
            id_,
        )
    unknown = sorted(set(said) - set(_KEYS))
    if unknown:
        raise _unreadable(
            f"A request does not know {', '.join(unknown)}; it knows: {', '.join(_KEYS)}.", id_
        )
    job, output = said.get("job"), said.get("output")
    if job not in JOBS:
        found = repr(job[:40]) if isinstance(job, str) else "none"
        raise RequestError(
            "job-unknown",
            f"The job must be one of {', '.join(JOBS)}; found {found}.",
            "Restart the program after an update.",
            id_,
        )
    inputs, spec = said.get("inputs", {}), said.get("spec", {})
    if not isinstance(inputs, dict) or not isinstance(spec, dict):
        raise _unreadable("The inputs and the spec of a request must be JSON objects.", id_)
    if output is None and job in WITHOUT_OUTPUT:
        return Request(id=id_, job=job, inputs=inputs, spec=spec)
    if not isinstance(output, str) or not output or "\0" in output:
        raise _unreadable(f"The output of a {job} must be a folder's path.", id_)
    return Request(id=id_, job=job, inputs=inputs, spec=spec, output=output)


def _unreadable(message: str, id_: int | None = None) -> RequestError:
    return RequestError("request-unreadable", message, "", id_)
