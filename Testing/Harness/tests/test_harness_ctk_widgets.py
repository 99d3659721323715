"""The stand-ins for CTK's widgets: their properties, signals and limits."""

import os
from pathlib import Path

import pytest
import qt
from Harness import grab, run_events


@pytest.fixture
def ctk(app):
    import ctk

    return ctk


@pytest.fixture
def got() -> list:
    return []


def test_a_collapsible_button_hides_its_contents_and_shows_the_same_again(ctk, got) -> None:
    button = ctk.ctkCollapsibleButton("Inputs")
    layout = qt.QVBoxLayout(button)
    shown, hidden = qt.QLabel("shown"), qt.QLabel("hidden")
    layout.addWidget(shown)
    layout.addWidget(hidden)
    hidden.hide()
    button.contentsCollapsed.connect(got.append)
    button.collapsed = True
    assert (shown.isHidden(), hidden.isHidden()) == (True, True)
    assert not button.checked
    button.setCollapsed(False)
    assert (shown.isHidden(), hidden.isHidden()) == (False, True)
    assert got == [True, False]


def test_a_click_on_the_header_collapses_in_the_order_of_ctk(ctk, got) -> None:
    button = ctk.ctkCollapsibleButton("Inputs")
    button.resize(200, 100)
    button.contentsCollapsed.connect(lambda *_: got.append("contentsCollapsed"))
    button.toggled.connect(lambda *_: got.append("toggled"))
    button.clicked.connect(lambda *_: got.append("clicked"))
    at = qt.QPointF(20.0, 8.0)
    for kind in (qt.QEvent.MouseButtonPress, qt.QEvent.MouseButtonRelease):
        left = qt.Qt.LeftButton
        event = qt.QMouseEvent(kind, at, at, left, left, qt.Qt.NoModifier)
        qt.QApplication.sendEvent(button, event)
    assert button.collapsed
    assert got == ["contentsCollapsed", "toggled", "clicked"]


def test_what_is_shown_while_collapsed_appears_with_the_contents(ctk) -> None:
    button = ctk.ctkCollapsibleButton("Inputs")
    label = qt.QLabel("late")
    qt.QVBoxLayout(button).addWidget(label)
    label.hide()
    button.show()
    button.collapsed = True
    label.show()
    assert label.isHidden()
    button.collapsed = False
    assert not label.isHidden()


def test_a_wrapped_label_makes_a_section_as_wide_as_its_hint(ctk) -> None:
    """The horizontal policy is Minimum, so that a layout never makes it narrower than its hint."""
    window, button = qt.QWidget(), ctk.ctkCollapsibleButton("Inputs")
    qt.QVBoxLayout(window).addWidget(button)
    label = qt.QLabel("many words " * 60)
    label.setWordWrap(True)
    qt.QVBoxLayout(button).addWidget(label)
    assert window.minimumSizeHint.width() >= label.sizeHint.width() > 300
    label.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Preferred)
    window.show()
    run_events()
    assert window.minimumSizeHint.width() < 150


def test_the_contents_lie_below_the_header(ctk, tmp_path: Path) -> None:
    button = ctk.ctkCollapsibleButton("Inputs")
    label = qt.QLabel("inside")
    qt.QVBoxLayout(button).addWidget(label)
    image = qt.QImage(str(grab(button, tmp_path / "b.png", width_px=200)))
    header = image.pixelColor(150, 10)
    assert header != image.pixelColor(150, image.height() - 4)
    assert label.y >= button.fontMetrics().height()
    button.collapsed = True
    assert button.maximumHeight < label.y + label.height


def test_a_group_box_hides_its_contents(ctk) -> None:
    box = ctk.ctkCollapsibleGroupBox()
    box.title = "More"
    label = qt.QLabel()
    qt.QVBoxLayout(box).addWidget(label)
    box.collapsed = True
    assert label.isHidden()
    box.collapsed = False
    assert not label.isHidden()


@pytest.mark.parametrize(
    "name", ["ctkSliderWidget", "ctkDoubleSlider", "ctkDoubleSpinBox", "qMRMLSliderWidget"]
)
def test_numbers_are_kept_as_given_and_within_their_limits(ctk, got, name: str) -> None:
    import slicer

    widget = getattr(ctk if name.startswith("ctk") else slicer, name)()
    widget.setRange(-5, 5)
    widget.valueChanged.connect(got.append)
    widget.value = 1.25
    assert (widget.value, got) == (1.25, [1.25])
    widget.value = 1.25
    widget.setValue(99)
    assert (widget.value, got) == (5, [1.25, 5])
    widget.maximum = 2
    assert (widget.value, got) == (2, [1.25, 5, 2])


def test_a_slider_widget_shows_its_value_on_both(ctk) -> None:
    widget = ctk.ctkSliderWidget()
    widget.minimum, widget.maximum = 0, 1
    widget.decimals, widget.singleStep = 3, 0.001
    widget.suffix = " mm"
    widget.value = 0.125
    assert widget.spinBox().value == 0.125
    widget.spinBox().setValue(0.5)
    assert (widget.value, widget.slider().value) == (0.5, 0.5)
    assert (widget.decimals, widget.suffix) == (3, " mm")


def test_without_tracking_the_value_comes_at_the_release(ctk, got) -> None:
    widget = ctk.ctkSliderWidget()
    widget.tracking = False
    changing = []
    widget.valueChanged.connect(got.append)
    widget.valueIsChanging.connect(changing.append)
    slider = widget.slider()
    slider.sliderPressed.emit()
    slider.value = 7
    assert (got, changing) == ([], [7])
    slider.sliderReleased.emit()
    assert got == [7]


def test_a_range_keeps_its_order(ctk, got) -> None:
    widget = ctk.ctkRangeWidget()
    widget.setRange(0, 10)
    widget.setValues(2, 4)
    widget.valuesChanged.connect(lambda low, high: got.append((low, high)))
    widget.minimumValue = 6
    assert (widget.minimumValue, widget.maximumValue) == (6, 6)
    assert got[-1] == (6, 6)
    widget.setValues(1, 3)
    assert got[-1] == (1, 3)


def test_a_path_is_text_and_its_history_is_a_setting(ctk, got, settings) -> None:
    edit = ctk.ctkPathLineEdit()
    edit.settingKey = "Harness/paths"
    edit.filters = ctk.ctkPathLineEdit.Files
    edit.currentPathChanged.connect(got.append)
    edit.currentPath = "/data/ct.nii.gz"
    assert got == ["/data/ct.nii.gz"]
    valid = []
    edit.validInputChanged.connect(valid.append)
    edit.setCurrentPath("")
    # An emptied path is no acceptable one.
    assert (got, valid) == (["/data/ct.nii.gz"], [False])
    edit.setCurrentPath("/data/ct.nii.gz")
    assert valid == [False, True]
    edit.addCurrentPathToHistory()
    edit.setCurrentPath("")
    again = ctk.ctkPathLineEdit()
    again.settingKey = "Harness/paths"
    assert settings.value("Harness/paths") in (("/data/ct.nii.gz",), "/data/ct.nii.gz")
    with pytest.raises(RuntimeError, match="wait for ever"):
        edit.browse()


def test_a_folder_is_absolute(ctk, got, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    button = ctk.ctkDirectoryButton()
    button.directoryChanged.connect(got.append)
    button.directory = "models"
    assert button.directory == os.path.join(tmp_path, "models")
    assert got == [button.directory]


def test_a_message_box_remembers_not_to_come_again(ctk, settings) -> None:
    box = ctk.ctkMessageBox()
    box.dontShowAgainSettingsKey = "Harness/again"
    box.dontShowAgain = True
    with pytest.raises(RuntimeError, match="wait for ever"):
        box.exec_()
    other = ctk.ctkMessageBox()
    other.setDontShowAgainSettingsKey("Harness/again")
    assert other.dontShowAgain


def test_a_fitted_text_is_as_high_as_its_text(ctk) -> None:
    browser = ctk.ctkFittedTextBrowser()
    browser.resize(200, 50)
    browser.setHtml("one line")
    short = browser.height
    browser.setHtml("<br>".join(["a line"] * 10))
    assert browser.height > 3 * short


def test_texts_and_numbers_are_not_taken_for_each_other(ctk) -> None:
    with pytest.raises(AttributeError):
        ctk.ctkCheckablePushButton().dontShowAgain = True
    with pytest.raises(AttributeError, match="text is expected"):
        ctk.ctkSliderWidget().suffix = 3


def test_a_widget_becomes_a_picture(ctk) -> None:
    label = qt.QLabel("x")
    label.resize(40, 20)
    image = ctk.ctkWidgetsUtils.grabWidget(label)
    assert (image.width(), image.height()) == (40, 20)


def test_a_dropped_stand_in_is_deleted_with_what_is_in_it(ctk) -> None:
    import gc

    import shiboken6

    button = ctk.ctkCollapsibleButton()
    label = qt.QLabel(button)
    del button
    gc.collect()
    run_events()
    assert not shiboken6.isValid(label)
