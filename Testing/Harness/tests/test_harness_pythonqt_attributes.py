"""What PythonQt lets one read and set on Qt objects, and what it refuses."""

import pytest
import qt
import shiboken6
from Harness import set_qt_form


@pytest.fixture
def button(app):
    return qt.QPushButton("Apply")


class Panel(qt.QWidget):
    """A Python subclass, as modules make them."""

    def __init__(self, parent=None):
        qt.QWidget.__init__(self, parent)
        self.own = 1


def test_properties_are_values(button) -> None:
    assert button.text == "Apply"
    button.text = "Cancel"
    assert button.text == "Cancel"
    button.setText("Close")
    assert button.text == "Close"


@pytest.mark.parametrize("name", ["text", "width", "size", "sizeHint", "enabled", "toolTip"])
def test_a_property_cannot_be_called(button, name: str) -> None:
    with pytest.raises(TypeError, match="not callable"):
        getattr(button, name)()


@pytest.mark.parametrize("name", ["isEnabled", "isChecked", "isVisible"])
def test_methods_beside_properties_remain(button, name: str) -> None:
    assert isinstance(getattr(button, name)(), bool)


def test_methods_that_look_like_properties_remain(app) -> None:
    layout = qt.QVBoxLayout()
    assert layout.count() == 0
    table, items = qt.QTableWidget(2, 3), qt.QListWidget()
    assert (table.rowCount, table.columnCount) == (2, 3)
    assert table.currentRow() == -1
    assert items.currentRow == -1
    assert qt.QComboBox().count == 0
    assert qt.QProcess().state() == qt.QProcess.NotRunning


def test_contents_margins_is_a_method_in_qt_5_so_it_is_only_set(app) -> None:
    layout = qt.QVBoxLayout()
    layout.setContentsMargins(1, 2, 3, 4)
    assert layout.contentsMargins().top() == 2
    set_qt_form(6)
    try:
        assert layout.contentsMargins.top() == 2
    finally:
        set_qt_form(5)


def test_a_read_only_property_cannot_be_set(button) -> None:
    with pytest.raises(AttributeError, match="not writable"):
        button.width = 5


def test_a_value_of_the_wrong_type_is_refused(button) -> None:
    with pytest.raises(AttributeError, match="does not accept"):
        button.text = object()


def test_an_unknown_attribute_cannot_be_set_on_a_qt_object(button) -> None:
    with pytest.raises(AttributeError, match="not allowed"):
        button.note = 1


def test_an_unknown_attribute_cannot_be_set_on_a_stand_in(app) -> None:
    import ctk
    import slicer

    for widget in (ctk.ctkCollapsibleButton(), slicer.qMRMLNodeComboBox(), slicer.app):
        with pytest.raises(AttributeError, match="not allowed"):
            widget.note = 1


def test_a_python_subclass_accepts_attributes(app) -> None:
    panel = Panel()
    panel.note = "kept"
    assert (panel.own, panel.note) == (1, "kept")


@pytest.mark.parametrize(
    ("name", "kind"), [("setText", "Slot"), ("clicked", "Signal"), ("layout", "Slot")]
)
def test_methods_and_signals_cannot_be_overwritten(button, name: str, kind: str) -> None:
    with pytest.raises(AttributeError, match=f"{kind} '{name}' can not be overwritten"):
        setattr(button, name, None)


@pytest.mark.parametrize("name", ["layout", "x", "width", "update"])
def test_not_even_on_a_python_subclass(app, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(Panel(), name, 3)


def test_single_shot_is_no_property(app) -> None:
    with pytest.raises(AttributeError, match="can not be overwritten"):
        qt.QTimer().singleShot = True


def test_name_is_the_object_name(button) -> None:
    button.name = "applyButton"
    assert (button.name, button.objectName) == ("applyButton", "applyButton")


def test_a_child_is_found_by_its_name_after_everything_else(app) -> None:
    panel = Panel()
    layout = qt.QVBoxLayout(panel)
    child = qt.QLabel()
    layout.addWidget(child)
    child.setObjectName("resultLabel")
    assert panel.resultLabel is child
    child.setObjectName("own")
    assert panel.own == 1
    with pytest.raises(AttributeError, match="no attribute named 'resultLabel'"):
        _ = panel.resultLabel


def test_a_dynamic_property_is_an_attribute_and_its_lists_are_tuples(button) -> None:
    button.setProperty("SlicerParameterName", "threshold")
    button.setProperty("numbers", [1, 2])
    assert button.SlicerParameterName == "threshold"
    assert button.numbers == (1, 2)
    assert button.property("numbers") == (1, 2)
    button.numbers = 5
    assert button.property("numbers") == 5


def test_a_deleted_object_raises_value_error(button) -> None:
    assert button
    shiboken6.delete(button)
    assert not button
    with pytest.raises(ValueError, match="destroyed QPushButton"):
        _ = button.text
    with pytest.raises(ValueError, match="destroyed QPushButton"):
        button.setText("x")
    with pytest.raises(AttributeError, match="destroyed QPushButton"):
        button.text = "x"


def test_class_name_is_that_of_the_object_not_of_its_meta_object(button) -> None:
    assert button.className() == "QPushButton"
    assert button.metaObject().className() == "QMetaObject"
    assert button.inherits("QAbstractButton")


def test_names_that_pythonqt_lacks(app) -> None:
    assert qt.Qt.AlignLeft == qt.Qt.AlignLeft
    with pytest.raises(AttributeError, match=r"Qt\.CTRL"):
        _ = qt.Qt.CTRL
    with pytest.raises(AttributeError, match="no attribute 'QRegExp'"):
        _ = qt.QRegExp


def test_a_size_hint_can_be_overridden_and_read(app) -> None:
    class Large(qt.QWidget):
        def sizeHint(self):
            return qt.QSize(500, 400)

    large = Large()
    holder = qt.QWidget()
    qt.QVBoxLayout(holder).addWidget(large)
    assert holder.sizeHint.width() >= 500
