"""The commands `train` and `normals`, whose options are fields of `TrainSpec`."""

import ast
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from SpatialARAnomalyLib.engine.specs import Spec, TrainingSpec
from SpatialARAnomalyLib.service.cli.common import (
    JobsOption,
    JsonOption,
    Outcome,
    SchedulerOption,
    WorkerMemoryOption,
    run_job,
)
from SpatialARAnomalyLib.service.events import EventReporter
from SpatialARAnomalyLib.service.training.request import TrainSpec

TRAIN_EPILOG = (
    "Example: spatial-ar-anomaly train normals/*.nii.gz --out brain-t1 "
    "--encoder timm/vit_small_patch16_dinov3.lvd1689m --allow-download"
)
NORMALS_EPILOG = "Example: spatial-ar-anomaly normals archive/healthy --size-px 336 --epochs 20"

NORMALS_OPTIONS = (
    "modality", "plane", "region", "preset", "encoder", "fov_mm", "size_px", "epochs", "batch_size",
    "orientation", "allow_unstated_orientation", "device",
)  # fmt: skip
TRAIN_OPTIONS = (
    "name", "modality", "plane", "region", "preset", "encoder", "precision", "fov_mm", "size_px",
    "window_hu", "epochs", "batch_size", "learning_rate", "held_out_share", "seed", "orientation",
    "allow_unstated_orientation", "device",
    "allow_download", "overwrite", "restart", "skip_unusable",
)  # fmt: skip


def attribute_docs(*kinds: type[Spec]) -> dict[str, str]:
    """Read the docstrings below the fields of specs, each as one line."""
    docs = {}
    for kind in kinds:
        (body,) = ast.parse(inspect.getsource(kind)).body
        for field, text in zip(body.body, body.body[1:], strict=False):  # type: ignore[attr-defined]
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                docs[ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split())
    return docs


def with_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command with `**options` an option for each of these fields of `TrainSpec`.

    Name, type, default and help are the field's. The options precede the command's `as_json`.
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
    jobs: JobsOption = 1,
    scheduler: SchedulerOption = None,
    worker_memory: WorkerMemoryOption = None,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Train a model on normal scans. Repeat an interrupted command to resume it.

    Scans are embedded in as many processes as --jobs says, or on a cluster; the rest is
    one process's work.
    """

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.engine.model.model_file import model_path
        from SpatialARAnomalyLib.service.batch.choose import choose_place
        from SpatialARAnomalyLib.service.models.library import check_name
        from SpatialARAnomalyLib.service.training.train import as_result
        from SpatialARAnomalyLib.service.training.train import train as run

        check_name(model_path(out).stem)  # other systems may not be able to store the file
        place = choose_place(jobs, scheduler, worker_memory)
        card = run(normals, out, TrainSpec(**options), report, place)

        def show() -> None:
            from SpatialARAnomalyLib.service.cli.tables import print_card

            print_card(card)

        return as_result(card), show

    run_job(job, as_json=as_json, device=options["device"])


@with_options(*NORMALS_OPTIONS)
def normals(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...",
            help="Folders, searched with their subfolders, or volume files.",
        ),
    ],
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Show which scans a training can use, why not the others, and its time and memory."""

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.service.training.survey import plan_training

        found = plan_training(folders, (), TrainSpec(**options), Path.cwd(), report)

        def show() -> None:
            from SpatialARAnomalyLib.service.cli.tables import print_survey

            print_survey(found)

        return found.to_dict(), show

    run_job(job, as_json=as_json, device=options["device"])
