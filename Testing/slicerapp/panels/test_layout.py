"""The panel on a laptop: widths, heights, cut texts, names for screen readers, larger letters."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import qt
from Harness import run_events
from slicerapp.results import add_result
from slicerapp.tooltips import tip
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import peakOf

UI = Path(__file__).parents[3] / "SpatialARAnomaly/Resources/UI"

WIDTHS_PX = (320, 420, 480)
MOST_WORDS = 12


def shown_at(module, width: int) -> None:
    """Show the panel as wide as this, as high as it asks for: Slicer scrolls it."""
    module.panel.resize(width, 768)
    module.panel.show()
    run_events()
    module.panel.resize(width, max(768, module.panel.layout().totalHeightForWidth(width)))
    run_events()


def cut_texts(panel) -> list[str]:
    """Labels and buttons that do not show all of their text."""
    cut = []
    for label in panel.findChildren(qt.QLabel):
        if label.isVisible() and label.property("text"):
            if label.wordWrap:
                short = label.height < label.heightForWidth(label.width)
            else:
                short = label.width < label.property("sizeHint").width()
            if short:
                cut.append(label.objectName)
    for button in panel.findChildren(qt.QAbstractButton):
        if button.isVisible() and button.width < int(button.property("minimumSizeHint").width()):
            cut.append(button.objectName)
    return cut


@pytest.fixture
def full(shown):
    """The panel with more findings than it shows, every section of both tabs open."""
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import readRows, writeFindings

    module, result = shown
    rows = readRows(result.table)
    writeFindings(result.table, [rows[0] | {"rank": rank} for rank in range(1, 13)], [])
    result.cautions = ["The scan does not look like the model's normal scans at all, by far."]
    module.widget.panel.review.refresh()
    yield module
    module.panel.hide()


def sections(module, opened: set[str]) -> None:
    names = ("detect", "review", "export", "advanced", "evaluate", "train", "models", "encoders",
             "setup", "log")  # fmt: skip
    for name in names:
        getattr(module.ui, f"{name}Section").collapsed = name not in opened


@pytest.mark.parametrize("width", WIDTHS_PX)
def test_detect_and_review_fit_a_laptop_without_scrolling(full, width):
    sections(full, {"detect", "review"})
    shown_at(full, width)
    assert full.panel.minimumSizeHint.width() <= 420
    layout = full.panel.layout()
    assert max(layout.totalMinimumSize().height(), layout.totalHeightForWidth(width)) <= 768
    assert full.ui.findingsTable.height < 8 * full.ui.findingsTable.rowHeight(0)
    for value in (2, 6):
        full.ui.thresholdSlider.setValue(value)
        assert cut_texts(full.panel) == []
    assert full.panel.width <= max(width, full.panel.minimumSizeHint.width())
    assert cut_texts(full.panel) == []


def test_the_second_tab_fits_as_well(full):
    sections(full, {"evaluate", "train", "models", "encoders", "setup", "log"})
    full.widget.panel.tabs.setCurrentIndex(1)
    for width in WIDTHS_PX:
        shown_at(full, width)
        assert full.panel.minimumSizeHint.width() <= 420
        if width >= full.panel.minimumSizeHint.width():
            assert cut_texts(full.panel) == []


def test_the_table_grows_with_the_findings(full):
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import readRows, writeFindings

    review = full.widget.panel.review
    heights = []
    rows = readRows(review._result.table)
    for count in (0, 1, 2, 6, 12):
        writeFindings(review._result.table, rows[:count], [])
        review.refresh()
        heights.append(full.ui.findingsTable.height)
    assert heights[0] == heights[1] < heights[2] < heights[3] == heights[4]


def test_no_scroll_bar_hides_the_only_finding(full):
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import readRows, writeFindings

    review, table = full.widget.panel.review, full.ui.findingsTable
    sections(full, {"detect", "review"})
    writeFindings(review._result.table, readRows(review._result.table)[:1], [])
    review.refresh()
    for width in WIDTHS_PX:
        shown_at(full, width)
        assert 0 <= table.viewport().height - table.rowHeight(0) < 4, width
    assert not table.horizontalScrollBar().isVisible()


def test_texts_survive_letters_half_as_large_again(full):
    font = qt.QFont(qt.QApplication.font())
    larger = qt.QFont(font)
    larger.setPointSizeF(1.5 * font.pointSizeF())
    qt.QApplication.setFont(larger)
    try:
        full.widget.panel.review.refresh()
        sections(full, {"detect", "review", "export", "advanced"})
        shown_at(full, 640)
        assert cut_texts(full.panel) == []
    finally:
        qt.QApplication.setFont(font)


def test_every_control_has_a_name_for_screen_readers(opened):
    nameless = [
        widget.objectName or type(widget).__name__
        for widget in opened.panel.findChildren(qt.QWidget)
        if widget.focusPolicy != qt.Qt.NoFocus
        and not widget.accessibleName
        and not widget.property("text")
        and not widget.inherits("QLabel")
        and not widget.inherits("QAbstractScrollArea")
        and not widget.inherits("QMenu")
    ]
    assert nameless == []


def test_the_parts_of_a_control_have_its_name_and_not_its_value(opened):
    for control in (opened.ui.opacitySlider, opened.ui.leastVolumeSpinBox):
        parts = [one for one in control.findChildren(qt.QWidget) if one.accessibleName]
        assert {one.accessibleName for one in parts} <= {control.accessibleName}
    assert opened.ui.leastVolumeSpinBox.accessibleName == "Least volume"


def test_every_control_is_reached_by_keyboard(opened):
    """Buttons, choices, fields and tables take the focus by Tab."""
    for name, widget in vars(opened.ui).items():
        if name.startswith("qt_"):
            continue
        if any(widget.inherits(kind) for kind in ("QAbstractButton", "QComboBox", "QTableView")):
            assert widget.focusPolicy in (qt.Qt.StrongFocus, qt.Qt.TabFocus, qt.Qt.WheelFocus), name


def test_buttons_have_icons(opened):
    from SpatialARAnomalyLib.slicerapp.panels.Appearance import ICONS

    for name in ICONS:
        assert not getattr(opened.ui, name).icon.isNull(), name
        assert tip(getattr(opened.ui, name)), name
        sides = {one.width() for one in getattr(opened.ui, name).icon.availableSizes()}
        assert sides == {16, 24, 32, 48}, name


def ui_texts() -> list[str]:
    texts = []
    for path in UI.glob("*.ui"):
        for prop in ElementTree.parse(path).getroot().iter("property"):
            if prop.get("name") in ("text", "toolTip", "title", "placeholderText"):
                texts += [one.text or "" for one in prop.iter("string")]
    return texts


def test_texts_have_twelve_words_at_most():
    sentences = [
        sentence
        for text in ui_texts()
        for sentence in re.split(r"(?<=[.:;])\s|\n", re.sub("<[^>]*>", "", text))
    ]
    assert [one for one in sentences if len(one.split()) > MOST_WORDS] == []


def test_wrapped_labels_do_not_make_the_panel_wider():
    for path in UI.glob("*.ui"):
        for widget in ElementTree.parse(path).getroot().iter("widget"):
            names = {prop.get("name"): prop for prop in widget.findall("property")}
            if widget.get("class") == "QLabel" and "wordWrap" in names:
                policy = names["sizePolicy"].find("sizepolicy").get("hsizetype")
                assert policy == "Ignored", widget.get("name")


def contrast(one: qt.QColor, other: qt.QColor) -> float:
    """The contrast of WCAG 2."""

    def luminance(color) -> float:
        parts = [
            one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4
            for one in (color.redF(), color.greenF(), color.blueF())
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def faint_texts(panel) -> list[str]:
    """Visible labels whose text stands out too little from any pixel of their ground."""
    labels = [
        label
        for label in panel.findChildren(qt.QLabel)
        if label.isVisible() and label.property("text")
    ]
    for label in labels:
        label.setFixedSize(label.size)
        label.setText("")
    picture = panel.grab().toImage()
    faint = []
    for label in labels:
        corner = label.mapTo(panel, qt.QPoint(0, 0))
        text = label.palette.windowText().color()
        grounds = {
            picture.pixelColor(corner.x() + x, corner.y() + label.height // 2).name()
            for x in range(label.width)
        }
        if min(contrast(text, qt.QColor(one)) for one in grounds) < 4.5:
            faint.append(label.objectName)
    return faint


@pytest.mark.parametrize("tab", [0, 1])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(full, scheme, tab):
    from Harness import color_scheme

    sections(full, {"detect", "review", "export", "advanced", "train", "models", "encoders"})
    full.widget.panel.tabs.setCurrentIndex(tab)
    with color_scheme(scheme):
        shown_at(full, 320)
        assert faint_texts(full.panel) == []


def test_only_the_legend_has_colors_of_its_own():
    """Every other text and ground has the colors of Slicer's palette."""
    colored = re.compile(r"styleSheet|setForeground\(|setBackground\(|QPalette|<font ", re.I)
    library = UI.parents[1] / "SpatialARAnomalyLib/slicerapp"
    files = [*library.rglob("*.py"), *UI.glob("*.ui")]
    found = {one.name for one in files if colored.search(one.read_text(encoding="utf-8"))}
    assert found == {"ReviewPanel.py"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_icons_stand_out(opened, scheme):
    from Harness import color_scheme
    from SpatialARAnomalyLib.slicerapp.panels.Appearance import ICONS, iconData

    with color_scheme(scheme):
        background = qt.QApplication.palette().button().color()
        for name, file in ICONS.items():
            text = iconData(file).decode()
            color = qt.QColor(re.search(r'stroke="(#\w+)"', text)[1])
            assert contrast(color, background) >= 4.5, name


def test_without_models_the_panel_says_the_next_step(opened, tmp_path):
    from SpatialARAnomalyLib.slicerapp import Settings

    ui, detect = opened.ui, opened.widget.panel.detect
    assert ui.firstRunBox.isHidden()
    Settings.setModelsFolder(tmp_path / "empty")
    detect.reloadModels()
    assert not ui.firstRunBox.isHidden()
    assert ui.makeDemonstrationButton.isVisibleTo(ui.firstRunBox)
    assert not ui.openSetupButton.isVisibleTo(ui.firstRunBox)
    asked = []
    detect.onImportModel = lambda: asked.append("import")
    ui.importModelButton.click()
    detect.packagesAreMissing = lambda: True
    detect.refresh()
    assert ui.openSetupButton.isVisibleTo(ui.firstRunBox)
    assert not ui.makeDemonstrationButton.isVisibleTo(ui.firstRunBox)
    ui.openSetupButton.click()
    assert opened.widget.panel.tabs.currentIndex == 1
    assert not ui.setupSection.collapsed
    assert asked == ["import"]


def test_the_card_is_a_line_with_details_on_demand(opened):
    ui = opened.ui
    assert ui.modelCardLineLabel.text.startswith("MR · axial · ")
    assert ui.modelCardLabel.isHidden()
    ui.modelDetailsButton.click()
    assert not ui.modelCardLabel.isHidden()
    assert "field of view" in ui.modelCardLabel.text


def test_numbers_stand_beside_the_findings_that_are_not_rejected(shown):
    """In the axial and the sagittal slice of the peak, and not on the finding."""
    module, result = shown
    node = result.numbers
    for index, row in enumerate(result.findings):
        away = np.subtract(node.GetNthControlPointPosition(index), peakOf(row))
        radius_mm = np.cbrt(3000 * row["volume_ml"] / (4 * np.pi))
        assert away == pytest.approx([0, radius_mm + 3, 0])

    def shown_numbers() -> list[str]:
        return [node.GetNthControlPointLabel(i) for i in range(node.GetNumberOfControlPoints())]

    assert shown_numbers() == ["1", "2", "3"]
    module.widget.panel.review.view.choose(2)
    module.ui.rejectButton.click()
    assert shown_numbers() == ["1", "3"]
    module.ui.rejectButton.click()
    assert shown_numbers() == ["1", "2", "3"]
    again = add_result(name="Other")
    module.widget.panel.review.review(again)
    assert not node.GetDisplayNode().GetVisibility()
    assert again.numbers.GetDisplayNode().GetVisibility()
