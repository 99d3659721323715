"""How Qt's methods and constructors take arguments and give results, and who is whose subclass."""

from pathlib import Path

import pytest
import qt
from typecheck import check


class Dialog(qt.QDialog):
    """A Python subclass with a keyword of its own."""

    def __init__(self, parent=None, *, title=""):
        qt.QDialog.__init__(self, parent)
        self.title = title


class FurtherDialog(Dialog):
    """A subclass of that."""


@pytest.mark.parametrize(
    "make",
    [
        lambda: qt.QLabel(parent=None),
        lambda: qt.QPushButton(text="x"),
        lambda: qt.QTimer(parent=None),
        lambda: qt.QLabel().setText(text="x"),
        lambda: qt.QSettings().value("key", type=bool),
    ],
    ids=["parent", "text", "timer", "method", "settings"],
)
def test_there_are_no_keyword_arguments(app, make) -> None:
    with pytest.raises(ValueError, match=r"keyword|kwargs"):
        make()


def test_stand_ins_take_no_keyword_arguments_either(app) -> None:
    import ctk

    with pytest.raises(ValueError, match="keyword"):
        ctk.ctkCollapsibleButton(parent=None)


def test_nor_does_the_constructor_of_a_base(app) -> None:
    class Panel(qt.QWidget):
        def __init__(self):
            super().__init__(parent=None)

    with pytest.raises(ValueError, match="keyword"):
        Panel()


def test_a_python_subclass_may_have_its_own(app) -> None:
    assert Dialog(title="x").title == "x"


@pytest.mark.parametrize(
    "call",
    [
        lambda: qt.QSpinBox().setValue("3"),
        lambda: qt.QLabel().setPixmap(None),
        lambda: qt.QSpinBox().setRange(1),
        lambda: qt.QSize("a", "b"),
    ],
    ids=["type", "none", "count", "constructor"],
)
def test_wrong_arguments_are_a_value_error(app, call) -> None:
    with pytest.raises(ValueError, match=r"wrong arguments|No constructor"):
        call()


def test_results_that_are_lists_come_as_tuples(app) -> None:
    parent = qt.QWidget()
    child = qt.QLabel(parent)
    assert parent.children() == (child,)
    assert parent.findChildren(qt.QLabel) == (child,)
    assert qt.QListWidget().selectedItems() == ()


def test_children_are_found_by_the_classes_they_inherit(app) -> None:
    parent = qt.QWidget()
    child = qt.QLabel(parent)
    child.setObjectName("result")
    assert parent.findChildren(qt.QWidget)[0] is child
    assert parent.findChild(qt.QObject, "result") is child


def test_only_the_exact_class_matches(app) -> None:
    label = qt.QLabel()
    assert isinstance(label, qt.QLabel)
    assert not isinstance(label, qt.QWidget)
    assert not isinstance(label, qt.QObject)
    assert not issubclass(qt.QLabel, qt.QWidget)
    assert issubclass(qt.QLabel, qt.QLabel)


def test_a_python_subclass_matches_its_python_bases_and_one_qt_class(app) -> None:
    dialog = FurtherDialog()
    assert isinstance(dialog, Dialog)
    assert isinstance(dialog, qt.QDialog)
    assert not isinstance(dialog, qt.QWidget)
    assert issubclass(FurtherDialog, Dialog)
    assert not isinstance(Dialog(), FurtherDialog)


def test_stand_ins_hide_their_inheritance_too(app) -> None:
    import ctk
    import slicer

    assert not isinstance(ctk.ctkComboBox(), qt.QComboBox)
    assert not isinstance(slicer.qMRMLColorTableComboBox(), slicer.qMRMLNodeComboBox)
    assert isinstance(slicer.qMRMLNodeComboBox(), slicer.qMRMLNodeComboBox)


def test_annotations_see_the_true_inheritance(app) -> None:
    @check
    def name_of(widget: qt.QWidget) -> str:
        return widget.className()

    assert name_of(qt.QLabel()) == "QLabel"
    with pytest.raises(Exception, match="violates type hint"):
        name_of(qt.QTimer())


def test_flags_give_a_button_box_no_buttons(app) -> None:
    flags = qt.QDialogButtonBox.Ok | qt.QDialogButtonBox.Cancel
    assert qt.QDialogButtonBox(flags).buttons() == ()
    box = qt.QDialogButtonBox()
    box.setStandardButtons(flags)
    assert len(box.buttons()) == 2


def test_an_image_is_not_made_of_bytes(app) -> None:
    with pytest.raises(ValueError, match=r"QImage\(bytes"):
        qt.QImage(bytes(16), 2, 2, qt.QImage.Format_RGB32)
    image = qt.QImage(2, 2, qt.QImage.Format_RGB32)
    image.fill(0xFF112233)
    assert image.pixel(0, 0) == 0xFF112233


def test_a_signal_blocker_is_no_context_manager(app) -> None:
    widget = qt.QWidget()
    blocker = qt.QSignalBlocker(widget)
    with pytest.raises(TypeError, match="context manager"), blocker:
        pass
    assert widget.signalsBlocked()
    del blocker  # before its widget, or Qt crashes
    assert not widget.signalsBlocked()


def test_a_menu_takes_any_object_for_its_parent(app) -> None:
    assert qt.QMenu(object()).parent() is None


def test_both_names_of_exec_run_an_event_loop(app) -> None:
    for name in ("exec", "exec_"):
        loop = qt.QEventLoop()
        qt.QTimer.singleShot(0, loop.quit)
        assert getattr(loop, name)() == 0


def test_a_file_of_settings_is_in_the_folder_of_the_tests(settings) -> None:
    import slicer

    folder = Path(slicer.app.temporaryPath).parent
    assert Path(settings.fileName()).is_relative_to(folder)


def test_settings_keep_types_until_they_are_read_from_the_file(settings) -> None:
    from Harness import settings_after_restart

    for key, value in {"flag": True, "count": 3, "share": 0.25, "names": ["a", "b"]}.items():
        settings.setValue(key, value)
    assert settings.value("flag") is True
    after = settings_after_restart()
    assert [after.value(key) for key in ("flag", "count", "share")] == ["true", "3", "0.25"]
    assert after.value("names") == ("a", "b")
    assert after.value("missing") is None
