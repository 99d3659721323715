"""From what a user names (files, folders) to volumes."""

from collections.abc import Callable
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

    def read(self, check_cancelled: Callable[[], None] = lambda: None) -> tuple[str, Volume]:
        """A name for its results, and the checked volume.

        `check_cancelled` is called before every file that is read, and may raise to stop.
        Raises `InputError` for anything that is not one readable scan.
        """
        if not self.path.is_dir():
            check_cancelled()
            volume = read_volume_file(self.path)
            check_scan(volume)
            return volume_name(self.path), volume
        series = list_series(self.path, check_cancelled)
        chosen = choose_series(series, self.series)
        volume = read_series(chosen, check_cancelled)
        check_scan(volume)
        name = self.path.resolve().name
        if len(series) > 1 and chosen.number is not None:
            name = f"{name}_series{chosen.number}"
        return name, volume


def find_inputs(
    path: Path, series: str | None = None, check_cancelled: Callable[[], None] = lambda: None
) -> list[Input]:
    """The scans a path stands for: a file, a DICOM series, or every volume file of a folder.

    `check_cancelled` is called before every file of the folder, and may raise to stop.
    Raises `InputError` where there is none, or where `series` makes no sense.
    """
    try:
        exists, is_folder = path.exists(), path.is_dir()
        entries = sorted(path.iterdir()) if is_folder else []
        files = []
        for one in entries:
            check_cancelled()
            if _is_volume_file(one):
                files.append(one)
    except OSError as error:
        raise unreadable(error) from None
    if not exists:
        raise InputError("input-missing", f"{_shown_name(path)!r} does not exist.")
    if not is_folder:
        if series is not None:
            raise InputError(
                "series-of-file",
                f"A series can be chosen in a DICOM folder only; {_shown_name(path)!r} is a file.",
            )
        return [Input(path)]
    if files and series is None:
        return [Input(one) for one in files]
    if not entries:
        raise InputError("input-empty", f"The folder {_shown_name(path)!r} is empty.")
    return [Input(path, series)]


def _is_volume_file(path: Path) -> bool:
    # macOS leaves hidden companions (._scan.nii) on drives of other systems.
    return has_volume_suffix(path) and not path.name.startswith(".") and path.is_file()


def _shown_name(path: Path) -> str:
    """The path's last part as the user wrote it; "." and ".." as the folder they stand for."""
    return path.name if path.name not in ("", "..") else path.resolve().name


def find_one_input(
    path: Path, series: str | None = None, check_cancelled: Callable[[], None] = lambda: None
) -> Input:
    """The only scan a path stands for; raises `InputError` where there are several."""
    inputs = find_inputs(path, series, check_cancelled)
    if len(inputs) == 1:
        return inputs[0]
    raise InputError(
        "input-several",
        f"Expected one scan; the folder {_shown_name(path)!r} holds {len(inputs)} volume files "
        f"({', '.join(one.path.name for one in inputs[:5])}"
        f"{', …' if len(inputs) > 5 else ''}).",
    )
