"""The tutorial from beginning to end: self-test, sample head, click, and what is to be seen."""

import shutil
import sys

import numpy as np
import pytest
from Harness import run_events
from slicerapp.heads import detected
from SpatialARAnomalyLib.service.demo.demo import head_with_lesion

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory, demo_run):
    """Holds the demonstration model: the demo's is the same, and takes a minute or two."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(demo_run / "model.safetensors", folder / "demonstration-head.safetensors")
    return folder


def test_the_self_test_passes(opened, models_folder):
    sys.modules["SpatialARAnomaly"].SpatialARAnomalyTest.modelsFolder = models_folder
    opened.module.runTest(msec=1)


def test_the_self_test_fails_where_the_lesion_is_not_found(opened, models_folder, monkeypatch):
    from SpatialARAnomalyLib.slicerapp import SelfTest

    sys.modules["SpatialARAnomaly"].SpatialARAnomalyTest.modelsFolder = models_folder
    monkeypatch.setattr(SelfTest, "readRows", lambda table: [])
    with pytest.raises(AssertionError, match="the lesion was not found"):
        opened.module.runTest(msec=1)


def test_the_self_test_is_skipped_where_torch_is_not_installed(opened, monkeypatch, tmp_path):
    import unittest

    from SpatialARAnomalyLib.engine.errors import DeviceError
    from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome

    missing = DeviceError("torch-missing", "Training and detection need torch.")
    monkeypatch.setattr(
        sys.modules["SpatialARAnomaly"].SpatialARAnomalyLogic,
        "makeDemonstrationModel",
        lambda self, models, device, onEnd: onEnd(Outcome(error=missing)),
    )
    sys.modules["SpatialARAnomaly"].SpatialARAnomalyTest.modelsFolder = tmp_path
    with pytest.raises(unittest.SkipTest, match="need torch"):
        opened.module.runTest(msec=1)


@pytest.fixture
def tutorial(opened, rendering, app):
    """The sample head with a lesion, detected in, as a user who follows the tutorial sees it."""
    import SampleData
    from SpatialARAnomalyLib.slicerapp.tasks.SampleHeads import (
        LESION,
        sampleNames,
    )

    views = [app.layoutManager().sliceWidget(name).view for name in ("Red", "Yellow", "Green")]
    for view in views:
        view.pixels()  # as in Slicer, the views are there before the volume
    SampleData.click_sample(sampleNames()[LESION])
    run_events()
    assert opened.ui.inputSelector.currentNode().GetName() == "HeadWithLesion"
    before = views[0].pixels().astype(int)
    result = detected(opened)
    assert result is not None, opened.ui.statusLabel.text
    run_events()
    return result, views, before


def is_colored(pixels: np.ndarray) -> np.ndarray:
    """Where a picture is not gray."""
    return (pixels.max(axis=-1).astype(int) - pixels.min(axis=-1)) > 25


def test_overlay_and_outline_are_on_the_lesion(tutorial):
    """In the axial view: colored where the lesion is, gray elsewhere, the outline around it."""
    result, (red, _yellow, _green), before = tutorial
    head, lesion = head_with_lesion(1)
    assert not is_colored(before).any()
    pixels = red.pixels()
    k = int(np.argmax(lesion.sum(axis=(1, 2))))
    red_node_s = red.logic.GetSliceNode().GetSliceToRAS().GetElement(2, 3)
    shown_k = round(float((np.linalg.inv(head.ras_from_voxel) @ [0, 0, red_node_s, 1])[2]))
    assert lesion[shown_k].any(), (shown_k, k)
    inside, outside = [], []
    import slicer

    first = slicer.util.arrayFromSegmentBinaryLabelmap(
        result.segmentation, "Finding_1", result.scan
    )
    # On the right voxels; how much of the lesion is found depends on a short training.
    assert np.count_nonzero(first & lesion) > 0.5 * np.count_nonzero(first)
    shown = slicer.util.arrayFromVolume(result.volume)[shown_k] >= result.threshold
    colored_pixels = is_colored(pixels)
    for j in range(lesion.shape[1]):
        for i in range(lesion.shape[2]):
            ras = (head.ras_from_voxel @ [i, j, shown_k, 1.0])[:3]
            row, column = (round(float(one)) for one in red.pixel_of(ras))
            if not (0 <= row < pixels.shape[0] and 0 <= column < pixels.shape[1]):
                continue
            around = shown[max(j - 1, 0) : j + 2, max(i - 1, 0) : i + 2]
            colored = bool(colored_pixels[row, column])
            if around.all():
                inside.append(colored)
            elif not around.any():
                outside.append(colored)
    assert len(inside) > 5
    assert np.mean(inside) > 0.98
    assert np.mean(outside) < 0.01
    # The outline has the color of the first finding's segment.
    color = np.round(
        np.array(result.segmentation.GetSegmentation().GetNthSegment(0).GetColor()) * 255
    )
    outline = np.abs(pixels.astype(int) - color).max(axis=-1) < 12
    rows, columns = np.nonzero(outline)
    assert rows.size > 30
    center = np.argwhere(first[shown_k]).mean(axis=0)
    ras = (head.ras_from_voxel @ [center[1], center[0], shown_k, 1.0])[:3]
    assert (rows.mean(), columns.mean()) == pytest.approx(red.pixel_of(ras), abs=12)


def test_a_stricter_threshold_shows_less_at_once(tutorial, opened):
    _result, (red, _yellow, _green), _before = tutorial
    shown = []
    for value in (1.0, 2.0, 3.0):
        opened.ui.thresholdSlider.setValue(value)
        shown.append(np.count_nonzero(is_colored(red.pixels())))
    assert shown[0] > shown[1] > shown[2]


def test_the_three_samples_are_offered(opened):
    import slicer

    sources = slicer.modules.sampleDataSources["SpatialARAnomaly"]
    # Every start of the application that a test makes registers them again.
    names = list(dict.fromkeys(source.sampleName for source in sources))
    assert names == ["Normal head (generated)", "Head with lesion (generated)", "MRHead"]
