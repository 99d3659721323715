"""The NLL of the voxel under the mouse, and how rare it is in normal scans."""

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.service.text import rate_text
from SpatialARAnomalyLib.slicerapp.QtHelpers import singleShotTimer
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import (
    localFromWorld,
    rasFromVoxel,
    voxelsOf,
)
from SpatialARAnomalyLib.slicerapp.scene.Result import Result

WAIT_MS = 50
"""Milliseconds between two updates while the mouse moves."""


class VoxelReadout:
    """Follows the mouse in the slice views while a result is under review."""

    def __init__(self, label: "qt.QLabel") -> None:
        self._label = label
        self._result: Result | None = None
        self.active = False
        self._timer = singleShotTimer(WAIT_MS)
        self._timer.timeout.connect(self._show)
        self._crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        self._tag = None
        if self._crosshair is not None:
            event = slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent
            self._tag = self._crosshair.AddObserver(event, self._onMoved)
        self._show()

    def cleanup(self) -> None:
        """Stop following the mouse."""
        self._timer.stop()
        self._timer.timeout.disconnect(self._show)
        if self._tag is not None:
            self._crosshair.RemoveObserver(self._tag)

    def setResult(self, result: Result | None) -> None:
        """Read the voxels of this result."""
        self._result = result
        self._show()

    def _onMoved(self, *_unused: object) -> None:
        if self.active and self._result is not None and not self._timer.isActive():
            self._timer.start()

    def _show(self) -> None:
        self._label.setText(self._text())

    def _text(self) -> str:
        if self._result is None:
            return ""
        place = [0.0, 0.0, 0.0]
        nll = None
        if self._crosshair is not None and self._crosshair.GetCursorPositionRAS(place):
            nll = nllAt(self._result, (place[0], place[1], place[2]))
        if nll is None:
            return _("Point at the scan to read how unlikely it is.")
        return readout(self._result, nll)


def nllAt(result: Result, ras: tuple[float, float, float]) -> float | None:
    """Return the NLL of the voxel at a point of the scene (RAS mm); None outside of the scan."""
    local = localFromWorld(result.volume, ras)
    ijk = np.rint((np.linalg.inv(rasFromVoxel(result.volume)) @ [*local, 1.0])[:3]).astype(int)
    voxels = voxelsOf(result.volume)
    kji = tuple(int(one) for one in ijk[::-1])
    if not all(0 <= one < size for one, size in zip(kji, voxels.shape, strict=True)):
        return None
    return float(voxels[kji])


def readout(result: Result, nll: float) -> str:
    """Return an NLL, and the share of the voxels of normal scans that reach it."""
    calibration = result.calibration
    rate = calibration.rate(nll)
    if rate > 0.5:
        return _("NLL {nll}: usual in normal scans").format(nll=f"{nll:.2f}")
    text = _("NLL {nll}: {rate} voxels of normal scans")
    if nll > calibration.nll[-1]:
        text = _("NLL {nll}: rarer than {rate} voxels of normal scans")
    return text.format(nll=f"{nll:.2f}", rate=rate_text(rate))
