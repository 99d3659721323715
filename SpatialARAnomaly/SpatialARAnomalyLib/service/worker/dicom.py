"""The jobs `dicom_volumes` and `dicom_volume`: one of several volumes of a DICOM series."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import Spec
from SpatialARAnomalyLib.engine.volumes.dicom import list_volumes, read_series, volume_files
from SpatialARAnomalyLib.engine.volumes.dicom_series import (
    DicomSeries,
    choose_series,
    list_series,
)
from SpatialARAnomalyLib.service.array_files import write_arrays
from SpatialARAnomalyLib.service.outputs import check_names

VOXELS_FILE = "voxels.npy"


@dataclass(frozen=True, kw_only=True)
class SeriesInputs(Spec):
    """A DICOM series."""

    dicom_files: tuple[str, ...]

    def find(self, report: Reporter) -> DicomSeries:
        """Return the series; raises `InputError` where there is none, or are several."""
        paths = [Path(one) for one in self.dicom_files]
        return choose_series(list_series(paths, report.check_cancelled), None)


@dataclass(frozen=True, kw_only=True)
class VolumeSpec(Spec):
    """A volume of the series, by its number from 1."""

    volume: int


def name_volumes(inputs: SeriesInputs, report: Reporter) -> dict[str, Any]:
    """Return what sets the volumes of a series apart, in the order of their numbers from 1."""
    report.stage("read", 1, 1)
    return {"volumes": list_volumes(inputs.find(report))}


def read_volume(
    inputs: SeriesInputs, spec: VolumeSpec, output: Path, report: Reporter
) -> dict[str, Any]:
    """Read a volume of a series and write its voxels.

    `instances` of the result are the SOP Instance UIDs of its files, and `dicom_volume` is its
    number where these hold several volumes.
    """
    report.stage("read", 1, 1)
    check_names(output, [VOXELS_FILE], overwrite=False)
    series = inputs.find(report)
    volume = read_series(series, report.check_cancelled, volume=spec.volume)
    for code, text in volume.notices:
        report.notice(code, text)
    write_arrays(output, {VOXELS_FILE: volume.voxels})
    files, number = volume_files(series, spec.volume)
    return {
        "files": {"voxels": str(output / VOXELS_FILE)},
        "ras_from_voxel": volume.ras_from_voxel.tolist(),
        "instances": [file.text("SOPInstanceUID") for file in files],
        "dicom_volume": number,
    }
