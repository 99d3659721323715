"""Sample data made on this computer: seeded generated heads, one of them with a lesion."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.slicerapp.QtHelpers import waitFor
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import setRasFromVoxel
from SpatialARAnomalyLib.slicerapp.tasks.Detection import outcomeOf
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError, inOneLine
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import WorkFolder
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess, sharedWorker

CATEGORY = "SpatialARAnomaly"

NO_ADDRESS = ""
"""Address of a sample that is not downloaded; Slicer requires a string."""

NORMAL, LESION = "normal", "lesion"


def sampleNames() -> dict[str, str]:
    """Return the samples' names in the Sample Data module."""
    return {NORMAL: _("Normal head (generated)"), LESION: _("Head with lesion (generated)")}


def registerSampleData(icons: Path) -> None:
    """Add the generated heads, and Slicer's own MRHead, to the Sample Data module."""
    from SampleData import SampleDataLogic

    setTitle = getattr(SampleDataLogic, "registerCustomSampleDataCategory", None)
    if setTitle is not None:
        setTitle(CATEGORY, title=_("Anomaly detection"))

    def register(kind: str, name: str, load: Callable[[], Any]) -> None:
        SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=name,
            thumbnailFileName=str(icons / f"SampleHead_{kind}.png"),
            uris=NO_ADDRESS,
            customDownloader=lambda source: [load()],
        )

    for kind, name in sampleNames().items():
        register(kind, name, lambda kind=kind: loadSampleHead(kind))
    # Slicer downloads its own sample when the user clicks it.
    register("MRHead", "MRHead", lambda: SampleDataLogic().downloadSample("MRHead"))


def loadSampleHead(
    kind: str, worker: WorkerProcess | None = None
) -> "slicer.vtkMRMLScalarVolumeNode | None":
    """Return the head as a volume node shown in the views; None after an error, which is displayed.

    Waits for the worker in an event loop, so that Slicer stays responsive.
    """
    try:
        answer = waitFor(lambda end: requestSampleHead(kind, worker or sharedWorker(), end))
    except OSError as error:  # no folder for the file
        answer = error
    if isinstance(answer, Exception):
        slicer.util.errorDisplay(inOneLine(asUserError(answer)))
        return None
    slicer.util.setSliceViewerLayers(background=answer, fit=True)
    return answer


def requestSampleHead(kind: str, worker: WorkerProcess, onEnd: Callable[[Any], None]) -> None:
    """Make a head in the worker; `onEnd` receives its volume node or an exception."""
    folder = WorkFolder()

    def onAnswer(event: dict[str, Any]) -> None:
        try:
            answer = _addHead(event, kind)
        except Exception as error:
            answer = error
        folder.remove()
        onEnd(answer)

    worker.submit("sample", spec={"kind": kind}, output=folder.path / "sample", onEnd=onAnswer)


def _addHead(event: dict[str, Any], kind: str) -> "slicer.vtkMRMLScalarVolumeNode":
    if event["event"] != "result":
        error = outcomeOf(event).error
        raise error or SpatialARError("cancelled", _("Making the sample was cancelled."))
    voxels = np.load(event["files"]["voxels"], allow_pickle=False)
    name = {NORMAL: "NormalHead", LESION: "HeadWithLesion"}[kind]
    node = slicer.util.addVolumeFromArray(voxels, name=slicer.mrmlScene.GenerateUniqueName(name))
    setRasFromVoxel(node, np.asarray(event["ras_from_voxel"]))
    return node
