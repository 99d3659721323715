"""Reading and writing volumes as NIfTI, NRRD and MetaImage files."""

from pathlib import Path

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes import refusals
from SpatialARAnomalyLib.engine.volumes.itk import ITK_SUFFIXES, read_itk
from SpatialARAnomalyLib.engine.volumes.itk import write_nrrd as write_nrrd
from SpatialARAnomalyLib.engine.volumes.nifti import NIFTI_SUFFIXES, read_nifti
from SpatialARAnomalyLib.engine.volumes.nifti import write_nifti as write_nifti
from SpatialARAnomalyLib.engine.volumes.nifti import write_nifti_labels as write_nifti_labels
from SpatialARAnomalyLib.engine.volumes.volume import Volume

VOLUME_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES


def has_volume_suffix(path: Path) -> bool:
    """Return True if the file name ends as that of a NIfTI, NRRD or MetaImage file."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def volume_name(path: Path) -> str:
    """Return the file name without its (double) suffix."""
    name = path.name
    for suffix in sorted((*VOLUME_SUFFIXES, ".seg.nrrd"), key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read_volume_file(path: Path, labels: bool = False) -> Volume:
    """Read a NIfTI, NRRD or MetaImage file, with its rescale slope and intercept applied.

    Raises `InputError` for a missing, damaged, 2-D, 4-D or color image, one whose header
    declares a label map (unless `labels` is true), one without a valid affine, or a name
    that is not Unicode.
    """
    try:
        size_bytes = path.stat().st_size
        if path.is_dir():
            raise _format_error("a folder")
        with path.open("rb"):
            pass
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("input-missing", "The volume to read does not exist.") from None
    except OSError as error:
        raise refusals.unreadable_error(error) from None
    if not has_volume_suffix(path):
        raise _format_error(f"a file of another kind ({path.suffix or 'without a suffix'})")
    refusals.unicode_name(path)
    if size_bytes == 0:
        raise refusals.damaged_error("it is empty")
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return read_nifti(path, labels)
    return read_itk(path, labels)


def _format_error(found: str) -> InputError:
    return InputError(
        "input-format",
        f"Expected a volume file ({', '.join(VOLUME_SUFFIXES)}) or a folder with a DICOM "
        f"series; found {found}.",
    )
