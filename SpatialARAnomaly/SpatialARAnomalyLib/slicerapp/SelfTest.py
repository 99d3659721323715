"""The self-test in Slicer: detect the lesion of a sample head with the demonstration model."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import SkipTest

import slicer

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.service.models.listing import list_models
from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.QtHelpers import waitFor
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import peakOf, readRows
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import rasFromVoxel
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.tasks.Detection import (
    DEMONSTRATION_FILE,
    DetectionSettings,
    Outcome,
)
from SpatialARAnomalyLib.slicerapp.tasks.SampleHeads import LESION, requestSampleHead

TIMEOUT_MS = 600_000
"""Milliseconds for one step; the training takes some minutes on two cores."""

NOT_INSTALLED = ("package-missing", "torch-missing")
"""Errors of a Slicer without the packages of this extension, as on its build machines."""


def waitForAnswer(start: Callable[[Callable[[Any], None]], None]) -> Any:
    """Return what a step passes to its callback; raises `AssertionError` after the time-out."""
    try:
        return waitFor(start, TIMEOUT_MS)
    except TimeoutError as error:
        raise AssertionError(str(error)) from None


def detectInSampleHead(logic: Logic, models: Path | None = None) -> Result:
    """Detect anomalies in the head with a lesion and check the scene; raises `AssertionError`.

    Trains the demonstration model unless the folder `models` holds it. Skips
    the test if the extension's packages are not installed.
    """
    with tempfile.TemporaryDirectory(dir=slicer.app.temporaryPath) as temporary:
        models = models or Path(temporary)
        if not (models / DEMONSTRATION_FILE).exists():
            outcome: Outcome = waitForAnswer(
                lambda end: logic.makeDemonstrationModel(models, Device.CPU, end)
            )
            if outcome.error is not None and outcome.error.code in NOT_INSTALLED:
                raise SkipTest(str(outcome.error))
            assert outcome.error is None, outcome.error
        (entry,) = [one for one in list_models(models) if one.path.name == DEMONSTRATION_FILE]
        assert entry.card is not None, entry.error
        scan = waitForAnswer(lambda end: requestSampleHead(LESION, logic.worker, end))
        assert scan.GetClassName() == "vtkMRMLScalarVolumeNode", scan
        settings = DetectionSettings(
            model=entry.path,
            falsePositiveRate=FindingsSpec.false_positive_rate,
            leastVolumeMl=FindingsSpec.min_volume_ml,
            device=Device.CPU,
            allowMismatch=False,
        )
        outcome = waitForAnswer(lambda end: logic.startDetection(scan, settings, end))
    assert outcome.error is None, outcome.error
    result = outcome.result
    assert result is not None, "cancelled"
    checkResult(result, scan)
    return result


def checkResult(result: Result, scan: "slicer.vtkMRMLScalarVolumeNode") -> None:
    """Check the nodes of a result against its scan."""
    rows = readRows(result.table)
    assert rows, "the lesion was not found"
    assert abs(rasFromVoxel(result.volume) - rasFromVoxel(scan)).max() < 1e-9
    assert result.volume.GetImageData().GetDimensions() == scan.GetImageData().GetDimensions()
    segments = result.segmentation.GetSegmentation()
    assert segments.GetNumberOfSegments() == len(rows)
    display = result.volume.GetDisplayNode()
    assert not display.GetAutoWindowLevel()
    assert abs(display.GetLowerThreshold() - result.threshold) < 1e-6
    voxels = slicer.util.arrayFromVolume(result.volume)
    assert abs(float(voxels.max()) - rows[0]["peak_nll"]) < 1e-4
    assert all(abs(one) < 500 for one in peakOf(rows[0]))
