"""Volumes of the scene as files for the worker, each written once and only when needed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import slicer

from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import volumeState, voxelsOf
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import Transfer, WorkFolder, writeNpy

FILE = "nll.npy"


OnFile = Callable[[Path | None, Exception | None], None]
"""Receives the file, or the error, or neither if the writing was stopped."""


@dataclass(frozen=True, eq=False)
class _Writing:
    transfer: Transfer
    folder: WorkFolder
    onEnd: OnFile

    def stop(self) -> None:
        self.transfer.cancel()
        self.folder.remove()


class NllFiles:
    """Keeps a file per NLL volume (or scan) until the volume changes."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[WorkFolder, Path, tuple[object, ...]]] = {}
        self._writings: list[_Writing] = []

    def keep(
        self, volume: "slicer.vtkMRMLScalarVolumeNode", folder: WorkFolder, file: Path
    ) -> None:
        """Use a file that holds the volume's voxels; its folder is removed with it."""
        self.forget(volume.GetID())
        self._kept[volume.GetID()] = (folder, file, volumeState(volume))

    def provide(
        self, volume: "slicer.vtkMRMLScalarVolumeNode", onEnd: OnFile
    ) -> Callable[[], None]:
        """Call `onEnd` with the volume's file, after writing it if necessary.

        Returns a function that stops the writing; `onEnd` is then not called.
        """
        volumeId, state = volume.GetID(), volumeState(volume)
        kept = self._fileOf(volumeId, state)
        if kept is not None:
            onEnd(kept, None)
            return lambda: None
        folder = WorkFolder()
        file = folder.path / FILE

        def written(error: Exception | None) -> None:
            self._writings.remove(writing)
            kept = self._fileOf(volumeId, state)  # written by another request meanwhile
            if error is not None or kept is not None:
                folder.remove()
                onEnd(kept, error if kept is None else None)
                return
            self.forget(volumeId)
            self._kept[volumeId] = (folder, file, state)
            onEnd(file, None)

        def stop() -> None:
            if writing in self._writings:
                self._writings.remove(writing)
                writing.stop()

        writing = _Writing(Transfer(writeNpy(voxelsOf(volume), file), written), folder, onEnd)
        self._writings.append(writing)
        return stop

    def _fileOf(self, volumeId: str, state: tuple[object, ...]) -> Path | None:
        kept = self._kept.get(volumeId)
        return kept[1] if kept is not None and kept[2] == state and kept[1].exists() else None

    def forget(self, volumeId: str) -> None:
        """Remove the file of a volume."""
        kept = self._kept.pop(volumeId, None)
        if kept is not None:
            kept[0].remove()

    def clear(self) -> None:
        """Remove all files, also those being written."""
        writings, self._writings = self._writings, []
        for writing in writings:
            writing.stop()
            writing.onEnd(None, None)
        for volumeId in list(self._kept):
            self.forget(volumeId)
