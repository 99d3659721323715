"""Scans of the scene as files that the worker reads, whatever becomes of the scene."""

from collections.abc import Callable, Sequence
from typing import Any

import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import (
    modalityOf,
    rasFromVoxel,
    volumeState,
    voxelsOf,
)
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import (
    Transfer,
    WorkFolder,
    writeNpy,
)

Source = dict[str, Any]
"""A scan as the worker's jobs take it."""


class SceneScans:
    """Writes volumes into one folder, in steps; `onEnd` is called once, never after `stop`."""

    def __init__(
        self,
        volumes: Sequence["slicer.vtkMRMLScalarVolumeNode"],
        onProgress: Callable[[int, int], None],
        onEnd: Callable[[list[Source], Exception | None], None],
    ) -> None:
        self._onProgress = onProgress
        self._onEnd = onEnd
        self._sources: list[Source] = []
        self._volumes = [node.GetID() for node in volumes]
        self._transfer: Transfer | None = None
        self.folder = WorkFolder()
        self._next()

    def stop(self) -> None:
        """Write no more, and remove what was written."""
        if self._transfer is not None:
            self._transfer.cancel()
            self._transfer = None
        self.folder.remove()

    def _next(self) -> None:
        done = len(self._sources)
        self._onProgress(done, len(self._volumes))
        if done == len(self._volumes):
            self._onEnd(self._sources, None)
            return
        node = slicer.mrmlScene.GetNodeByID(self._volumes[done])
        if node is None:
            self._end(_changed())
            return
        state = volumeState(node)
        file = self.folder.path / f"scan-{done}.npy"
        source = {
            "voxels": str(file),
            "affine": rasFromVoxel(node).tolist(),
            "name": node.GetName(),
            "modality": modalityOf(node),
        }

        def written(error: Exception | None) -> None:
            self._transfer = None
            if error is None and volumeState(node) != state:
                error = _changed()
            if error is not None:
                self._end(error)
                return
            self._sources.append(source)
            self._next()

        self._transfer = Transfer(writeNpy(voxelsOf(node), file), written)

    def _end(self, error: Exception) -> None:
        self.folder.remove()
        self._onEnd([], error)


def _changed() -> InputError:
    return InputError("scan-changed", _("A scan was changed or deleted while it was handed over."))
