"""Reading and writing volumes as NIfTI, NRRD and MetaImage files."""

import re
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.specs import Orientation
from SpatialARAnomalyLib.engine.volumes import refusals
from SpatialARAnomalyLib.engine.volumes.formats import VOLUME_SUFFIXES as VOLUME_SUFFIXES
from SpatialARAnomalyLib.engine.volumes.formats import Format, find_format
from SpatialARAnomalyLib.engine.volumes.formats import has_volume_suffix as has_volume_suffix
from SpatialARAnomalyLib.engine.volumes.itk import read_itk
from SpatialARAnomalyLib.engine.volumes.itk import write_nrrd as write_nrrd
from SpatialARAnomalyLib.engine.volumes.nifti import read_nifti
from SpatialARAnomalyLib.engine.volumes.nifti import write_nifti as write_nifti
from SpatialARAnomalyLib.engine.volumes.nifti import write_nifti_labels as write_nifti_labels
from SpatialARAnomalyLib.engine.volumes.volume import Volume


def volume_name(path: Path) -> str:
    """Return the file name without its (double) suffix."""
    name = path.name
    for suffix in sorted((*VOLUME_SUFFIXES, ".img", ".seg.nrrd"), key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read_volume_file(
    path: Path,
    labels: bool = False,
    *,
    volume: int | None = None,
    orientation: Orientation | None = None,
) -> Volume:
    """Read a NIfTI, NRRD or MetaImage file, with its rescale slope and intercept applied.

    Args:
        path: The file, whose format is found by its content.
        labels: Accept a file whose header declares a label map.
        volume: Number of the volume from 1, where the file holds several.
        orientation: The orientation of a NIfTI file that counts, where its two disagree.

    Raises:
        InputError: The file is missing, damaged, 2-D or in color, holds several volumes, places
            its voxels in two ways or in none, or has a name that is not Unicode.
    """
    if voxels := re.fullmatch(r"(.*)\.img(\.gz)?", path.name, re.IGNORECASE):
        headers = (path.with_name(voxels[1] + suffix) for suffix in (".hdr", ".hdr.gz", ".HDR"))
        path = next((header for header in headers if header.is_file()), path)
    try:
        size_bytes = path.stat().st_size
        if path.is_dir():
            raise refusals.format_error("a folder")
        if not path.is_file():
            raise refusals.format_error("a pipe or a device, which cannot be read twice")
        if size_bytes == 0 and has_volume_suffix(path):
            raise refusals.damaged_error("it is empty")
        format_ = find_format(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("input-missing", "The volume to read does not exist.") from None
    except OSError as error:
        raise refusals.unreadable_error(error) from None
    refusals.unicode_name(path)
    if format_ is Format.NIFTI:
        return read_nifti(path, labels, volume, orientation)
    read = read_itk(path, format_, labels, volume)
    if orientation is None:
        return read
    text = f"{format_} states one orientation: the one chosen has no effect."
    return read.noted("choice-unused", text)
