"""A folder for the files of one job, removed with everything in it when no longer needed."""

import shutil
import tempfile
from pathlib import Path

import slicer


class WorkFolder:
    """A new folder in Slicer's temporary one."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="SpatialARAnomaly-", dir=slicer.app.temporaryPath))

    def remove(self) -> None:
        """Remove it; a file that is still open elsewhere changes nothing for the user."""
        shutil.rmtree(self.path, ignore_errors=True)
