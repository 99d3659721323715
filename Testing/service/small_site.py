"""Small scans and a small model, made once, for the tests of jobs and the command line."""

from dataclasses import dataclass
from pathlib import Path

from SpatialARAnomalyLib.engine.volumes.files import write_nifti
from SpatialARAnomalyLib.service.cli.main import app
from SpatialARAnomalyLib.service.demo.phantom import normal_head
from typer.testing import CliRunner

SHAPE_KJI, SPACING_MM = (6, 48, 48), (4.8, 4.8, 20.0)
TRAIN_OPTIONS = ("--size-px", "112", "--epochs", "2", "--batch-size", "8", "--device", "cpu")


def run(*arguments: object):
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: files with their content, folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@dataclass(frozen=True)
class Site:
    """Normal scans and a model trained on them."""

    normals: tuple[Path, ...]
    model: Path


def make_site(folder: Path) -> Site:
    """Write normal scans and train a model on them."""
    normals = []
    for number in range(4):
        normals.append(folder / f"normal_{number}.nii.gz")
        head = normal_head(number, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
        write_nifti(normals[-1], head)
    model = folder / "model.safetensors"
    result = run("train", *normals, "--out", model, *TRAIN_OPTIONS)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return Site(tuple(normals), model)
