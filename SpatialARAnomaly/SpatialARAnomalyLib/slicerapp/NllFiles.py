"""The NLL volumes of the scene as files the worker can read, written once and only when needed."""

from collections.abc import Callable
from pathlib import Path

import slicer

from .ArrayTransfer import Transfer, writingNpy
from .NodeConversion import stateOf, voxelsOf
from .WorkFolder import WorkFolder

FILE = "nll.npy"


class NllFiles:
    """Keeps a file per NLL volume for as long as the volume stays as it is."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[WorkFolder, Path, tuple[object, ...]]] = {}
        self._writing: Transfer | None = None
        self._begun: WorkFolder | None = None

    def keep(
        self, volume: "slicer.vtkMRMLScalarVolumeNode", folder: WorkFolder, file: Path
    ) -> None:
        """Use a file that holds the volume's voxels already; its folder is ours from now on."""
        self.forget(volume.GetID())
        self._kept[volume.GetID()] = (folder, file, stateOf(volume))

    def provide(
        self,
        volume: "slicer.vtkMRMLScalarVolumeNode",
        onEnd: Callable[[Path | None, Exception | None], None],
    ) -> None:
        """Call `onEnd` with the volume's file, which may have to be written first."""
        self.cancel()
        kept = self._kept.get(volume.GetID())
        if kept is not None and kept[2] == stateOf(volume) and kept[1].exists():
            onEnd(kept[1], None)
            return
        volumeId, state = volume.GetID(), stateOf(volume)
        self._begun = folder = WorkFolder()
        file = folder.path / FILE

        def written(error: Exception | None) -> None:
            self._writing = self._begun = None
            if error is not None:
                folder.remove()
                onEnd(None, error)
                return
            self.forget(volumeId)
            self._kept[volumeId] = (folder, file, state)
            onEnd(file, None)

        self._writing = Transfer(writingNpy(voxelsOf(volume), file), written)

    def cancel(self) -> None:
        """Stop a writing that is under way; its `onEnd` is not called."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        if self._begun is not None:
            self._begun.remove()
            self._begun = None

    def forget(self, volumeId: str) -> None:
        """Remove the file of a volume."""
        kept = self._kept.pop(volumeId, None)
        if kept is not None:
            kept[0].remove()

    def clear(self) -> None:
        """Remove all files."""
        self.cancel()
        for volumeId in list(self._kept):
            self.forget(volumeId)
