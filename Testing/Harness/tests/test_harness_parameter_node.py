"""Typed parameters: kept in the scene's node, checked, and bound to widgets."""

import enum
from pathlib import Path
from typing import Annotated

import pytest
import qt


class Plane(enum.Enum):
    AXIAL = 1
    CORONAL = 2

    def label(self) -> str:
        """What the user reads."""
        return self.name.capitalize()


@pytest.fixture
def wrapper_class(scene):
    import slicer
    from slicer.parameterNodeWrapper import (
        Choice,
        Default,
        Maximum,
        Minimum,
        WithinRange,
        parameterNodeWrapper,
    )

    @parameterNodeWrapper
    class Parameters:
        volume: slicer.vtkMRMLScalarVolumeNode
        either: slicer.vtkMRMLScalarVolumeNode | slicer.vtkMRMLSegmentationNode | None = None
        share: Annotated[float, WithinRange(0, 1)] = 0.5
        count: Annotated[int, Minimum(1), Maximum(9), Default(3)]
        name: str = "lesion"
        device: Annotated[str, Choice(["cpu", "cuda"])] = "cpu"
        plane: Plane
        isOn: bool = True
        folder: Path = Path("models")
        free: float

    return Parameters


@pytest.fixture
def parameters(wrapper_class, scene):
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    return wrapper_class(node)


def _volume(scene, name="ct"):
    return scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


def test_defaults_are_written_at_first_and_kept_after(parameters, wrapper_class) -> None:
    node = parameters.parameterNode
    assert parameters.share == 0.5
    assert (parameters.count, parameters.plane, parameters.volume) == (3, Plane.AXIAL, None)
    assert parameters.folder == Path("models")
    assert node.GetParameter("share") == "0.5"
    assert node.GetParameter("plane") == "AXIAL"
    assert node.GetParameter("isOn") == "True"
    parameters.share = 0.25
    assert wrapper_class(node).share == 0.25
    assert parameters.default("share").value == 0.5


def test_what_the_node_says_is_what_is_read(parameters) -> None:
    node = parameters.parameterNode
    node.SetParameter("plane", "CORONAL")
    node.SetParameter("isOn", "False")
    node.SetParameter("free", "2.5")
    assert (parameters.plane, parameters.isOn, parameters.free) == (Plane.CORONAL, False, 2.5)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("share", 1.5, ValueError),
        ("count", 0, ValueError),
        ("count", 10, ValueError),
        ("device", "tpu", ValueError),
        ("name", None, ValueError),
        ("name", 3, TypeError),
        ("count", 2.5, TypeError),
        ("isOn", 1, TypeError),
        ("plane", "AXIAL", TypeError),
        ("folder", "models", TypeError),
        ("volume", "ct", TypeError),
    ],
)
def test_values_that_are_not_allowed_raise_and_change_nothing(
    parameters, name: str, value, error
) -> None:
    before = getattr(parameters, name)
    with pytest.raises(error):
        setattr(parameters, name, value)
    assert getattr(parameters, name) == before


def test_a_node_is_a_reference_that_ends_with_the_node(parameters, scene) -> None:
    volume = _volume(scene)
    parameters.volume = volume
    assert parameters.volume is volume
    assert parameters.parameterNode.GetNodeReferenceID("volume") == volume.GetID()
    scene.RemoveNode(volume)
    assert parameters.volume is None


def test_one_of_several_types_of_nodes(parameters, scene) -> None:
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    parameters.either = segmentation
    assert parameters.either is segmentation
    parameters.either = None
    assert parameters.either is None


def test_observers_hear_every_change_and_none_twice(parameters) -> None:
    import slicer
    import vtk

    heard = []
    tag = parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: heard.append(1))
    parameters.name = "organ"
    parameters.name = "organ"
    assert len(heard) == 1
    with slicer.util.NodeModify(parameters):
        parameters.share = 0.1
        parameters.count = 4
    assert len(heard) == 2
    parameters.RemoveObserver(tag)
    parameters.Modified()
    assert len(heard) == 2


def test_values_by_name(parameters, wrapper_class) -> None:
    parameters.setValue("count", 5)
    assert parameters.getValue("count") == 5
    assert wrapper_class.dataType("name") is str
    with pytest.raises(ValueError, match="Cannot find a param with the given name: counts"):
        parameters.getValue("counts")


def test_a_class_is_known_as_a_wrapper(parameters, wrapper_class) -> None:
    from slicer.parameterNodeWrapper import isParameterNodeWrapper

    assert isParameterNodeWrapper(wrapper_class)
    assert isParameterNodeWrapper(parameters)
    assert not isParameterNodeWrapper(int)


def test_reserved_names_are_refused(scene) -> None:
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    with pytest.raises(ValueError, match="reserved name"):

        @parameterNodeWrapper()
        class Parameters:
            connectGui: int


def test_a_first_value_outside_its_limits_is_refused(scene) -> None:
    from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

    @parameterNodeWrapper
    class Parameters:
        share: Annotated[float, WithinRange(1, 2)]

    with pytest.raises(ValueError, match="range"):
        Parameters(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))


def _widgets() -> dict:
    import ctk
    import slicer

    widgets = {
        "volume": slicer.qMRMLNodeComboBox(),
        "share": ctk.ctkSliderWidget(),
        "count": qt.QSpinBox(),
        "name": qt.QLineEdit(),
        "device": qt.QComboBox(),
        "plane": ctk.ctkComboBox(),
        "isOn": qt.QCheckBox(),
        "folder": ctk.ctkPathLineEdit(),
        "free": ctk.ctkDoubleSpinBox(),
    }
    widgets["volume"].setMRMLScene(slicer.mrmlScene)
    widgets["volume"].noneEnabled = True
    return widgets


def test_widgets_show_the_parameters_and_set_them(parameters, scene) -> None:
    widgets = _widgets()
    volume = _volume(scene)
    parameters.connectParametersToGui(widgets)
    assert widgets["share"].value == 0.5
    assert (widgets["share"].minimum, widgets["share"].maximum) == (0, 1)
    assert (widgets["count"].minimum, widgets["count"].maximum) == (1, 9)
    assert widgets["plane"].currentText == "Axial"
    assert [widgets["device"].itemText(i) for i in range(2)] == ["cpu", "cuda"]
    widgets["volume"].setCurrentNode(volume)
    widgets["share"].value = 0.75
    widgets["count"].value = 7
    widgets["name"].text = "organ"
    widgets["device"].setCurrentIndex(1)
    widgets["plane"].setCurrentIndex(1)
    widgets["isOn"].click()
    widgets["folder"].currentPath = "/elsewhere"
    widgets["free"].value = -12.25
    assert parameters.volume is volume
    assert (parameters.share, parameters.count, parameters.name) == (0.75, 7, "organ")
    assert (parameters.device, parameters.plane) == ("cuda", Plane.CORONAL)
    assert (parameters.isOn, parameters.folder) == (False, Path("/elsewhere"))
    assert parameters.free == -12.25


def test_widgets_follow_the_parameters_until_they_are_disconnected(parameters) -> None:
    widgets = _widgets()
    tag = parameters.connectParametersToGui(widgets)
    parameters.count = 8
    parameters.plane = Plane.CORONAL
    assert (widgets["count"].value, widgets["plane"].currentText) == (8, "Coronal")
    parameters.disconnectGui(tag)
    parameters.disconnectGui(tag)
    parameters.count = 2
    assert widgets["count"].value == 8
    widgets["count"].value = 5
    assert parameters.count == 2


def test_widgets_are_found_by_the_property_they_have(parameters) -> None:
    panel = qt.QWidget()
    layout = qt.QVBoxLayout(panel)
    edit, other = qt.QLineEdit(), qt.QLineEdit()
    layout.addWidget(edit)
    layout.addWidget(other)
    edit.setProperty("SlicerParameterName", "name")
    parameters.connectGui(panel)
    assert (edit.text, other.text) == ("lesion", "")


def test_a_widget_that_names_no_parameter_is_an_error(parameters) -> None:
    panel = qt.QWidget()
    edit = qt.QLineEdit(panel)
    edit.setProperty("SlicerParameterName", "nam")
    with pytest.raises(ValueError, match="nam"):
        parameters.connectGui(panel)


def test_subclasses_of_the_known_widgets_are_refused(parameters) -> None:
    class Edit(qt.QLineEdit):
        pass

    for widget in (Edit(), qt.QPlainTextEdit(), qt.QRadioButton()):
        with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
            parameters.connectParametersToGui({"name": widget})


def test_a_slider_needs_limits_and_a_combo_box_choices(parameters) -> None:
    import ctk

    with pytest.raises(RuntimeError):
        parameters.connectParametersToGui({"free": ctk.ctkSliderWidget()})
    with pytest.raises(RuntimeError):
        parameters.connectParametersToGui({"name": qt.QComboBox()})


def test_a_button_becomes_checkable(parameters) -> None:
    button = qt.QPushButton()
    button.setCheckable(True)
    parameters.connectParametersToGui({"isOn": button})
    assert button.checked
    button.click()
    assert parameters.isOn is False


def test_parameters_come_back_with_a_scene_file(parameters, wrapper_class, scene, tmp_path) -> None:
    import slicer

    parameters.name = "organ"
    parameters.volume = _volume(scene, "ct2")
    assert slicer.util.saveScene(str(tmp_path / "scene.mrml"))
    scene.Clear(False)
    slicer.util.loadScene(str(tmp_path / "scene.mrml"))
    nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
    again = wrapper_class(next(node for node in nodes if node.HasParameter("share")))
    assert again.name == "organ"
