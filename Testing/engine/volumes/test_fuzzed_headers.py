"""Damaged headers end as a scan in its place or as one clear error: no crash, no hang."""

import re
import time

import numpy as np
import pytest
import SimpleITK as sitk
from engine.header_fuzz import KINDS
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes.geometry import LPS_FROM_RAS, grids_apart_mm
from SpatialARAnomalyLib.engine.volumes.itk import native_stderr_silenced
from SpatialARAnomalyLib.engine.volumes.nifti import MAX_FORMS_APART_MM
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.cli.hints import hint
from SpatialARAnomalyLib.service.scans import read_volume

SLOWEST_S = 20.0
"""Far more than a reading takes on a loaded machine, and less than a hang."""


def in_itk(path) -> np.ndarray | None:
    """`ras_from_voxel` as ITK and Slicer have it; None where ITK refuses the file."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NiftiImageIO")
    try:
        with native_stderr_silenced():
            reader.ReadImageInformation()
    except RuntimeError:
        return None
    count = reader.GetDimension()
    place = np.eye(4)
    place[:3, :3] = (np.reshape(reader.GetDirection(), (count, count)) * reader.GetSpacing())[
        :3, :3
    ]
    place[:3, 3] = reader.GetOrigin()[:3]
    return LPS_FROM_RAS @ place


def read_fuzzed(kind: str, seed: int, folder) -> str:
    """Read one damaged file; return how that ended."""
    path = KINDS[kind](folder / "file", np.random.RandomState(seed))
    begun = time.monotonic()
    try:
        ended: Volume | InputError = read_volume(path)
    except InputError as error:
        ended = error
    assert time.monotonic() - begun < SLOWEST_S
    if isinstance(ended, Volume):
        check_place(ended, path, kind)
        return "read"
    assert re.fullmatch(r"[A-Z].*\.", ended.message, re.DOTALL), ended.message
    assert "e+" not in ended.message
    assert hint(ended)
    return ended.code


def check_place(volume: Volume, path, kind: str) -> None:
    """What is read lies where ITK has it, or ITK refuses it."""
    assert np.isfinite(volume.ras_from_voxel).all()
    if kind == "NIfTI" and (place := in_itk(path)) is not None:
        apart_mm = grids_apart_mm(volume.ras_from_voxel, place, volume.voxels.shape)
        assert apart_mm <= 1.1 * MAX_FORMS_APART_MM


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_headers(kind, tmp_path, capfd):
    ends = {read_fuzzed(kind, seed, tmp_path) for seed in range(75)}
    assert {"read", "input-damaged"} <= ends
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_5000_damaged_headers_of_a_kind(kind, tmp_path):
    for seed in range(1000, 6000):
        read_fuzzed(kind, seed, tmp_path)
