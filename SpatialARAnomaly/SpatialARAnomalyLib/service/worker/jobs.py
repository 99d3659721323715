"""The registry of the worker's jobs: one table, from which all facts about a job come.

To add a job, write a function with the signature of `JobFunction` and the `Spec` classes
of its inputs and settings, add its record to `JOBS`, and describe it in
`Resources/Docs/worker.md`, whose table of jobs is tested against this one.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import Spec

JobFunction = Callable[[Any, Any, Path | None, Reporter], dict[str, Any]]
"""`function(inputs, spec, output, report)` returns the values of the `result` event.

It raises `SpatialARError` if it fails and `Cancelled` through `report`; no file has been
published in either case.
"""


SERVICE = __package__.rpartition(".")[0]
"""Package that the modules of jobs are named from."""


@dataclass(frozen=True, kw_only=True)
class Empty(Spec):
    """The inputs or the settings of a job that takes none."""


@dataclass(frozen=True)
class Job:
    """One job. Its module is imported on the first request: the worker itself needs no package."""

    module: str
    """Module below `service` that has the function and both classes."""
    function: str
    inputs: str = Empty.__name__
    """Class of what the job works on."""
    spec: str = Empty.__name__
    """Class of its settings."""
    writes_output: bool = False
    """A request must name an output, which the job creates."""
    releases_models: bool = False
    """The job loads an encoder of its own, so the one kept by `detect` is released first."""

    def load(self) -> tuple[JobFunction, type[Spec], type[Spec]]:
        """Import the function and the classes of its inputs and settings."""
        module = import_module(f"{SERVICE}.{self.module}")
        inputs, spec = (
            Empty if name == Empty.__name__ else getattr(module, name)
            for name in (self.inputs, self.spec)
        )
        return getattr(module, self.function), inputs, spec

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
        return function(
            inputs_type.from_dict(inputs),
            spec_type.from_dict(spec),
            None if output is None else Path(output),
            report,
        )


JOBS = {
    "detect": Job("worker.detection", "detect", "DetectInputs", "DetectSpec", writes_output=True),
    "find": Job("worker.detection", "find", "FindInputs", "FindSpec", writes_output=True),
    "export": Job("worker.export", "export", "ExportInputs", "ExportSpec", writes_output=True),
    "evaluate": Job(
        "worker.evaluation", "evaluate", "EvaluateInputs", "EvaluateSpec", writes_output=True
    ),
    "sample": Job("worker.demo", "make_sample", spec="SampleSpec", writes_output=True),
    "demonstration_model": Job(
        "worker.demo", "make_model", spec="DemonstrationSpec", writes_output=True
    ),
    "survey": Job("training.survey", "survey", "SurveyInputs", "TrainSpec"),
    "train": Job(
        "worker.training",
        "train_model",
        "TrainInputs",
        "TrainSpec",
        writes_output=True,
        releases_models=True,
    ),
    "training_discard": Job("worker.training", "discard_training", "DiscardInputs"),
    "model_export": Job("worker.models", "export", "ModelInputs", "ExportSpec", writes_output=True),
    "model_import": Job("worker.models", "import_file", "ImportInputs", writes_output=True),
    "model_rename": Job("worker.models", "rename", "ModelInputs", "RenameSpec"),
    "model_delete": Job("worker.models", "delete", "ModelInputs"),
    "model_verify": Job("worker.models", "verify", "ModelInputs"),
    "encoder_get": Job("worker.encoders", "get", "GetInputs"),
    "encoder_check": Job("worker.encoders", "check", "EncoderInputs", "CheckSpec"),
    "encoder_add": Job("worker.encoders", "add", "EncoderInputs"),
    "encoder_remove": Job("worker.encoders", "remove", "EncoderInputs"),
    "kit_verify": Job("worker.setup", "verify_kit_files", "KitInputs"),
    "kit_weights": Job("worker.setup", "install_kit_weights", "KitInputs"),
    "probe": Job("worker.setup", "probe_machine"),
}
"""Every job by its name in a request."""


def release_models() -> None:
    """Release the model and the encoder that `detect` keeps, and PyTorch's cached GPU memory."""
    detection = sys.modules.get(f"{SERVICE}.worker.detection")
    if detection is not None:  # otherwise nothing is kept, and importing it could fail
        detection.MODELS.release()
