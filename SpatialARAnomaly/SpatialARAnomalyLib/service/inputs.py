"""From what a user names (files, folders) to volumes."""

from dataclasses import dataclass
from pathlib import Path

from ..engine.dicom_series import choose_series, list_series, read_series
from ..engine.errors import InputError
from ..engine.file_refusals import unreadable
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
        if len(series) > 1 and chosen.number is not None:
            name = f"{name}_series{chosen.number}"
        return name, volume


def find_inputs(path: Path, series: str | None = None) -> list[Input]:
    """The scans a path stands for: a file, a DICOM series, or every volume file of a folder.

    Raises `InputError` where there is none, or where `series` makes no sense.
    """
    try:
        exists, is_folder = path.exists(), path.is_dir()
        entries = sorted(path.iterdir()) if is_folder else []
        files = [one for one in entries if _is_volume_file(one)]
    except OSError as error:
        raise unreadable(error) from None
    if not exists:
        raise InputError(
            "input-missing",
            f"{path.name!r} does not exist.",
            "Check the path for typing errors.",
        )
    if not is_folder:
        if series is not None:
            raise InputError(
                "series-of-file",
                f"A series can be chosen in a DICOM folder only; {path.name!r} is a file.",
                "Leave --series out, or give the folder.",
            )
        return [Input(path)]
    if files and series is None:
        return [Input(one) for one in files]
    if not entries:
        raise InputError(
            "input-empty",
            f"The folder {path.name!r} is empty.",
            "Choose a folder with a DICOM series or volume files.",
        )
    return [Input(path, series)]


def _is_volume_file(path: Path) -> bool:
    # macOS leaves hidden companions (._scan.nii) on drives of other systems.
    return has_volume_suffix(path) and not path.name.startswith(".") and path.is_file()


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
