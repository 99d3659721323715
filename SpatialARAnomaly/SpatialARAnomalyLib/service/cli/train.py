"""The commands `train`, and `normals` that foresees it; their options are fields of `TrainSpec`."""

import ast
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from SpatialARAnomalyLib.engine.specs import (
    Spec,
    TrainingSpec,
)
from SpatialARAnomalyLib.service.cli.common import (
    JsonOption,
    run_job,
)
from SpatialARAnomalyLib.service.training.request import TrainSpec

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.model.model_file import ModelCard
    from SpatialARAnomalyLib.service.events import EventReporter
    from SpatialARAnomalyLib.service.training.request import SurveyResult

TRAIN_EPILOG = (
    "Example: spatial-ar-anomaly train normals/*.nii.gz --out brain-t1 "
    "--encoder timm/vit_small_patch16_dinov3.lvd1689m --allow-download"
)
NORMALS_EPILOG = "Example: spatial-ar-anomaly normals archive/healthy --size-px 336 --epochs 20"

NORMALS_OPTIONS = (
    "modality", "plane", "preset", "encoder", "fov_mm", "size_px", "epochs", "batch_size", "device"
)  # fmt: skip
TRAIN_OPTIONS = (
    "name", "modality", "plane", "preset", "variance", "encoder", "precision", "fov_mm", "size_px",
    "window_hu", "epochs", "batch_size", "learning_rate", "held_out_share", "seed", "device",
    "allow_download", "overwrite", "restart", "skip_unusable",
)  # fmt: skip


def attribute_docs(*kinds: type[Spec]) -> dict[str, str]:
    """The docstrings below the fields of specs, each on one line."""
    docs = {}
    for kind in kinds:
        (body,) = ast.parse(inspect.getsource(kind)).body
        for field, text in zip(body.body, body.body[1:], strict=False):  # type: ignore[attr-defined]
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                docs[ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split())
    return docs


def with_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that takes `**options` an option for each of these fields of `TrainSpec`.

    Name, type, default and help are the field's own. They stand before the command's `as_json`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints, docs = typing.get_type_hints(TrainSpec), attribute_docs(TrainingSpec, TrainSpec)
        *first, as_json, _ = inspect.signature(command).parameters.values()
        options = [
            as_json.replace(
                name=name,
                default=getattr(TrainSpec, name),
                annotation=Annotated[
                    hints[name], typer.Option(f"--{name.replace('_', '-')}", help=docs[name])
                ],
            )
            for name in names
        ]
        command.__signature__ = inspect.Signature([*first, *options, as_json])  # type: ignore[attr-defined]
        return command

    return decorate


@with_options(*TRAIN_OPTIONS)
def train(
    normals: Annotated[
        list[Path],
        typer.Argument(
            metavar="NORMAL...",
            help="Normal scans: NIfTI, NRRD or MHA files, folders of them, DICOM series folders.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The model file to write (NAME.safetensors).")],
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Learn what is normal from normal scans. Repeat an interrupted command to resume it."""

    def job(report: "EventReporter") -> "ModelCard":
        from SpatialARAnomalyLib.service.training.train import train as run

        return run(normals, out, TrainSpec(**options), report)

    def as_result(card: "ModelCard") -> dict[str, Any]:
        from SpatialARAnomalyLib.service.training.train import as_result

        return as_result(card)

    def show(card: "ModelCard") -> None:
        from SpatialARAnomalyLib.service.cli.tables import print_card

        print_card(card)

    run_job(job, as_result, show, as_json=as_json, device=options["device"])


@with_options(*NORMALS_OPTIONS)
def normals(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...",
            help="Folders, searched with all that is below them, or volume files.",
        ),
    ],
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Show which scans a training could use, why not the others, and what it would take."""

    def job(report: "EventReporter") -> "SurveyResult":
        from SpatialARAnomalyLib.service.training.plan import plan_training

        return plan_training(folders, (), TrainSpec(**options), Path.cwd(), report)

    def as_result(found: "SurveyResult") -> dict[str, Any]:
        return found.to_dict()

    def show(found: "SurveyResult") -> None:
        from SpatialARAnomalyLib.service.cli.tables import print_survey

        print_survey(found)

    run_job(job, as_result, show, as_json=as_json, device=options["device"])
