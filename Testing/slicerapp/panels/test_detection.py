"""A click on *Detect anomalies*: overlay, segments and table, on the voxels they came from."""

import numpy as np
import pytest
from Harness import run_events
from scipy.spatial.transform import Rotation
from slicerapp.heads import add_head, add_volume, detected, head_with_lesion, near


@pytest.fixture
def lenient(opened):
    """The module, searching scans that are unlike the model's normal scans all the same."""
    opened.ui.allowMismatchCheckBox.setChecked(True)
    return opened


def choose(module, node) -> None:
    module.ui.inputSelector.setCurrentNode(node)
    run_events()


def world(node, kji: np.ndarray) -> np.ndarray:
    """Where voxels [k, j, i] are in the scene, RAS mm."""
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    local = slicer.util.arrayFromVTKMatrix(matrix) @ np.append(kji[::-1], 1.0)
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        node.GetParentTransformNode(), None, transform
    )
    return np.array(transform.TransformPoint(*local[:3]))


def test_the_lesion_is_found_and_all_parts_are_in_the_scene(opened):
    import slicer

    scan, lesion = add_head()
    choose(opened, scan)
    result = detected(opened)
    assert result is not None, opened.ui.statusLabel.text
    assert result.scan.GetID() == scan.GetID()
    nll = slicer.util.arrayFromVolume(result.volume)
    assert nll.dtype == np.float32
    assert nll.shape == lesion.shape
    assert nll[lesion].mean() > 2 * np.median(nll[~lesion])
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import readRows

    rows = readRows(result.table)
    assert near(lesion, np.unravel_index(nll.argmax(), nll.shape))
    segments = result.segmentation.GetSegmentation()
    assert segments.GetNumberOfSegments() == len(rows) >= 1
    first = slicer.util.arrayFromSegmentBinaryLabelmap(result.segmentation, "Finding_1", scan)
    assert np.count_nonzero(first) == rows[0]["voxels"]
    assert nll[first > 0].min() >= result.threshold - 1e-6
    assert nll[first > 0].max() == pytest.approx(rows[0]["peak_nll"], abs=1e-4)
    assert opened.ui.legendMiddleLabel.text == "1 in 10,000"
    display = result.volume.GetDisplayNode()
    assert not display.GetAutoWindowLevel()
    assert display.GetLowerThreshold() == pytest.approx(result.threshold)
    assert opened.ui.resultSelector.currentNode().GetID() == result.id
    assert str(len(rows)) in opened.ui.statusLabel.text


def test_a_mask_says_where_to_look(opened):
    """Nothing else has a score; another volume has no mask."""
    import slicer

    scan, _ = add_head()
    choose(opened, scan)
    shape = slicer.util.arrayFromVolume(scan).shape
    half = np.zeros(shape, np.uint8)
    half[:, :, : shape[2] // 2] = 2
    mask = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "left")
    slicer.util.updateVolumeFromArray(mask, half)
    mask.CopyOrientation(scan)
    opened.ui.maskSelector.setCurrentNode(mask)
    result = detected(opened)
    assert result is not None, opened.ui.statusLabel.text
    nll = slicer.util.arrayFromVolume(result.volume)
    assert (nll[half == 0] == nll.min()).all()
    assert (nll[half > 0] > nll.min()).any()
    other, _ = add_head()
    choose(opened, other)
    assert opened.ui.maskSelector.currentNode() is None


def test_nothing_of_the_segments_says_more_than_is_known(opened):
    import slicer

    scan, _ = add_head()
    choose(opened, scan)
    result = detected(opened)
    segment = result.segmentation.GetSegmentation().GetNthSegment(0)
    entry = slicer.vtkSlicerTerminologyEntry()
    terms = slicer.modules.terminologies.logic()
    assert terms.DeserializeTerminologyEntry(segment.GetTerminology(), entry)
    assert entry.GetTypeObject().GetCodeMeaning() == "Abnormal Region"
    assert entry.GetTypeObject().GetCodeValue() == "122451"
    assert entry.GetCategoryObject().GetCodeValue() == "49755003"


def test_the_result_is_the_command_lines(opened, site, tmp_path):
    """What the panel shows is what `detect` writes for the same scan and model."""
    import nibabel as nib
    import slicer
    from service.small_site import run
    from SpatialARAnomalyLib.engine.volumes.files import write_nrrd
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import readRows

    head, _ = head_with_lesion()
    write_nrrd(tmp_path / "scan.nrrd", head.voxels, head.ras_from_voxel)
    done = run(
        "detect", tmp_path / "scan.nrrd", "--model", site.model, "--out", tmp_path / "out",
        "--device", "cpu",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    choose(opened, add_volume(head.voxels, head.ras_from_voxel))
    result = detected(opened)
    labels = np.asarray(nib.load(tmp_path / "out" / "scan_labels.nii.gz").dataobj).T
    rows = readRows(result.table)
    assert labels.max() == len(rows)
    for row in rows:
        name = f"Finding_{row['rank']}"
        mine = slicer.util.arrayFromSegmentBinaryLabelmap(result.segmentation, name, result.scan)
        assert np.array_equal(mine > 0, labels == row["rank"])


OBLIQUE = Rotation.from_euler("xyz", [14.0, -4.0, 16.0], degrees=True).as_matrix()


def placed(kind: str, affine: np.ndarray) -> np.ndarray:
    placed = affine.copy()
    if kind == "oblique left-handed":
        placed[:3, :3] = OBLIQUE @ affine[:3, :3] @ np.diag([1, 1, -1])
    if kind == "sheared":
        placed[:3, :3] = np.array([[1, 0.1, 0], [0, 1, 0.05], [0, 0, 1]]) @ affine[:3, :3]
    return placed


@pytest.mark.parametrize("kind", ["plain", "oblique left-handed", "sheared", "transformed"])
def test_overlay_and_segments_lie_on_the_lesion(kind, lenient, scene):
    import slicer
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import readRows

    head, lesion = head_with_lesion()
    scan = add_volume(head.voxels, placed(kind, head.ras_from_voxel))
    if kind == "transformed":
        transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        move = np.eye(4)
        move[:3, :3], move[:3, 3] = OBLIQUE, [40.0, -25.0, 10.0]
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(move))
        scan.SetAndObserveTransformNodeID(transform.GetID())
    choose(lenient, scan)
    result = detected(lenient)
    assert result is not None, lenient.ui.statusLabel.text
    nll = slicer.util.arrayFromVolume(result.volume)
    peak = np.array(np.unravel_index(nll.argmax(), nll.shape))
    assert near(lesion, peak)
    # The overlay's voxels are where the scan's are, in the scene.
    for corner in (np.zeros(3), np.array(nll.shape) - 1, peak):
        assert world(result.volume, corner) == pytest.approx(world(scan, corner), abs=1e-6)
    # A click leads to the peak, in the scene.
    lenient.ui.findingsTable.selectRow(0)
    place = lenient.widget.panel.review._place(readRows(result.table)[0])
    assert place == pytest.approx(world(scan, peak), abs=2e-3)
    offsets = [
        node.GetSliceToRAS().GetElement(row, 3)
        for node, row in ((scene.GetNodeByID("vtkMRMLSliceNodeRed"), 2),)
    ]
    assert offsets == pytest.approx([place[2]], abs=0.01)
    # Segments: the voxels of the table, brought back onto the scan's grid by Slicer itself.
    first = slicer.util.arrayFromSegmentBinaryLabelmap(result.segmentation, "Finding_1", scan)
    assert np.count_nonzero(first) == readRows(result.table)[0]["voxels"]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_every_kind_of_voxel_is_searched(dtype, opened):
    head, lesion = head_with_lesion()
    voxels = head.voxels.astype(float)
    voxels = np.rint(voxels / voxels.max() * 250).astype(dtype)
    choose(opened, add_volume(voxels, head.ras_from_voxel))
    result = detected(opened)
    assert result is not None, opened.ui.statusLabel.text
    import slicer

    nll = slicer.util.arrayFromVolume(result.volume)
    assert near(lesion, np.unravel_index(nll.argmax(), nll.shape))


def test_a_single_slice_is_searched(lenient):
    import slicer

    head, lesion = head_with_lesion()
    k = int(lesion.sum(axis=(1, 2)).argmax())
    affine = head.ras_from_voxel @ np.array(
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, k], [0, 0, 0, 1.0]]
    )
    choose(lenient, add_volume(np.ascontiguousarray(head.voxels[k : k + 1]), affine))
    result = detected(lenient)
    assert result is not None, lenient.ui.statusLabel.text
    nll = slicer.util.arrayFromVolume(result.volume)
    assert near(lesion, (k, *np.unravel_index(nll[0].argmax(), nll[0].shape)))


def test_an_earlier_result_stays(opened):
    from SpatialARAnomalyLib.slicerapp.scene.Result import Result

    scan, _ = add_head()
    choose(opened, scan)
    first, second = detected(opened), detected(opened)
    assert {result.id for result in Result.all()} == {first.id, second.id}
    assert first.volume.GetName() != second.volume.GetName()
    assert opened.ui.resultSelector.currentNode().GetID() == second.id
    # Only the segments of the result under review are seen.
    assert not first.segmentation.GetDisplayNode().GetVisibility()
    assert second.segmentation.GetDisplayNode().GetVisibility()


def test_the_second_detection_loads_nothing(opened, warm_worker):
    ended = []
    submit = warm_worker.submit

    def noting(job, *, onEnd, **more):
        return submit(job, onEnd=lambda event: (ended.append(event), onEnd(event)), **more)

    warm_worker.submit = noting
    try:
        choose(opened, add_head()[0])
        assert detected(opened)
        assert detected(opened)
    finally:
        del warm_worker.submit
    assert ended[-1]["warm"] == {"encoder": True, "model": True}


def test_views_show_the_overlay_and_can_be_restored(opened, scene):
    import slicer

    other, _ = add_head("Before", seed=23)
    slicer.util.setSliceViewerLayers(background=other, foreground=None)
    scan, _ = add_head()
    choose(opened, scan)
    assert not opened.widget.panel.review.restoreAction.isEnabled()
    result = detected(opened)
    red = scene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    assert red.GetBackgroundVolumeID() == scan.GetID()
    assert red.GetForegroundVolumeID() == result.id
    assert red.GetForegroundOpacity() == 0.5
    opened.ui.opacitySlider.setValue(0.8)
    assert red.GetForegroundOpacity() == 0.8
    opened.widget.panel.review.restoreAction.trigger()
    assert red.GetBackgroundVolumeID() == other.GetID()
    assert red.GetForegroundVolumeID() is None
    assert not result.segmentation.GetDisplayNode().GetVisibility()


def vector_volume(scene):
    import slicer

    voxels = np.zeros((3, 4, 5, 3), np.uint8)
    node = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode")
    slicer.util.updateVolumeFromArray(node, voxels)
    return node


def label_map(scene):
    import slicer

    node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    slicer.util.updateVolumeFromArray(node, np.ones((3, 4, 5), np.uint8))
    return node


def without_voxels(scene):
    return scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")


def sequence_proxy(scene):
    import slicer

    frames = scene.AddNewNodeByClass("vtkMRMLSequenceNode")
    for number in range(2):
        frame = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        slicer.util.updateVolumeFromArray(frame, np.full((3, 4, 5), number, np.int16))
        frames.SetDataNodeAtValue(frame, str(number))
        scene.RemoveNode(frame)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.SetAndObserveMasterSequenceNodeID(frames.GetID())
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    return browser.GetProxyNode(frames)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda scene: None, "No volume is chosen"),
        (label_map, "label map"),
        (vector_volume, "Expected one value per voxel"),
        (without_voxels, "no voxels"),
        (sequence_proxy, "sequence"),
    ],
    ids=["none", "label map", "color", "empty", "sequence"],
)
def test_what_is_no_scan_is_refused_with_a_sentence(make, says, opened, scene):
    from SpatialARAnomalyLib.engine.device import Device
    from SpatialARAnomalyLib.engine.errors import InputError
    from SpatialARAnomalyLib.slicerapp.tasks.Detection import DetectionSettings

    node = make(scene)
    opened.widget.panel._parameters.inputVolume = node
    run_events()
    before = scene.GetNumberOfNodes()
    assert not opened.ui.detectButton.isEnabled()
    assert says in opened.ui.detectButton.toolTip
    opened.ui.detectButton.click()
    settings = DetectionSettings(
        model=opened.widget.panel.detect._models[0].path,
        falsePositiveRate=0.001,
        leastVolumeMl=0.5,
        device=Device.CPU,
        allowMismatch=True,
    )
    with pytest.raises(InputError, match=says):
        opened.widget.logic.startDetection(node, settings, lambda outcome: None)
    assert scene.GetNumberOfNodes() == before
    assert not opened.widget.logic.busy


def test_results_lie_beside_the_scan_in_the_subject_hierarchy(scene):
    """As DICOM export needs it. Slicer makes the items; here the test does."""
    import slicer
    from SpatialARAnomalyLib.slicerapp.tasks.Detection import placeBeside

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    scan = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Scan")
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "Findings")
    placeBeside(table, scan)  # without items there is nothing to do
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.CreateItem(study, scan)
    item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), table)
    placeBeside(table, scan)
    assert hierarchy.GetItemParent(item) == study


def test_an_overlay_is_not_searched_itself(opened):
    choose(opened, add_head()[0])
    result = detected(opened)
    opened.widget.panel._parameters.inputVolume = result.volume
    run_events()
    assert "overlay of an earlier detection" in opened.ui.detectButton.toolTip


def test_a_scan_unlike_the_models_normals_is_refused_in_the_panels_words(opened, scene):
    head, _ = head_with_lesion()
    affine = head.ras_from_voxel @ np.diag([1, 1, 0.1, 1])
    choose(opened, add_volume(head.voxels, affine))
    before = scene.GetNumberOfNodes()
    assert detected(opened) is None
    assert "under 'Advanced'" in opened.ui.statusLabel.text
    assert "--" not in opened.ui.statusLabel.text
    assert scene.GetNumberOfNodes() == before
