"""Settings as an application finds them after a restart."""

import itertools
from pathlib import Path
from typing import Any

import qt

_copies = itertools.count()


def settings_after_restart() -> Any:
    """The settings read from their file, as the next start of Slicer reads them.

    Within a process Qt gives back the values it was given; from the file every number and truth
    value comes as text.
    """
    settings = qt.QSettings()
    settings.sync()
    written = Path(settings.fileName())
    copy = written.with_name(f"{written.stem}-{next(_copies)}.ini")
    copy.write_bytes(written.read_bytes() if written.exists() else b"")
    return qt.QSettings(str(copy), qt.QSettings.IniFormat)
