"""A volume node whose DICOM series holds several volumes: the user chooses the one to search."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from engine.dicom_examples import Series, multi_frame, save
from Harness import wait_until
from service.small_site import SPACING_MM
from slicerapp.heads import add_volume, detected, head_with_lesion

UIDS = ("1.2.3.1", "1.2.3.2")


@pytest.fixture
def echoes(scene, tmp_path, monkeypatch) -> tuple[object, list[Series]]:
    """A node as Slicer may load it, of two objects: one echo of a head, and two more of it."""
    import slicer

    head, _ = head_with_lesion()
    first = Series(
        stored=(head.voxels[:, ::-1, ::-1] * 500).astype(np.uint16),
        pixel_spacing=(SPACING_MM[1], SPACING_MM[0]),
        step=(0.0, 0.0, SPACING_MM[2]),
    )
    series = [first.with_(stored=first.stored // part) for part in (3, 2, 1)]
    times = [{"MREchoSequence": {"EffectiveEchoTime": 5.0 * n}} for n in (1, 2, 3)]
    files = {}
    for uid, part in zip(UIDS, (slice(1), slice(1, 3)), strict=True):
        image = multi_frame(series[part], times[part], {}, SOPInstanceUID=uid)
        files[uid] = str(save(image, tmp_path / uid))
    database = SimpleNamespace(
        fileForInstance=lambda uid: files.get(uid, ""), instanceValue=lambda uid, tag: "MR"
    )
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    node = add_volume(np.concatenate([one.stored for one in series]), first.ras_from_voxel)
    node.SetAttribute("DICOM.instanceUIDs", " ".join(UIDS))
    return node, series


def work_folders() -> list[Path]:
    import slicer

    return sorted(Path(slicer.app.temporaryPath).glob("SpatialARAnomaly-*"))


def test_the_chosen_volume_is_loaded_and_searched(opened, dialogs, echoes):
    import slicer

    scan, series = echoes
    opened.ui.inputSelector.setCurrentNode(scan)
    opened.ui.allowMismatchCheckBox.setChecked(True)
    dialogs.choice = 2
    result = detected(opened)
    assert result is not None, opened.ui.statusLabel.text
    names = [f"echo time {time} ms, {len(series[0].stored)} slices" for time in (5, 10, 15)]
    assert dialogs.questions == ["; ".join(names)]
    node = result.scan
    assert node.GetName() == "Scan volume 3"
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), series[2].stored)
    matrix = slicer.util.arrayFromVTKMatrix(_ras_from_voxel(node))
    np.testing.assert_allclose(matrix, series[2].ras_from_voxel, atol=1e-9)
    # Of the second file it is the second volume: the detection compared it with that.
    assert node.GetAttribute("DICOM.instanceUIDs") == UIDS[1]
    assert node.GetAttribute("SpatialARAnomaly.DicomVolume") == "2"


def _ras_from_voxel(node: object) -> object:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


def test_a_cancelled_choice_leaves_the_scene_as_it_was(opened, dialogs, echoes):
    import slicer

    scan, _ = echoes
    opened.ui.inputSelector.setCurrentNode(scan)
    before, folders = slicer.mrmlScene.GetNumberOfNodes(), work_folders()
    dialogs.choice = None
    assert detected(opened) is None
    assert dialogs.questions
    assert "Cancelled" in opened.ui.statusLabel.text
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    assert work_folders() == folders
    # Deleted while the dialog is open: an error, and nothing is added.
    dialogs.chooseOne = lambda *_unused: slicer.mrmlScene.RemoveNode(scan) or 0
    opened.ui.detectButton.click()
    wait_until(lambda: not opened.widget.logic.busy, 120, "the loading to end")
    assert "deleted" in opened.ui.statusLabel.text
    assert work_folders() == folders


def test_the_dialog_returns_the_chosen_row(app):
    import qt
    from SpatialARAnomalyLib.slicerapp.panels.Dialogs import Dialogs

    parent = qt.QWidget()
    dialogs = Dialogs(parent)
    rows = {qt.QDialogButtonBox.AcceptRole: 1, qt.QDialogButtonBox.RejectRole: None}
    roles = list(rows)

    def press() -> None:
        dialog = qt.QApplication.activeModalWidget()
        if dialog is not None:
            dialog.findChild(qt.QListWidget).setCurrentRow(1)
            box, role = dialog.findChild(qt.QDialogButtonBox), roles.pop(0)
            next(one for one in box.buttons() if box.buttonRole(one) == role).click()

    timer = qt.QTimer(parent)
    timer.timeout.connect(press)
    timer.start(20)
    for row in rows.values():
        assert dialogs.chooseOne("Volumes", "Choose.", ["a", "b"]) == row
    timer.stop()
