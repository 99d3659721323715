"""Positions under a transform: in the panel those of the scene, in files of the space they name."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from Harness import run_events, wait_until
from slicerapp.heads import add_volume
from slicerapp.panels.test_export import export
from slicerapp.results import AFFINE, PEAKS_KJI, add_result
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.service.text import position_text


@pytest.fixture
def transformed(opened, scene):
    """A result under a rotation and a shift, and the matrix of both."""
    import slicer

    angle, move = np.deg2rad(20), np.eye(4)
    move[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    move[:3, 3] = 40.0, -25.0, 10.0
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(move))
    result = add_result(transform=transform)
    opened.widget.panel.review.review(result)
    run_events()
    return result, move


@pytest.mark.parametrize("space", ["scan", "scene"])
def test_positions_are_in_the_space_that_the_table_names(opened, transformed, tmp_path, space):

    _result, move = transformed
    opened.ui.exportSection.collapsed = False
    assert opened.ui.inSceneSpaceCheckBox.isVisibleTo(opened.ui.exportSection)
    opened.ui.inSceneSpaceCheckBox.setChecked(space == "scene")
    message = export(opened, tmp_path)
    assert message.startswith(f"Written in the {'scene' if space == 'scene' else 'scan'}'s")
    to_space = move if space == "scene" else np.eye(4)
    table = pd.read_csv(tmp_path / "Scan_findings.csv")
    assert set(table["space"]) == {space}
    peaks = table[["peak_r_mm", "peak_a_mm", "peak_s_mm"]].to_numpy()
    for peak, kji in zip(peaks, PEAKS_KJI, strict=True):
        assert peak == pytest.approx((to_space @ AFFINE @ [*kji[::-1], 1])[:3], abs=2e-3)
    labels = nib.load(tmp_path / "Scan_labels.nii.gz")
    assert labels.affine == pytest.approx(to_space @ AFFINE, abs=1e-4)
    rank = np.asarray(labels.dataobj)[PEAKS_KJI[0][::-1]]
    assert rank == 1
    # The panel's table shows the scene in either case.
    place = (move @ AFFINE @ [*PEAKS_KJI[0][::-1], 1])[:3]
    row = opened.widget.panel.review.view.rowOf(1)
    assert opened.ui.findingsTable.item(row, 4).text() == position_text(tuple(place))


def test_the_panel_follows_a_transform_that_moves(opened, transformed):
    import slicer

    result, move = transformed
    table = opened.ui.findingsTable
    before = table.item(0, 4).text()
    move[:3, 3] += 30
    transform = result.volume.GetParentTransformNode()
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(move))
    wait_until(lambda: table.item(0, 4).text() != before, 5, "the new positions")


def test_a_transform_that_bends_is_refused(opened, scene):
    from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import checkScan

    volume = add_volume(np.zeros((4, 4, 4), np.int16), np.eye(4), "bent")
    bend = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    grid = scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    checkScan(volume)
    for node in (bend, grid):
        volume.SetAndObserveTransformNodeID(node.GetID())
        with pytest.raises(InputError, match="bends it"):
            checkScan(volume)
