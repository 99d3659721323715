"""What Slicer's build and its loader expect of the module's files, held against the disk."""

import ast
import re
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from SpatialARAnomalyLib.service.setup.packages import REQUIREMENTS

ROOT = Path(__file__).parents[1]
MODULE = ROOT / "SpatialARAnomaly"
LIBRARY = MODULE / "SpatialARAnomalyLib"
UIS = {
    path.stem: ElementTree.parse(path).getroot()
    for path in sorted((MODULE / "Resources/UI").glob("*.ui"))
}
"""The panel, and its sections that have files of their own."""

SLICER_SIDE = [MODULE / "SpatialARAnomaly.py", *sorted((LIBRARY / "slicerapp").rglob("*.py"))]

IN_SLICER = {"slicer", "qt", "ctk", "vtk", "numpy", "SpatialARAnomalyLib"}
"""What may be imported when Slicer starts: all else is installed later, or never."""

BINDABLE = {
    "bool": {"QCheckBox", "ctkCheckBox"},
    "int": {"QSlider", "QSpinBox"},
    "float": {
        "QDoubleSpinBox",
        "ctkSliderWidget",
        "qMRMLSliderWidget",
        "ctkDoubleSlider",
        "ctkDoubleSpinBox",
        "qMRMLSpinBox",
    },
    "str": {"QLineEdit", "QTextEdit", "QLabel"},
    "vtkMRMLScalarVolumeNode": {"qMRMLNodeComboBox"},
}
"""Widgets that Slicer's parameterNodeWrapper can bind to a type (its gui_connection.md)."""


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def widgets() -> dict[str, ElementTree.Element]:
    return {widget.get("name"): widget for ui in UIS.values() for widget in ui.iter("widget")}


def properties(widget: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {one.get("name"): one for one in widget.findall("property")}


def cmake_list(name: str) -> set[str]:
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    listed = re.search(rf"set\({name}\n(.*?)\n  \)", text, re.DOTALL)[1]
    return {line.strip().replace("${MODULE_NAME}", MODULE.name) for line in listed.splitlines()}


def on_disk(paths: Iterator[Path]) -> set[str]:
    return {
        path.relative_to(MODULE).as_posix()
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_cmake_names_every_script():
    scripts = on_disk(MODULE.rglob("*.py"))
    assert "SpatialARAnomalyLib/slicerapp/Widget.py" in scripts
    assert cmake_list("MODULE_PYTHON_SCRIPTS") == scripts


def test_cmake_names_every_resource():
    resources = on_disk((MODULE / "Resources").rglob("*"))
    resources |= on_disk((MODULE / "SpatialARAnomalyLib").rglob("*.md"))
    resources |= on_disk((MODULE / "SpatialARAnomalyLib").rglob("*.safetensors"))
    assert "Resources/UI/SpatialARAnomaly.ui" in resources
    assert cmake_list("MODULE_PYTHON_RESOURCES") == resources


def test_only_the_module_lies_beside_the_library():
    """Slicer tries to load every file of this folder as a module."""
    assert [path.name for path in MODULE.glob("*.py")] == ["SpatialARAnomaly.py"]


def test_the_module_file_is_short():
    lines = (MODULE / "SpatialARAnomaly.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150


def file_scope_imports(module: ast.Module) -> Iterator[str]:
    for node in module.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", SLICER_SIDE, ids=lambda path: path.name)
def test_nothing_foreign_is_imported_when_slicer_starts(path):
    assert set(file_scope_imports(tree(path))) <= IN_SLICER | sys.stdlib_module_names


@pytest.mark.parametrize("path", SLICER_SIDE, ids=lambda path: path.name)
def test_translated_texts_are_single_literals(path):
    """Slicer's extraction of texts reads no f-strings and no sums."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("_", "translate"):
            texts = node.args if ast.unparse(node.func) == "_" else node.args[1:]
            assert len(texts) == 1, ast.unparse(node)
            assert isinstance(texts[0], ast.Constant), ast.unparse(node)
            assert isinstance(texts[0].value, str), ast.unparse(node)


@pytest.mark.parametrize("path", SLICER_SIDE, ids=lambda path: path.name)
def test_the_translating_name_is_never_reassigned(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            assert node.id != "_", f"line {node.lineno}"
        if isinstance(node, ast.arg):
            assert node.arg != "_", f"line {node.lineno}"


@pytest.mark.parametrize("path", SLICER_SIDE, ids=lambda path: path.name)
def test_no_event_loop_is_spun_and_no_thread_started(path):
    called = {ast.unparse(node.func) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)}
    assert not {name for name in called if name.endswith((".processEvents", ".exec"))}
    assert not {name for name in called if name.endswith(("Thread", "ThreadPoolExecutor"))}


def test_widgets_named_in_code_exist():
    used = set()
    for path in SLICER_SIDE:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in (
                "ui", "self.ui", "self._ui",
            ):  # fmt: skip
                used.add(node.attr)
    assert {"detectButton", "findingsTable"} <= used
    assert used - set(widgets()) == set()


def parameters() -> dict[str, str]:
    """Name and type of every parameter."""
    (wrapper,) = [
        node
        for node in tree(LIBRARY / "slicerapp/ParameterNode.py").body
        if isinstance(node, ast.ClassDef)
    ]
    types = {}
    for node in wrapper.body:
        if isinstance(node, ast.AnnAssign):
            kind = node.annotation
            if isinstance(kind, ast.Subscript):  # Annotated[type, …]
                kind = kind.slice.elts[0]
            types[node.target.id] = ast.unparse(kind)
    return types


def test_bound_widgets_can_carry_their_parameters():
    bound = {
        name: properties(widget)["SlicerParameterName"].findtext("string")
        for name, widget in widgets().items()
        if "SlicerParameterName" in properties(widget)
    }
    assert len(set(bound.values())) == len(bound) >= 4
    for name, parameter in bound.items():
        assert parameter in parameters(), name
        assert widgets()[name].get("class") in BINDABLE[parameters()[parameter]], name


def test_no_two_widgets_have_the_same_name():
    names = [widget.get("name") for ui in UIS.values() for widget in ui.iter("widget")]
    assert len(set(names)) == len(names)


def test_every_node_selector_hears_of_the_scene():
    selectors = {
        name for name, widget in widgets().items() if widget.get("class") == "qMRMLNodeComboBox"
    }
    connected = {
        one.findtext("receiver")
        for ui in UIS.values()
        for one in ui.iter("connection")
        if one.findtext("sender") == ui.findtext("class")
        and one.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
        and one.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
    }
    assert selectors
    assert connected == selectors


def test_the_panel_and_its_sections_are_widgets_of_the_scene():
    assert {ui.find("widget").get("class") for ui in UIS.values()} == {"qMRMLWidget"}


def test_node_types_are_not_translated():
    for widget in widgets().values():
        for name in ("nodeTypes", "hideChildNodeTypes", "SlicerParameterName"):
            if name in properties(widget):
                (value,) = properties(widget)[name]
                assert value.get("notr") == "true", widget.get("name")


def test_custom_widgets_are_declared():
    for ui in UIS.values():
        declared = {one.findtext("class") for one in ui.iter("customwidget")}
        used = {widget.get("class") for widget in ui.iter("widget")}
        assert {name for name in used if not name.startswith("Q")} == declared


def test_buttons_that_cannot_be_clicked_say_why():
    for name, widget in widgets().items():
        if "enabled" in properties(widget):
            assert properties(widget)["toolTip"].findtext("string"), name


def test_requirements_are_the_packages_own_without_what_slicer_brings():
    """A second version of Slicer's own packages could keep Slicer from starting."""
    brought = {"numpy", "packaging", "pydicom", "scipy", "simpleitk"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {*project["dependencies"], *project["optional-dependencies"]["torch"]}
    assert set(REQUIREMENTS) == {
        one for one in declared if re.match(r"[\w-]+", one)[0].lower() not in brought
    }


def test_the_catalog_knows_the_extension():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS"):
        assert re.search(rf'set\(EXTENSION_{name} "[^"]+"\)', text), name
    assert 'set(EXTENSION_DEPENDS "PyTorch")' in text
    for url in re.findall(r'"https://raw.githubusercontent.com/[^"]+/main/([^"]+)"', text):
        assert (ROOT / url).is_file(), url
