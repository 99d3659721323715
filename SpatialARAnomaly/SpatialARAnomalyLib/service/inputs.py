"""From what a user names (files, folders) to volumes."""

from dataclasses import dataclass
from pathlib import Path

from ..engine.dicom_series import choose_series, list_series, read_series
from ..engine.errors import InputError
from ..engine.volume import Volume, check_scan
from ..engine.volume_files import has_volume_suffix, read_volume_file, volume_name


@dataclass(frozen=True)
class Input:
    """One scan: a volume file, or a DICOM series in a folder."""

    path: Path
    series: str | None = None

    def read(self) -> tuple[str, Volume]:
        """A name for its results, and the checked volume.

        Raises `InputError` for anything that is not one readable scan.
        """
        if not self.path.is_dir():
            volume = read_volume_file(self.path)
            check_scan(volume)
            return volume_name(self.path), volume
        series = list_series(self.path)
        chosen = choose_series(series, self.series)
        volume = read_series(chosen)
        check_scan(volume)
        name = self.path.resolve().name
        return (name if len(series) == 1 else f"{name}_series{chosen.number}"), volume


def find_inputs(path: Path, series: str | None = None) -> list[Input]:
    """The scans a path stands for: a file, a DICOM series, or every volume file of a folder.

    Raises `InputError` where there is none, or where `series` makes no sense.
    """
    if not path.exists():
        raise InputError(
            "input-missing",
            f"{path.name!r} does not exist.",
            "Check the path for typing errors.",
        )
    if not path.is_dir():
        return [Input(path)]
    files = sorted(one for one in path.iterdir() if one.is_file() and has_volume_suffix(one))
    if files and series is None:
        return [Input(one) for one in files]
    if not any(path.iterdir()):
        raise InputError(
            "input-empty",
            f"The folder {path.name!r} is empty.",
            "Choose a folder with a DICOM series or volume files.",
        )
    return [Input(path, series)]


def find_one_input(path: Path, series: str | None = None) -> Input:
    """The only scan a path stands for; raises `InputError` where there are several."""
    inputs = find_inputs(path, series)
    if len(inputs) == 1:
        return inputs[0]
    raise InputError(
        "input-several",
        f"Expected one scan; the folder {path.name!r} holds {len(inputs)} volume files "
        f"({', '.join(one.path.name for one in inputs[:5])}"
        f"{', …' if len(inputs) > 5 else ''}).",
        "Name one of them.",
    )
