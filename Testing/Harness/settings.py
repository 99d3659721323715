"""Settings as read after a restart of the application."""

import itertools
from pathlib import Path
from typing import Any

import qt

_copies = itertools.count()


def settings_after_restart() -> Any:
    """Read the settings from their file, as the next start of Slicer does.

    Within a process Qt caches the values with their types; numbers and booleans read from the file
    are text.
    """
    settings = qt.QSettings()
    settings.sync()
    written = Path(settings.fileName())
    copy = written.with_name(f"{written.stem}-{next(_copies)}.ini")
    copy.write_bytes(written.read_bytes() if written.exists() else b"")
    return qt.QSettings(str(copy), qt.QSettings.IniFormat)
