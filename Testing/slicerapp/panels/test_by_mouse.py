"""The tutorial by events alone, as a user's mouse and keyboard send them."""

from typing import Any

import pytest
import qt
from Harness import run_events, wait_until
from PySide6.QtTest import QTest
from slicerapp.heads import add_head

pytestmark = pytest.mark.slow

LEFT, NO_KEY = qt.Qt.LeftButton, qt.Qt.NoModifier


def click(widget: Any) -> None:
    """Click the middle of a widget that is shown and enabled."""
    assert widget.isVisible(), widget.objectName
    assert widget.isEnabled(), widget.toolTip
    QTest.mouseClick(
        widget, LEFT, NO_KEY, qt.QPoint(widget.width // 2, min(widget.height, 24) // 2)
    )
    run_events()


def click_row(table: Any, row: int) -> None:
    """Click a row of a table."""
    place = table.visualItemRect(table.item(row, 1)).center()
    QTest.mouseClick(table.viewport(), LEFT, NO_KEY, place)
    run_events()


@pytest.fixture
def laptop(opened):
    """The panel as wide as on a laptop."""
    opened.panel.resize(420, 768)
    opened.panel.show()
    run_events()
    yield opened
    opened.panel.hide()


def test_detect_review_compare_and_export_by_mouse(laptop, scene, tmp_path):
    from SpatialARAnomalyLib.slicerapp.scene.Comparison import isComparing
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import readRows
    from SpatialARAnomalyLib.slicerapp.scene.Result import Result

    ui, logic = laptop.ui, laptop.widget.logic
    add_head("Scan")
    run_events()
    click(ui.detectButton)
    wait_until(lambda: not logic.busy, 300, "the detection")
    (result,) = Result.all()
    assert ui.findingsTable.rowCount == len(readRows(result.table)) >= 1
    click_row(ui.findingsTable, 0)
    click(ui.acceptButton)
    assert readRows(result.table)[0]["status"] == "accepted"
    click(ui.undoButton)
    assert readRows(result.table)[0]["status"] == ""
    red = scene.GetNodeByID("vtkMRMLSliceNodeRed")
    at_peak = red.GetSliceToRAS().GetElement(2, 3)
    red.JumpSliceByOffsetting(0, 0, at_peak + 20)
    click_row(ui.findingsTable, 0)
    assert red.GetSliceToRAS().GetElement(2, 3) == pytest.approx(at_peak, abs=0.01)
    click(ui.compareButton)
    assert isComparing()
    click(ui.compareButton)
    assert not isComparing()
    click(ui.exportSection)
    assert not ui.exportSection.collapsed
    ui.exportFolderEdit.setCurrentPath(str(tmp_path / "out"))
    click(ui.exportButton)
    wait_until(lambda: not laptop.widget.panel.export.exporting, 120, "the export")
    assert len(list((tmp_path / "out").iterdir())) == 4
    laptop.widget.panel.dialogs.yes = True
    laptop.widget.panel.review.deleteAction.trigger()
    assert Result.all() == []
    assert ui.statusLabel.isHidden()


def test_tabs_and_sections_open_by_keyboard(laptop):
    ui, tabs = laptop.ui, laptop.widget.panel.tabs
    tabs.setFocus()
    QTest.keyClick(tabs, qt.Qt.Key_Right)
    run_events()
    assert ui.makePage.isVisible()
    ui.modelsSection.setFocus()
    QTest.keyClick(ui.modelsSection, qt.Qt.Key_Space)
    run_events()
    assert not ui.modelsSection.collapsed
    assert ui.modelsTable.isVisible()
