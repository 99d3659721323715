"""Loading of .ui files: stand-ins, dynamic properties, connections that carry nodes."""

from pathlib import Path

import pytest
import qt

_UI = """<ui version="4.0"><class>Panel</class>
<widget class="qMRMLWidget" name="Panel"><layout class="QVBoxLayout" name="panelLayout">
{items}
</layout></widget>
<customwidgets>{custom}</customwidgets><resources/><connections>{connections}</connections></ui>
"""
_ITEM = '<item><widget class="{cls}" name="{name}">{properties}</widget></item>'
_CUSTOM = "<customwidget><class>{cls}</class><extends>QWidget</extends></customwidget>"
_CONNECTION = (
    "<connection><sender>{0}</sender><signal>{1}</signal>"
    "<receiver>{2}</receiver><slot>{3}</slot></connection>"
)


def _load(folder: Path, items: list[tuple[str, str, str]], *connections: tuple[str, ...]):
    import slicer

    path = folder / "Panel.ui"
    custom = {cls for cls, *_ in items if not cls.startswith("Q")} | {"qMRMLWidget"}
    path.write_text(
        _UI.format(
            items="".join(_ITEM.format(cls=c, name=n, properties=p) for c, n, p in items),
            custom="".join(_CUSTOM.format(cls=cls) for cls in sorted(custom)),
            connections="".join(_CONNECTION.format(*c) for c in connections),
        )
    )
    return slicer.util.loadUI(str(path))


def _stand_in_names() -> list[str]:
    from Harness.widgets import stand_ins

    return [cls.__name__ for cls in stand_ins() if cls.__name__.startswith(("ctk", "qMRML"))]


def test_every_stand_in_can_be_loaded(app, tmp_path: Path) -> None:
    names = [name for name in _stand_in_names() if name != "ctkWidgetsUtils"]
    assert len(names) > 25
    widget = _load(tmp_path, [(name, f"the_{name}", "") for name in names])
    for name in names:
        assert widget.findChild(qt.QWidget, f"the_{name}").className() == name


def test_properties_of_stand_ins_are_set(app, tmp_path: Path) -> None:
    properties = (
        '<property name="minimum"><double>-2.5</double></property>'
        '<property name="suffix"><string> mm</string></property>'
        '<property name="SlicerParameterName" stdset="0"><string>size</string></property>'
        '<property name="toolTip"><string>How large</string></property>'
    )
    widget = _load(tmp_path, [("ctkSliderWidget", "size", properties)])
    slider = widget.findChild(qt.QWidget, "size")
    assert (slider.minimum, slider.suffix, slider.toolTip) == (-2.5, " mm", "<p>How large</p>")
    assert slider.property("SlicerParameterName") == "size"


def test_the_scene_is_handed_on(scene, tmp_path: Path) -> None:
    signal, slot = "mrmlSceneChanged(vtkMRMLScene*)", "setMRMLScene(vtkMRMLScene*)"
    widget = _load(
        tmp_path,
        [("qMRMLNodeComboBox", "with", ""), ("qMRMLNodeComboBox", "without", "")],
        ("Panel", signal, "with", slot),
    )
    widget.setMRMLScene(scene)
    assert widget.findChild(qt.QWidget, "with").mrmlScene() is scene
    assert widget.findChild(qt.QWidget, "without").mrmlScene() is None


def test_the_node_chosen_is_handed_on(scene, tmp_path: Path) -> None:
    widget = _load(
        tmp_path,
        [
            (
                "qMRMLNodeComboBox",
                "selector",
                '<property name="nodeTypes"><stringlist><string>vtkMRMLSegmentationNode</string>'
                "</stringlist></property>",
            ),
            ("qMRMLSegmentsTableView", "table", ""),
        ],
        (
            "selector",
            "currentNodeChanged(vtkMRMLNode*)",
            "table",
            "setSegmentationNode(vtkMRMLNode*)",
        ),
    )
    selector = widget.findChild(qt.QWidget, "selector")
    selector.setMRMLScene(scene)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    selector.setCurrentNode(node)
    assert widget.findChild(qt.QWidget, "table").segmentationNode() is node


def test_qt_connections_work_too(app, tmp_path: Path) -> None:
    widget = _load(
        tmp_path,
        [
            ("QCheckBox", "check", '<property name="checked"><bool>true</bool></property>'),
            ("QLabel", "label", ""),
        ],
        ("check", "toggled(bool)", "label", "setEnabled(bool)"),
    )
    widget.findChild(qt.QCheckBox, "check").setChecked(False)
    assert not widget.findChild(qt.QLabel, "label").enabled


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        (("Panel", "sceneChanged()", "label", "clear()"), "Panel.sceneChanged"),
        (("Panel", "mrmlSceneChanged(vtkMRMLScene*)", "lable", "clear()"), "lable"),
    ],
)
def test_connections_to_nothing_are_errors(app, tmp_path: Path, connection, message) -> None:
    from Harness import slot_errors

    with slot_errors.expected_slot_errors(), pytest.raises(ValueError, match=message):
        _load(tmp_path, [("QLabel", "label", "")], connection)


def test_unknown_widgets_are_named(app, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no stand-in for qMRMLMagicWidget"):
        _load(tmp_path, [("qMRMLMagicWidget", "magic", "")])


def test_a_missing_file_is_slicers_error(app, tmp_path: Path) -> None:
    import slicer

    with pytest.raises(RuntimeError, match="file not found"):
        slicer.util.loadUI(str(tmp_path / "none.ui"))
