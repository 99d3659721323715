"""The commands `models …`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import (
    ModelError,
    SpatialARError,
)
from SpatialARAnomalyLib.service.cli.common import (
    JsonOption,
    OverwriteOption,
    fail,
    run_job,
)

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.model.model_file import ModelCard
    from SpatialARAnomalyLib.service.events import EventReporter
    from SpatialARAnomalyLib.service.models.library import Imported

app = typer.Typer(help="Look at, verify and move models.", no_args_is_help=True)

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="The model's name, or its file."),
]
FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", help="The folder of models.", show_default="your models folder"),
]


def _folder(folder: Path | None) -> Path:
    from SpatialARAnomalyLib.service.user_folder import models_folder

    return models_folder() if folder is None else folder


def _model(named: str, folder: Path | None) -> Path:
    """The file of a model that was named, or given as a path."""
    from SpatialARAnomalyLib.engine.model.model_file import model_path
    from SpatialARAnomalyLib.service.models.listing import list_models
    from SpatialARAnomalyLib.service.models.names import as_compared

    file = model_path(Path(named))
    if Path(named).name != named or (folder is None and os.path.isfile(file)):
        return file
    known = list_models(_folder(folder))
    by_name = [one.path for one in known if as_compared(one.name) == as_compared(named)]
    found = by_name or [one.path for one in known if one.path.name == file.name]
    if len(found) == 1:
        return found[0]
    if found:
        fail(
            ModelError(
                "model-ambiguous",
                f"There are {len(found)} models of the name {named!r}.",
                f"Give the file: {', '.join(map(str, found))}.",
            )
        )
    names = ", ".join(repr(one.name) for one in known)
    fail(
        ModelError(
            "model-missing",
            f"Expected a model file or the name of a model; found none for {named!r}.",
            f"There are: {names}." if names else "There are no models in the models folder.",
        )
    )


@app.command("list")
def models_list(folder: FolderOption = None, as_json: JsonOption = False) -> None:
    """List the models of a folder, with what is wrong with those that cannot be used."""
    import json

    from SpatialARAnomalyLib.service.models.listing import (
        as_row,
        list_models,
    )

    rows = [as_row(entry) for entry in list_models(_folder(folder))]
    if as_json:
        print(json.dumps([row.to_dict() for row in rows], indent=1))
        return
    from SpatialARAnomalyLib.service.cli.tables import print_models

    print_models(rows)


@app.command("show")
def models_show(
    model: ModelArgument,
    folder: FolderOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Show a model's card: what it was trained on and how, after verifying it."""
    import json

    from SpatialARAnomalyLib.engine.model.model_file import verify_model
    from SpatialARAnomalyLib.service.cli.tables import print_card

    try:
        card = verify_model(_model(model, folder))
    except SpatialARError as error:
        fail(error)
    if as_json:
        print(json.dumps(card.to_dict(), indent=1))
    else:
        print_card(card)


@app.command("verify")
def models_verify(
    model: ModelArgument, folder: FolderOption = None, as_json: JsonOption = False
) -> None:
    """Verify that a model is complete and as it was trained (schema, digest, tensors)."""
    from SpatialARAnomalyLib.engine.model.model_file import verify_model

    place = _model(model, folder)

    def job(report: "EventReporter") -> "ModelCard":
        report.stage("verify", 1, 1)
        return verify_model(place)

    def as_result(card: "ModelCard") -> dict[str, Any]:
        return {"name": card.name, "weights_sha256": card.weights_sha256}

    def show(card: "ModelCard") -> None:
        print(f"{card.name}: complete and unchanged (weights {card.weights_sha256[:12]}…)")

    if not as_json:  # it takes a moment: no bar
        try:
            show(verify_model(place))
        except SpatialARError as error:
            fail(error)
        return
    run_job(job, as_result, show, as_json=True, device=Device.AUTO)


@app.command("export")
def models_export(
    model: ModelArgument,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The file to write, or the folder to write it into."),
    ],
    folder: FolderOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a model while verifying it, for another machine."""
    place = _model(model, folder)

    def job(report: "EventReporter") -> Path:
        from SpatialARAnomalyLib.engine.model.model_file import (
            SUFFIX,
            read_card,
        )
        from SpatialARAnomalyLib.service.models.library import export_model
        from SpatialARAnomalyLib.service.models.names import fitting

        target = file
        if os.path.isdir(file):  # which a name that no disk takes is not, either
            target = file / (fitting(read_card(place).name) + SUFFIX)
        return export_model(place, target, report, overwrite=overwrite)

    run_job(
        job,
        lambda written: {"file": str(written)},
        lambda written: print(f"Written: {written}"),
        as_json=as_json,
        device=Device.AUTO,
    )


@app.command("import")
def models_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A model file.")],
    folder: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a model and copy it into a folder of models."""

    def job(report: "EventReporter") -> "Imported":
        from SpatialARAnomalyLib.service.models.library import import_model

        return import_model(file, _folder(folder), report)

    def as_result(found: "Imported") -> dict[str, Any]:
        return {
            "model": str(found.path),
            "name": found.card.name,
            "arrival": found.arrival.value,
            "original_name": found.original_name,
        }

    def show(found: "Imported") -> None:
        print(
            {
                "added": f"{found.card.name}: imported",
                "present": f"{found.card.name}: there already; nothing was changed",
                "renamed": f"{found.card.name}: imported under this name, since "
                f"{found.original_name!r} is taken or cannot be one",
            }[found.arrival.value]
        )

    run_job(job, as_result, show, as_json=as_json, device=Device.AUTO)


@app.command("rename")
def models_rename(
    model: ModelArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name.")],
    folder: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a model another name, on its card and as its file's."""
    place = _model(model, folder)

    def job(report: "EventReporter") -> tuple[Path, "ModelCard"]:
        from SpatialARAnomalyLib.service.models.library import rename_model

        return rename_model(place, name)

    run_job(
        job,
        lambda renamed: {"model": str(renamed[0]), "name": renamed[1].name},
        lambda renamed: print(f"{renamed[1].name}: renamed"),
        as_json=as_json,
        device=Device.AUTO,
    )


@app.command("delete")
def models_delete(
    model: ModelArgument,
    folder: FolderOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a model's file, and no other file."""
    place = _model(model, folder)
    if not yes:
        typer.confirm(
            f"Delete the model {place.stem!r}? It cannot be brought back.", abort=True, err=True
        )

    def job(report: "EventReporter") -> str:
        from SpatialARAnomalyLib.service.models.library import delete_model

        delete_model(place)
        return place.stem

    run_job(
        job,
        lambda name: {"deleted": name},
        lambda name: print(f"{name}: deleted"),
        as_json=as_json,
        device=Device.AUTO,
    )
