"""The registry of the worker's jobs: one table, from which all facts about a job come.

To add a job, write its function (see `JobFunction`) with the `Spec` classes of its inputs and
settings, add it to `JOBS`, and describe it in `Resources/Docs/worker.md`, whose table of jobs is
tested against this one.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import Spec

JobFunction = Callable[..., dict[str, Any]]
"""Takes those of `inputs`, `spec`, `output` and `report` that it needs, under these names.

The annotations of `inputs` and `spec` are the classes that requests are read as. The function
returns the values of the `result` event. It raises `SpatialARError` if it fails and `Cancelled`
through `report`; no file has been published in either case.
"""

SERVICE = __package__
"""Package that the modules of jobs are named from."""


@dataclass(frozen=True, kw_only=True)
class Empty(Spec):
    """The inputs or the settings of a job that takes none."""


@dataclass(frozen=True)
class Job:
    """One job. Its module is imported on the first request: the worker itself needs no package."""

    module: str
    """Module below `service`."""
    function: str
    """Name of the `JobFunction` in the module."""
    writes_output: bool = False
    """A request must name an output, which the job creates."""
    releases_models: bool = False
    """The job loads an encoder of its own, so the one kept by `detect` is released first."""

    def load(self) -> tuple[JobFunction, type[Spec], type[Spec]]:
        """Import the function; return it with the classes of its inputs and settings."""
        function = getattr(import_module(f"{SERVICE}.{self.module}"), self.function)
        hints = get_type_hints(function)
        return function, hints.get("inputs", Empty), hints.get("spec", Empty)

    def run(
        self,
        inputs: Mapping[str, Any],
        spec: Mapping[str, Any],
        output: str | None,
        report: Reporter,
    ) -> dict[str, Any]:
        """Do the job and return the values of the `result` event; raises as `JobFunction` does."""
        function, inputs_type, spec_type = self.load()
        if self.releases_models:
            release_models()
        arguments = {
            "inputs": inputs_type.from_dict(inputs),
            "spec": spec_type.from_dict(spec),
            "output": None if output is None else Path(output),
            "report": report,
        }
        return function(**{name: arguments[name] for name in signature(function).parameters})


JOBS = {
    "detect": Job("worker.detection", "detect", writes_output=True),
    "detect_scan": Job("detection.result_files", "detect_scan", writes_output=True),
    "detect_batch": Job("worker.batch", "detect_batch", writes_output=True),
    "saved_result": Job("worker.batch", "saved_result", writes_output=True),
    "dicom_volumes": Job("worker.dicom", "name_volumes"),
    "dicom_volume": Job("worker.dicom", "read_volume", writes_output=True),
    "find": Job("worker.detection", "find", writes_output=True),
    "export": Job("worker.export", "export", writes_output=True),
    "evaluate": Job("worker.evaluation", "evaluate", writes_output=True),
    "score_case": Job("evaluation.files", "score_case", writes_output=True),
    "sample": Job("worker.demo", "make_sample", writes_output=True),
    "demonstration_model": Job("worker.demo", "make_model", writes_output=True),
    "survey": Job("training.survey", "survey"),
    "train": Job("worker.training", "train_model", writes_output=True, releases_models=True),
    "embed_scan": Job("training.train", "embed_scan", writes_output=True),
    "training_discard": Job("worker.training", "discard_training"),
    "model_card": Job("worker.models", "write_card_files", writes_output=True),
    "model_export": Job("worker.models", "export", writes_output=True),
    "model_import": Job("worker.models", "import_file", writes_output=True),
    "model_rename": Job("worker.models", "rename"),
    "model_delete": Job("worker.models", "delete"),
    "model_verify": Job("worker.models", "verify"),
    "encoder_get": Job("worker.encoders", "get"),
    "encoder_check": Job("worker.encoders", "check"),
    "encoder_add": Job("worker.encoders", "add"),
    "encoder_remove": Job("worker.encoders", "remove"),
    "kit_verify": Job("worker.setup", "verify_kit_files"),
    "kit_weights": Job("worker.setup", "install_kit_weights"),
    "probe": Job("worker.setup", "probe"),
}
"""Every job by its name in a request."""


def release_models() -> None:
    """Release the model and the encoder that `detect` keeps, and PyTorch's cached GPU memory."""
    cache = sys.modules.get(f"{SERVICE}.detection.model_cache")
    if cache is not None:  # otherwise nothing is kept, and importing it could fail
        cache.MODELS.release()
