"""Export: what other programs read from the files is what the scene holds."""

import sys
import types
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import slicerio
from engine.dicom_examples import Series
from Harness import run_events, wait_until
from pydicom.uid import MRImageStorage
from slicerapp.heads import add_volume, detected, head_with_lesion
from slicerapp.panels.test_detection import placed
from slicerapp.panels.test_review import mask, rows_of
from slicerapp.results import AFFINE, add_result, blobs

pytestmark = pytest.mark.slow

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def reviewed_result(module, kind: str = "plain"):
    """A result with a review, on a grid placed so."""
    module.ui.allowMismatchCheckBox.setChecked(True)
    module.ui.leastVolumeSpinBox.setValue(0.0)
    head, _ = head_with_lesion()
    scan = add_volume(head.voxels, placed(kind, head.ras_from_voxel), "Scan é/1")
    module.ui.inputSelector.setCurrentNode(scan)
    module.widget.panel._parameters.falsePositiveRate = 0.05
    run_events()
    result = detected(module)
    assert result is not None, module.ui.statusLabel.text
    assert len(rows_of(result)) >= 2
    return result


def comment(module, rank: int, text: str) -> None:
    view = module.widget.panel.review.view
    module.ui.findingsTable.item(view.rowOf(rank), 5).setText(text)


def export(module, folder, format_: str = "EVERYTHING") -> str:
    """Click *Export* and wait; return the status."""
    ui = module.ui
    ui.exportFormatSelector.setCurrentIndex(ui.exportFormatSelector.findData(format_))
    ui.exportFolderEdit.setCurrentPath(str(folder))
    assert ui.exportButton.isEnabled(), ui.exportButton.toolTip
    ui.exportButton.click()
    wait_until(lambda: not module.widget.panel.export.exporting, 60, "the export")
    return ui.exportStatusLabel.text


def expected_labels(result, skipped=()) -> np.ndarray:
    labels = np.zeros(mask(result, 1).shape, int)
    for row in rows_of(result):
        if row["rank"] not in skipped:
            labels[mask(result, row["rank"])] = row["rank"]
    return labels


def affine_of(image: sitk.Image) -> np.ndarray:
    """RAS from voxel."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return LPS_FROM_RAS @ affine


@pytest.mark.parametrize("kind", ["plain", "oblique left-handed"])
def test_every_file_holds_what_the_scene_does(kind, opened, tmp_path):
    import slicer
    from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import rasFromVoxel

    result = reviewed_result(opened, kind)
    comment(opened, 1, 'Größe, "unklar"')
    comment(opened, 2, "=1+1")
    out = tmp_path / "Ergebnis é 1"
    message = export(opened, out)
    assert message.startswith("Written")
    export(opened, out, "LABELS_NRRD")
    files = {path.name for path in out.iterdir()}
    stem = "Scan_é_1"
    assert files == {
        f"{stem}{suffix}"
        for suffix in (
            "_labels.nii.gz", "_labels.nrrd", "_anomalies.seg.nrrd", "_findings.csv", "_nll.nrrd",
        )
    }  # fmt: skip
    affine, labels = rasFromVoxel(result.volume), expected_labels(result)

    nifti = nib.load(out / f"{stem}_labels.nii.gz")
    assert np.array_equal(np.asarray(nifti.dataobj).T, labels)
    assert nifti.affine == pytest.approx(affine, abs=1e-4)
    for name in (f"{stem}_labels.nii.gz", f"{stem}_labels.nrrd"):
        image = sitk.ReadImage(str(out / name))
        assert np.array_equal(sitk.GetArrayFromImage(image), labels)
        assert affine_of(image) == pytest.approx(affine, abs=1e-4)
    nll = sitk.ReadImage(str(out / f"{stem}_nll.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(nll), slicer.util.arrayFromVolume(result.volume))
    assert affine_of(nll) == pytest.approx(affine, abs=1e-6)

    segmentation = slicerio.read_segmentation(str(out / f"{stem}_anomalies.seg.nrrd"))
    assert [one["name"] for one in segmentation["segments"]] == [
        f"Finding {row['rank']}" for row in rows_of(result)
    ]
    assert LPS_FROM_RAS @ segmentation["ijkToLPS"] == pytest.approx(affine, abs=1e-4)
    assert np.array_equal(segmentation["voxels"].T, labels)

    table = pd.read_csv(out / f"{stem}_findings.csv", keep_default_na=False)
    rows = rows_of(result)
    assert list(table.columns) == [*rows[0], "space"]
    assert set(table["space"]) == {"scan"}
    for column in rows[0]:
        written = list(table[column])
        if column == "comment":
            # A spreadsheet must not compute what a reviewer wrote.
            assert written[0] == 'Größe, "unklar"'
            assert written[1].lstrip("'") == "=1+1"
            assert not written[1].startswith("=")
        else:
            assert written == [row[column] for row in rows], column


def test_a_sheared_grid_keeps_its_voxels_and_places(opened, tmp_path):
    from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import rasFromVoxel

    result = reviewed_result(opened, "sheared")
    message = export(opened, tmp_path / "out", "LABELS_NIFTI")
    assert message.startswith("Written"), message
    (file,) = (tmp_path / "out").iterdir()
    nifti = nib.load(file)
    assert np.array_equal(np.asarray(nifti.dataobj).T, expected_labels(result))
    assert nifti.affine == pytest.approx(rasFromVoxel(result.volume), abs=1e-4)


def test_rejected_findings_stay_out_unless_asked_for(opened, tmp_path):
    result = reviewed_result(opened)
    opened.widget.panel.review.view.choose(1)
    opened.ui.rejectButton.click()
    export(opened, tmp_path / "without", "LABELS_NRRD")
    opened.ui.withRejectedCheckBox.setChecked(True)
    export(opened, tmp_path / "with", "LABELS_NRRD")
    for folder, skipped in (("without", {1}), ("with", set())):
        (file,) = (tmp_path / folder).iterdir()
        voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        assert np.array_equal(voxels, expected_labels(result, skipped))
    opened.ui.withRejectedCheckBox.setChecked(False)
    export(opened, tmp_path / "table", "FINDINGS")
    (file,) = (tmp_path / "table").iterdir()
    assert list(pd.read_csv(file)["status"].fillna("")[:2]) == ["rejected", ""]


def test_edited_and_added_segments_are_exported_as_they_are(opened, tmp_path):
    import slicer

    result = reviewed_result(opened)
    expected = expected_labels(result)
    mine = np.zeros(expected.shape, np.uint8)
    mine[0, :4, :4] = 1
    container = result.segmentation.GetSegmentation()
    container.AddEmptySegment("mine", "Mine")
    slicer.util.updateSegmentBinaryLabelmapFromArray(mine, result.segmentation, "mine", result.scan)
    expected[mine > 0] = expected.max() + 1
    export(opened, tmp_path / "out", "LABELS_NIFTI")
    (file,) = (tmp_path / "out").iterdir()
    assert np.array_equal(np.asarray(nib.load(file).dataobj).T, expected)


def test_segments_of_a_grid_of_their_own_are_brought_to_the_scans(opened, tmp_path):
    """A finer grid, shifted: every voxel of the scan takes what lies at its center."""
    import slicer

    result = reviewed_result(opened)
    from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import rasFromVoxel

    affine = rasFromVoxel(result.volume)
    finer = affine @ np.diag([0.5, 0.5, 0.5, 1.0])
    box = np.zeros((12, 96, 96), np.uint8)
    box[4:8, 20:40, 30:60] = 1
    image = slicer.vtkOrientedImageData()
    from SpatialARAnomalyLib.slicerapp.scene.Segments import (
        _orientedImage,
        binaryLabelmap,
    )

    image = _orientedImage(box, (0, 0, 0), finer)
    container = result.segmentation.GetSegmentation()
    for index in reversed(range(container.GetNumberOfSegments())):
        container.RemoveSegment(container.GetNthSegmentID(index))
    segment = slicer.vtkSegment()
    segment.SetName("Fine")
    segment.SetLabelValue(1)
    segment.AddRepresentation(binaryLabelmap(), image)
    container.AddSegment(segment, "fine")
    export(opened, tmp_path / "out", "LABELS_NIFTI")
    (file,) = (tmp_path / "out").iterdir()
    found = np.asarray(nib.load(file).dataobj).T
    expected = np.zeros(found.shape, int)
    expected[2:4, 10:20, 15:30] = 1
    assert np.array_equal(found, expected)


def test_no_findings_are_exported_too(opened, tmp_path):
    result = reviewed_result(opened)
    opened.ui.leastVolumeSpinBox.setValue(900.0)
    result.leastVolumeMl = 900.0
    opened.widget.panel.review.updateFindings()
    wait_until(lambda: not opened.widget.logic.finding, 60, "the findings")
    assert rows_of(result) == []
    message = export(opened, tmp_path / "out")
    assert message.startswith("Written"), message
    labels = next((tmp_path / "out").glob("*_labels.nii.gz"))
    assert not np.asarray(nib.load(labels).dataobj).any()


def test_existing_files_are_replaced_only_after_a_yes(opened, tmp_path):
    reviewed_result(opened)
    dialogs = opened.widget.panel.dialogs
    export(opened, tmp_path, "FINDINGS")
    (file,) = tmp_path.glob("*.csv")
    file.write_text("mine")
    message = export(opened, tmp_path, "FINDINGS")
    assert len(dialogs.questions) == 1
    assert "⚠" in message
    assert "--" not in message
    assert file.read_text() == "mine"
    dialogs.yes = True
    assert export(opened, tmp_path, "FINDINGS").startswith("Written")
    assert file.read_text() != "mine"


def test_a_folder_that_cannot_be_one_is_told_and_nothing_is_left(opened, tmp_path):
    reviewed_result(opened)
    (tmp_path / "file").write_text("mine")
    message = export(opened, tmp_path / "file")
    assert "⚠" in message
    assert (tmp_path / "file").read_text() == "mine"
    assert opened.ui.exportButton.isEnabled()


def test_the_button_says_why_it_cannot_be_clicked(opened, tmp_path, monkeypatch):
    import slicer

    ui = opened.ui
    assert "No result" in ui.exportButton.toolTip
    result = reviewed_result(opened)
    ui.exportFolderEdit.setCurrentPath("")
    assert "folder" in ui.exportButton.toolTip
    ui.exportFolderEdit.setCurrentPath(str(tmp_path))
    ui.exportFormatSelector.setCurrentIndex(ui.exportFormatSelector.findData("DICOM_SEG"))
    assert "loaded from Slicer's DICOM database" in ui.exportButton.toolTip
    result.scan.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    monkeypatch.setattr(slicer, "dicomDatabase", object(), raising=False)
    opened.widget.panel.export.refresh()
    assert ui.exportButton.isEnabled()
    result.modelFacts = {}
    opened.widget.panel.export.refresh()
    assert "detect again" in ui.exportButton.toolTip
    assert not ui.exportButton.isEnabled()


@pytest.mark.parametrize("problem", ["", "No non empty segments found."])
def test_dicom_seg_is_written_by_slicers_exporter(problem, opened, tmp_path, monkeypatch):
    import slicer

    result = reviewed_result(opened)
    result.scan.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    monkeypatch.setattr(slicer, "dicomDatabase", object(), raising=False)
    asked = []

    class Plugin:
        def examineForExport(self, item):
            asked.append(item)
            return [types.SimpleNamespace()]

        def export(self, exportables):
            asked.append(exportables[0].directory)
            return problem

    module = types.SimpleNamespace(DICOMSegmentationPluginClass=Plugin)
    monkeypatch.setitem(sys.modules, "DICOMSegmentationPlugin", module)
    message = export(opened, tmp_path, "DICOM_SEG")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    assert asked == [hierarchy.GetItemByDataNode(result.segmentation), str(tmp_path)]
    assert (problem in message and "⚠" in message) if problem else message.startswith("Written")


def begin_export(module, folder, format_: str = "EVERYTHING") -> None:
    ui = module.ui
    ui.exportFormatSelector.setCurrentIndex(ui.exportFormatSelector.findData(format_))
    ui.exportFolderEdit.setCurrentPath(str(folder))
    ui.exportButton.click()
    assert not ui.exportButton.isEnabled()
    assert "running" in ui.exportButton.toolTip


@pytest.mark.parametrize("first", ["export", "find"])
def test_export_and_a_new_threshold_do_not_stop_each_other(first, shown, tmp_path):
    module, result = shown
    module.ui.thresholdSlider.setValue(4.2)
    if first == "export":
        begin_export(module, tmp_path)
        module.widget.panel.review.updateFindings()
    else:
        module.widget.panel.review.updateFindings()
        begin_export(module, tmp_path)
    wait_until(lambda: not module.widget.logic.finding, 30, "the findings")
    wait_until(lambda: not module.widget.panel.export.exporting, 30, "the export")
    assert module.ui.exportStatusLabel.text.startswith("Written")
    assert [row["peak_nll"] for row in rows_of(result)] == [4.5]


def test_a_scene_that_closes_ends_the_export(shown, scene, tmp_path):
    module, _result = shown
    begin_export(module, tmp_path / "out")
    scene.Clear(0)
    wait_until(lambda: not module.widget.panel.export.exporting, 30, "the export to end")
    assert "No result" in module.ui.exportButton.toolTip
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_and_leaves_nothing(shown, tmp_path, monkeypatch):
    import slicer

    module, _result = shown
    work = Path(slicer.app.temporaryPath)
    before = set(work.iterdir())

    def full(*_arguments, **_more):
        raise OSError(28, "No space left on device")

    for target in ("numpy.save", "tempfile.mkdtemp"):
        with monkeypatch.context() as patch:
            patch.setattr(target, full)
            message = export(module, tmp_path / "out")
        assert "No space left on device" in message
    assert set(work.iterdir()) == before
    assert not (tmp_path / "out").exists()
    assert export(module, tmp_path / "out").startswith("Written")


def test_what_is_written_says_the_same_without_the_scan(shown, scene, tmp_path):
    module, result = shown
    expected = expected_labels(result)
    scene.RemoveNode(result.scan)
    run_events()
    assert export(module, tmp_path / "new" / "deep", "LABELS_NIFTI").startswith("Written")
    (file,) = (tmp_path / "new" / "deep").iterdir()
    assert np.array_equal(np.asarray(nib.load(file).dataobj).T, expected)


def test_a_no_leaves_all_files_and_a_yes_replaces_all(shown, tmp_path):
    module, _result = shown
    dialogs, out = module.widget.panel.dialogs, tmp_path / "out"
    export(module, out)
    files = sorted(out.iterdir())
    assert len(files) == 4
    written = [file.read_bytes() for file in files]
    files[1].unlink()
    for file in (files[0], *files[2:]):
        file.write_text("mine")
    export(module, out)
    assert sorted(out.iterdir()) == [files[0], *files[2:]]
    assert {file.read_text() for file in out.iterdir()} == {"mine"}
    dialogs.yes = True
    export(module, out)
    assert [len(file.read_bytes()) for file in files] == pytest.approx(
        [len(one) for one in written], abs=8
    )


def test_a_sheared_grid_is_kept_in_every_format(opened, tmp_path):
    import nrrd

    affine = placed("sheared", AFFINE)
    result = add_result(affine)
    opened.widget.panel.review.review(result)
    export(opened, tmp_path)
    export(opened, tmp_path, "LABELS_NRRD")
    labels = expected_labels(result)
    for name, voxels in (
        ("Scan_labels.nrrd", labels),
        ("Scan_anomalies.seg.nrrd", labels),
        ("Scan_nll.nrrd", blobs()),
    ):
        data, header = nrrd.read(str(tmp_path / name))
        assert np.array_equal(data.T, voxels)
        found = np.eye(4)
        found[:3, :3], found[:3, 3] = header["space directions"].T, header["space origin"]
        assert LPS_FROM_RAS @ found == pytest.approx(affine, abs=1e-6)
    nifti = nib.load(tmp_path / "Scan_labels.nii.gz")
    assert nifti.affine == pytest.approx(affine, abs=1e-4)
    assert np.array_equal(np.asarray(nifti.dataobj).T, labels)


@pytest.fixture
def in_a_hierarchy(scene):
    """Every node has an item while it is there, as by Slicer's own plugin logic."""
    import slicer
    import vtk

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def arrives(_scene, _event, node):
        if node.IsA("vtkMRMLScalarVolumeNode") or node.IsA("vtkMRMLSegmentationNode"):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def leaves(_scene, _event, node):
        if item := hierarchy.GetItemByDataNode(node):
            hierarchy.RemoveItem(item, False, False)

    tags = [
        scene.AddObserver(scene.NodeAddedEvent, arrives),
        scene.AddObserver(scene.NodeAboutToBeRemovedEvent, leaves),
    ]
    yield hierarchy
    for tag in tags:
        scene.RemoveObserver(tag)


def test_dicom_seg_has_voxels_and_no_rejected_findings(
    in_a_hierarchy, shown, scene, tmp_path, monkeypatch
):
    """The exporter asks for voxels by the name that VTK gives them."""
    import slicer
    from SpatialARAnomalyLib.slicerapp.tasks.Detection import placeBeside

    module, result = shown
    result.scan.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    monkeypatch.setattr(slicer, "dicomDatabase", object(), raising=False)
    hierarchy = in_a_hierarchy
    hierarchy.SetItemParent(
        hierarchy.GetItemByDataNode(result.scan),
        hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study"),
    )
    placeBeside(result.segmentation, result.scan)
    written = []

    class Plugin:
        def examineForExport(self, item):
            assert item
            return [types.SimpleNamespace(item=item)]

        def export(self, exportables):
            (one,) = exportables
            assert Path(one.directory).is_dir()
            node = hierarchy.GetItemDataNode(one.item)
            assert hierarchy.GetItemParent(one.item) == hierarchy.GetItemParent(
                hierarchy.GetItemByDataNode(result.scan)
            )
            role = node.GetReferenceImageGeometryReferenceRole()
            assert node.GetNodeReference(role).GetID() == result.scan.GetID()
            found = {}
            for index in range(node.GetSegmentation().GetNumberOfSegments()):
                name = node.GetSegmentation().GetNthSegmentID(index)
                segment = node.GetSegmentation().GetSegment(name)
                assert "122451" in segment.GetTerminology()
                image = segment.GetRepresentation("Binary labelmap")
                assert image.GetPointData().GetArray("ImageScalars").GetValueRange() != (0, 0)
                voxels = slicer.util.arrayFromSegmentBinaryLabelmap(node, name, result.scan)
                found[name] = int(np.count_nonzero(voxels))
            written.append(found)
            return ""

    plugin = types.SimpleNamespace(DICOMSegmentationPluginClass=Plugin)
    monkeypatch.setitem(sys.modules, "DICOMSegmentationPlugin", plugin)
    every = {f"Finding_{row['rank']}": row["voxels"] for row in rows_of(result)}
    module.widget.panel.review.view.choose(2)
    module.ui.rejectButton.click()
    before, nodes = expected_labels(result), scene.GetNumberOfNodes()
    assert export(module, tmp_path / "new" / "seg", "DICOM_SEG").startswith("Written")
    module.ui.withRejectedCheckBox.setChecked(True)
    assert export(module, tmp_path / "new" / "seg", "DICOM_SEG").startswith("Written")
    assert written == [{name: n for name, n in every.items() if name != "Finding_2"}, every]
    assert scene.GetNumberOfNodes() == nodes
    assert np.array_equal(expected_labels(result), before)


def test_with_all_rejected_there_is_no_dicom_seg(shown, tmp_path, monkeypatch):
    import slicer

    module, result = shown
    result.scan.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    monkeypatch.setattr(slicer, "dicomDatabase", object(), raising=False)
    plugin = types.SimpleNamespace(DICOMSegmentationPluginClass=None)
    monkeypatch.setitem(sys.modules, "DICOMSegmentationPlugin", plugin)
    for rank in (1, 2, 3):
        module.widget.panel.review.view.choose(rank)
        module.ui.rejectButton.click()
    assert "finding" in export(module, tmp_path / "out", "DICOM_SEG")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def dicom_result(opened, tmp_path, monkeypatch):
    """A result in a scan that Slicer loaded from DICOM with its slices in the other order."""
    import slicer

    series = Series(
        stored=(blobs() * 100).astype(np.uint16)[::-1],
        orientation=(0.8, 0.6, 0.0, -0.36, 0.48, 0.8),
        attributes={
            "Modality": "MR", "SOPClassUID": MRImageStorage,
            "StudyInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5", "PatientID": "P-17",
        },
    )  # fmt: skip
    files = sorted(series.write(tmp_path / "dicom").iterdir())
    flip = np.diag([1.0, 1.0, -1.0, 1.0])
    flip[2, 3] = len(series.stored) - 1
    result = add_result(series.ras_from_voxel @ flip)
    result.scan.SetAttribute("DICOM.instanceUIDs", " ".join(map(str, range(len(files)))))
    result.modelFacts = result.modelFacts | {"weights_sha256": "ab" * 32}
    database = types.SimpleNamespace(
        fileForInstance=lambda uid: str(files[int(uid)]), instanceValue=lambda uid, tag: "MR"
    )
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    opened.widget.panel.review.review(result)
    run_events()
    return opened, result, files


def places_of(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Places (RAS mm) of the nonzero voxels [i, j, k], sorted."""
    ijk = np.argwhere(voxels)
    found = ijk @ affine[:3, :3].T + affine[:3, 3]
    return found[np.lexsort(np.round(found, 3).T)]


def test_dicom_seg_without_slicers_exporter_lies_on_the_images(dicom_result, tmp_path):
    import highdicom as hd
    import pydicom
    from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import rasFromVoxel

    module, result, files = dicom_result
    module.widget.panel.review.view.choose(2)
    module.ui.rejectButton.click()
    for again in ("one", "two"):
        assert export(module, tmp_path / again, "DICOM_SEG").startswith("Written: Scan_seg.dcm")
    segmentation, same = (
        hd.seg.segread(tmp_path / f"{one}/Scan_seg.dcm") for one in ("one", "two")
    )
    assert segmentation.SOPInstanceUID == same.SOPInstanceUID
    names = {
        number: segmentation.get_segment_description(number).segment_label
        for number in segmentation.segment_numbers
    }
    assert names == {1: "Finding 1", 2: "Finding 3"}
    image = pydicom.dcmread(files[0], stop_before_pixels=True)
    for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert segmentation[tag].value == image[tag].value
    assert segmentation.SeriesInstanceUID != image.SeriesInstanceUID
    volume = segmentation.get_volume(combine_segments=True)
    for number, rank in ((1, 1), (2, 3)):
        found = places_of(volume.array == number, LPS_FROM_RAS @ volume.affine)
        expected = places_of(mask(result, rank).T, rasFromVoxel(result.volume))
        assert found == pytest.approx(expected, abs=1e-3)


def test_dicom_seg_of_a_moved_scan_is_refused(dicom_result, tmp_path):
    from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import rasFromVoxel, setRasFromVoxel

    module, result, _files = dicom_result
    moved = rasFromVoxel(result.volume)
    moved[:3, 3] += 1.0
    setRasFromVoxel(result.volume, moved)
    assert "grid of its DICOM images" in export(module, tmp_path / "out", "DICOM_SEG")
    assert not (tmp_path / "out").exists()


def test_dicom_seg_without_highdicom_says_what_to_install(monkeypatch, app):
    from SpatialARAnomalyLib.engine.errors import SetupError
    from SpatialARAnomalyLib.service.detection import dicom_source
    from SpatialARAnomalyLib.slicerapp.wording.Errors import inOneLine

    monkeypatch.setattr(dicom_source, "find_spec", lambda name: None)
    with pytest.raises(SetupError) as caught:
        dicom_source.require_dicom_packages(["highdicom"])
    assert "pip install highdicom" in inOneLine(caught.value)
