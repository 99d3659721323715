"""The worker's jobs: each in a file of its own, loaded when it is first asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.progress import Reporter
from ..engine.specs import Spec
from .worker_protocol import LIBRARY_JOBS, Request

if TYPE_CHECKING:
    from .warm import Warm


@dataclass(frozen=True, kw_only=True)
class Nothing(Spec):
    """Of a job that has nothing to be told."""


class Workbench:
    """Does jobs, and keeps between them what is worth it."""

    def __init__(self) -> None:
        self._warm: Warm | None = None

    def release(self) -> None:
        """Keep nothing more: what was kept may be the memory that a job lacked."""
        if self._warm is not None:
            self._warm.release()

    def do(self, request: Request, report: Reporter) -> dict[str, Any]:
        """What the `result` event of a request says.

        Raises `SpatialARError` where it fails and `Cancelled` through `report`;
        no file has appeared then.
        """
        inputs, spec = request.inputs, request.spec
        output = Path(request.output or "")
        match request.job:
            case "detect":
                from .warm import Warm
                from .worker_detect import DetectInputs, DetectSpec, detect

                self._warm = self._warm or Warm()
                return detect(
                    DetectInputs.from_dict(inputs),
                    DetectSpec.from_dict(spec),
                    output,
                    self._warm,
                    report,
                )
            case "find":
                from .worker_find import FindInputs, FindSpec, find

                return find(FindInputs.from_dict(inputs), FindSpec.from_dict(spec), output, report)
            case "export":
                from .worker_export import ExportInputs, ExportSpec, export

                return export(
                    ExportInputs.from_dict(inputs), ExportSpec.from_dict(spec), output, report
                )
            case "evaluate":
                from .worker_evaluate import EvaluateInputs, EvaluateSpec, evaluate

                return evaluate(
                    EvaluateInputs.from_dict(inputs), EvaluateSpec.from_dict(spec), output, report
                )
            case "sample":
                from .worker_sample import SampleSpec, make_sample

                Nothing.from_dict(inputs)
                return make_sample(SampleSpec.from_dict(spec), output, report)
            case "demonstration_model":
                from .worker_demonstration import DemonstrationSpec, make_model

                Nothing.from_dict(inputs)
                return make_model(DemonstrationSpec.from_dict(spec), output, report)
            case job if job in LIBRARY_JOBS:
                from .worker_models import do

                return do(job, inputs, spec, output, report)
            case "encoder_get":
                from .worker_encoders import get

                Nothing.from_dict(spec)
                return get(inputs, report)
            case "encoder_check":
                from .worker_encoders import CheckSpec, EncoderInputs, check

                return check(EncoderInputs.from_dict(inputs), CheckSpec.from_dict(spec), report)
            case "encoder_add":
                from .worker_encoders import EncoderInputs, add

                Nothing.from_dict(spec)
                return add(EncoderInputs.from_dict(inputs), report)
            case "encoder_remove":
                from .worker_encoders import EncoderInputs, remove

                Nothing.from_dict(spec)
                return remove(EncoderInputs.from_dict(inputs))
            case "kit_verify":
                from .worker_kit import KitInputs, verify

                Nothing.from_dict(spec)
                return verify(KitInputs.from_dict(inputs), report)
            case "kit_weights":
                from .worker_kit import KitInputs, install_weights

                Nothing.from_dict(spec)
                return install_weights(KitInputs.from_dict(inputs), report)
            case "survey":
                from .training_request import TrainSpec
                from .worker_survey import SurveyInputs, survey

                folder = None if request.output is None else output
                return survey(
                    SurveyInputs.from_dict(inputs), TrainSpec.from_dict(spec), folder, report
                )
            case "train":
                from .training_request import TrainSpec
                from .worker_train import TrainInputs, train_model

                self.release()  # the training loads an encoder of its own
                return train_model(
                    TrainInputs.from_dict(inputs), TrainSpec.from_dict(spec), output, report
                )
            case "training_discard":
                from .worker_train import DiscardInputs, discard_training

                Nothing.from_dict(spec)
                return discard_training(DiscardInputs.from_dict(inputs))
            case _:
                from .worker_probe import probe

                Nothing.from_dict(inputs)
                Nothing.from_dict(spec)
                return probe()
