"""Sample data that needs no download: seeded heads of nobody, one of them with a lesion."""

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
from SpatialARAnomalyLib.slicerapp.wording.Errors import (
    asUserError,
    inOneLine,
)
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import WorkFolder
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess, sharedWorker

CATEGORY = "SpatialARAnomaly"

NOT_FETCHED = ""
"""Slicer takes the length of a sample's addresses, also of one that has none."""

NORMAL, LESION = "normal", "lesion"


def sampleNames() -> dict[str, str]:
    """The samples as Sample Data lists them."""
    return {NORMAL: _("Normal head (generated)"), LESION: _("Head with lesion (generated)")}


def registerSampleData(icons: Path) -> None:
    """Add the heads, and Slicer's own MRHead, to the Sample Data module."""
    from SampleData import SampleDataLogic

    title = getattr(SampleDataLogic, "registerCustomSampleDataCategory", None)
    if title is not None:
        title(CATEGORY, title=_("Anomaly detection"))
    for kind, name in sampleNames().items():
        SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=name,
            thumbnailFileName=str(icons / f"SampleHead_{kind}.png"),
            uris=NOT_FETCHED,
            customDownloader=lambda source, kind=kind: [loadSampleHead(kind)],
        )
    # Slicer's own sample, fetched by Slicer when the user clicks it.
    SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName="MRHead",
        thumbnailFileName=str(icons / "SampleHead_MRHead.png"),
        uris=NOT_FETCHED,
        customDownloader=lambda source: [SampleDataLogic().downloadSample("MRHead")],
    )


def loadSampleHead(
    kind: str, worker: WorkerProcess | None = None
) -> "slicer.vtkMRMLScalarVolumeNode | None":
    """The head as a volume node, shown in the views; None after an error, which is displayed.

    Waits for the worker in an event loop of its own, so that Slicer stays alive.
    """
    try:
        answer = waitFor(lambda end: requestSampleHead(kind, worker or sharedWorker(), end))
    except OSError as error:  # no folder for its file
        answer = error
    if isinstance(answer, Exception):
        slicer.util.errorDisplay(inOneLine(asUserError(answer)))
        return None
    slicer.util.setSliceViewerLayers(background=answer, fit=True)
    return answer


def requestSampleHead(kind: str, worker: WorkerProcess, onEnd: Callable[[Any], None]) -> None:
    """Have the worker make a head; `onEnd` gets its volume node or an exception."""
    folder = WorkFolder()

    def answered(event: dict[str, Any]) -> None:
        try:
            answer = _volumeOf(event, kind)
        except Exception as error:
            answer = error
        folder.remove()
        onEnd(answer)

    worker.submit("sample", spec={"kind": kind}, output=folder.path / "sample", onEnd=answered)


def _volumeOf(event: dict[str, Any], kind: str) -> "slicer.vtkMRMLScalarVolumeNode":
    if event["event"] != "result":
        outcome = outcomeOf(event)
        raise outcome.error or SpatialARError("cancelled", _("Making the sample was cancelled."))
    voxels = np.load(event["files"]["voxels"], allow_pickle=False)
    affine = np.asarray(event["ras_from_voxel"], dtype=float)
    name = {NORMAL: "NormalHead", LESION: "HeadWithLesion"}[kind]
    node = slicer.util.addVolumeFromArray(voxels, name=slicer.mrmlScene.GenerateUniqueName(name))
    setRasFromVoxel(node, affine)
    return node
