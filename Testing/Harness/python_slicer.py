"""`PythonSlicer`, the interpreter with which modules start processes."""

import os
import stat
import sys
from pathlib import Path


def put_python_slicer_on_path(folder: Path) -> None:
    """Make `PythonSlicer` in the folder run this interpreter, and put the folder on PATH.

    A script, not a link: an interpreter started through a link loses its virtual environment.
    """
    script = folder / "PythonSlicer"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
