"""One scan to learn from, wherever it is: in files, or an array that the panel wrote."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.errors import SpecError
from ..engine.specs import Modality, Spec
from ..engine.volume import Volume, check_scan
from .array_files import Affine, affine_array, read_voxels
from .inputs import Input


@dataclass(frozen=True, kw_only=True)
class ArrayInput:
    """A scan of Slicer's scene: its voxels in a `.npy` file."""

    voxels: Path
    """An array [k, j, i]."""
    affine: Affine
    """`ras_from_voxel`."""
    name: str = "scan"
    modality: Modality | None = None

    def read(self, check_cancelled: Callable[[], None] = lambda: None) -> tuple[str, Volume]:
        """Its name, and the checked volume, memory-mapped; raises `InputError` as files do."""
        check_cancelled()
        volume = Volume(read_voxels(self.voxels), affine_array(self.affine), self.modality)
        check_scan(volume)
        return self.name, volume


Source = Input | ArrayInput


def shown_name(source: Source) -> str:
    """What messages call a scan."""
    return source.name if isinstance(source, ArrayInput) else source.path.name


@dataclass(frozen=True, kw_only=True)
class SourceSpec(Spec):
    """A scan as JSON carries it: `path` (and `series`), or `voxels` and `affine`."""

    path: str | None = None
    """A volume file, or a folder with a DICOM series."""
    series: str | None = None
    """Number or UID, where the folder holds several."""
    voxels: str | None = None
    """A `.npy` file of [k, j, i]."""
    affine: Affine | None = None
    name: str | None = None
    """What messages call the array."""
    modality: Modality | None = None
    """Of the array, where it is known."""

    def __post_init__(self) -> None:
        of_file = self.path and not (self.voxels or self.affine or self.name or self.modality)
        of_array = self.voxels and self.affine and not (self.path or self.series)
        if not (of_file or of_array):
            raise SpecError(
                "spec-value",
                "A scan must be told by path (and series), or by voxels and affine (and name and "
                "modality); found another set of these.",
            )

    def source(self) -> Source:
        """The scan."""
        if self.voxels is None or self.affine is None:
            return Input(Path(self.path or ""), self.series)
        return ArrayInput(
            voxels=Path(self.voxels),
            affine=self.affine,
            name=self.name or "scan",
            modality=self.modality,
        )


def source_values(source: Source) -> dict[str, Any]:
    """The scan as JSON carries it, with absolute paths; `SourceSpec` reads it."""
    if isinstance(source, ArrayInput):
        values = {
            "voxels": os.path.abspath(source.voxels),
            "affine": [list(row) for row in source.affine],
            "name": source.name,
            "modality": source.modality.value if source.modality else None,
        }
    else:
        values = {"path": os.path.abspath(source.path), "series": source.series}
    return {key: value for key, value in values.items() if value is not None}
