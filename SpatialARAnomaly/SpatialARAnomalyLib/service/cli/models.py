"""The commands `models …`."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from SpatialARAnomalyLib.engine.errors import ModelError
from SpatialARAnomalyLib.service.cli.common import (
    JsonOption,
    Outcome,
    OverwriteOption,
    confirm_or_exit,
    exit_on_error,
    fail,
    run_job,
)
from SpatialARAnomalyLib.service.cli.hints import hint
from SpatialARAnomalyLib.service.events import EventReporter

app = typer.Typer(help="List, show, verify, copy, rename and delete models.", no_args_is_help=True)

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="The model's name, or its file.")
]
FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", help="The folder of models.", show_default="your models folder"),
]


def _folder(folder: Path | None) -> Path:
    from SpatialARAnomalyLib.service.user_folder import models_folder

    return models_folder() if folder is None else folder


def _model(named: str, folder: Path | None) -> Path:
    """Find a model's file by its path, by the model's name, or by the file's name.

    A name may also be that of a file in the working folder, unless `folder` is given. Exits with
    an error if it fits several files: a command that renames or deletes must not guess.
    """
    from SpatialARAnomalyLib.engine.file_names import comparable
    from SpatialARAnomalyLib.engine.model.model_file import model_path
    from SpatialARAnomalyLib.service.models.listing import list_models

    file = model_path(Path(named))
    if Path(named).name != named:
        return file
    known = list_models(_folder(folder))
    by_name = [one.path for one in known if comparable(one.name) == comparable(named)]
    found = by_name or [one.path for one in known if one.path.name == file.name]
    files = [path.name for path in found]
    if (
        folder is None
        and os.path.isfile(file)
        and not any(os.path.samefile(file, path) for path in found)
    ):
        found.append(file)
        files.append(os.path.join(os.curdir, file.name))
    if len(found) == 1:
        return found[0]
    if found:
        fail(
            ModelError(
                "model-ambiguous", f"{len(found)} models are named {named!r}: {', '.join(files)}."
            )
        )
    names = ", ".join(repr(one.name) for one in known) or "none"
    fail(ModelError("model-missing", f"There is no model {named!r}; the folder's models: {names}."))


@app.command("list")
def models_list(folder: FolderOption = None, as_json: JsonOption = False) -> None:
    """List the models of a folder, with the problems of those that cannot be used."""
    from SpatialARAnomalyLib.service.models.listing import as_row, list_models

    rows = [as_row(entry, hint) for entry in list_models(_folder(folder))]
    if as_json:
        print(json.dumps([row.to_dict() for row in rows], indent=1))
        return
    from SpatialARAnomalyLib.service.cli.tables import print_models

    print_models(rows)


@app.command("show")
def models_show(
    model: ModelArgument,
    folder: FolderOption = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            "--markdown", metavar="FILE", help="Write the card here instead, with a picture (PNG)."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Verify a model and show its card: intended use, data, domain, calibration and limits."""
    from SpatialARAnomalyLib.engine.model.model_file import verify_model
    from SpatialARAnomalyLib.service.cli.tables import print_card
    from SpatialARAnomalyLib.service.models.card_file import write_card

    with exit_on_error():
        card = verify_model(_model(model, folder))
        files = write_card(markdown, card, overwrite=overwrite) if markdown else ()
    if as_json:
        print(json.dumps(card.to_dict(), indent=1))
    elif files:
        print("\n".join(f"Written: {file}" for file in files))
    else:
        print_card(card)


@app.command("verify")
def models_verify(
    model: ModelArgument, folder: FolderOption = None, as_json: JsonOption = False
) -> None:
    """Verify that a model is complete and unchanged (schema, digest, tensors)."""
    place = _model(model, folder)

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.engine.model.model_file import verify_model

        card = verify_model(place)
        text = f"{card.name}: complete and unchanged (weights {card.weights_sha256[:12]}…)"
        return {"name": card.name, "weights_sha256": card.weights_sha256}, lambda: print(text)

    run_job(job, as_json=as_json)


@app.command("export")
def models_export(
    model: ModelArgument,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The new file, or a folder for it."),
    ],
    folder: FolderOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a model while verifying it, for another machine."""
    place = _model(model, folder)

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.engine.model.model_file import SUFFIX, read_card
        from SpatialARAnomalyLib.service.models.library import export_model, make_valid

        target = file
        if os.path.isdir(file):  # Path.is_dir raises for names that the system refuses
            target = file / (make_valid(read_card(place).name) + SUFFIX)
        written = export_model(place, target, report, overwrite=overwrite)
        return {"file": str(written)}, lambda: print(f"Written: {written}")

    run_job(job, as_json=as_json)


@app.command("import")
def models_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A model file.")],
    folder: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a model and copy it into a folder of models."""

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.service.models.library import import_model

        found = import_model(file, _folder(folder), report)
        name, original, arrival = found.card.name, found.original_name, found.arrival.value
        texts = {
            "added": "imported",
            "present": "already in the folder, which is unchanged",
            "renamed": f"imported under this name, since {original!r} is taken or invalid",
        }
        result = {"model": str(found.path), "name": name, "arrival": arrival}
        return (
            result | {"original_name": original},
            lambda: print(f"{name}: {texts[arrival]}"),
        )

    run_job(job, as_json=as_json)


@app.command("rename")
def models_rename(
    model: ModelArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name.")],
    folder: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rename a model: the name on its card, and its file."""
    place = _model(model, folder)

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.service.models.library import rename_model

        path, card = rename_model(place, name)
        return {"model": str(path), "name": card.name}, lambda: print(f"{card.name}: renamed")

    run_job(job, as_json=as_json)


@app.command("delete")
def models_delete(
    model: ModelArgument,
    folder: FolderOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete it without a question.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a model's file, and no other file."""
    place = _model(model, folder)
    if not yes and os.path.lexists(place):  # the job reports a missing file
        confirm_or_exit(f"Delete the model {place.stem!r}? This cannot be undone.")

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.service.models.library import delete_model

        delete_model(place)
        return {"deleted": place.stem}, lambda: print(f"{place.stem}: deleted")

    run_job(job, as_json=as_json)
