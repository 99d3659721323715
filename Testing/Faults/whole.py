"""What must hold of a folder after any fault: no file under a final name is torn."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open
from SpatialARAnomalyLib.engine.model.model_file import is_model, verify_model
from SpatialARAnomalyLib.engine.volumes.files import read_volume_file


def _read_safetensors(path: Path) -> None:
    if is_model(path):
        verify_model(path)
    with safe_open(path, framework="np") as file:  # also a checkpoint
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            assert np.isfinite(file.get_tensor(name)).all()


def _read_nifti(path: Path) -> None:
    gzip.decompress(path.read_bytes())  # checks the CRC
    read_volume_file(path, labels=True)


def _read_picture(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()


READERS: dict[str, Callable[[Path], object]] = {
    ".safetensors": _read_safetensors,
    ".npy": lambda path: np.isfinite(np.load(path)).all(),
    ".nrrd": lambda path: read_volume_file(path, labels=True),
    ".gz": _read_nifti,
    ".csv": lambda path: _ends(path, b"\n"),
    ".html": lambda path: _ends(path, b"</html>\n"),
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".png": _read_picture,
}


def _ends(path: Path, end: bytes) -> None:
    assert path.read_bytes().endswith(end)


def is_temporary(path: Path) -> bool:
    """Return whether a name says that the file, or the folder that it is in, is not complete."""
    return any(
        part.startswith(".partial-") or part.endswith((".partial", ".lock", ".incomplete"))
        for part in path.parts
    )


def torn_files(folder: Path) -> list[str]:
    """Return the files under final names that cannot be read to their end."""
    torn = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not is_temporary(name) and path.suffix in READERS:
            try:
                assert READERS[path.suffix](path) is not False
            except Exception as error:
                torn.append(f"{name}: {type(error).__name__} {error}")
    return torn


def temporary_files(folder: Path) -> list[str]:
    """Return what is left of work in progress; a lock's file stays for the next one."""
    left = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        # Killed before it had its lock, an empty folder goes after a day.
        empty = path.is_dir() and {one.name for one in path.iterdir()} <= {"lock.new"}
        empty = empty or path.name == "lock.new"
        temporary = is_temporary(name) or name.suffix == ".training"
        if temporary and not empty and name.suffix != ".lock":
            left.append(str(name))
    return left
