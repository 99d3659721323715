"""What the Extensions Index, Slicer's packaging and its extraction of texts expect."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from xml.etree import ElementTree

import pytest
from test_slicer_module import LIBRARY, MODULE, ROOT, SLICER_SIDE, cmake_list, tree

DESCRIPTION = ROOT / "Resources/SpatialARAnomaly.json"
"""The extension's entry in the Extensions Index, whose name is that of the extension."""

MAX_PATH_CHARS = 120
"""Windows allows 260, of which Slicer's folders of builds and installations take half."""


def own_files() -> list[str]:
    """Return the repository's files, without what tools and commands leave."""
    folders = ("SpatialARAnomaly", "Testing", "Resources", ".ci", ".github")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    return sorted(
        path.relative_to(ROOT).as_posix()
        for path in (*found, *ROOT.iterdir())
        if path.is_file() and not re.search(r"__pycache__|\.egg-info", path.as_posix())
    )


FILES = own_files()


def test_the_description_is_valid():
    """By the index's schema 1.0.1 and the rules of its check_description_files.py."""
    content = DESCRIPTION.read_bytes()
    assert b"\r" not in content
    described = json.loads(content)
    assert set(described) == {
        "$schema", "build_dependencies", "build_subdirectory", "category", "scm_revision",
        "scm_url", "tier",
    }  # fmt: skip
    assert described["$schema"].endswith("/slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert described["category"] in {"Analysis", "Neuroimaging", "Quantification", "Segmentation"}
    assert described["scm_revision"] == "main"  # a hash would need a change per release
    assert described["tier"] in (1, 3, 5)


def test_the_description_agrees_with_cmake():
    described = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f"project({DESCRIPTION.stem})" in cmake
    (depends,) = re.findall(r'set\(EXTENSION_DEPENDS "([^"]*)"\)', cmake)
    assert described["build_dependencies"] == depends.split()
    assert described["category"] in (MODULE / "SpatialARAnomaly.py").read_text(encoding="utf-8")
    repository = described["scm_url"].removesuffix(".git")
    assert repository.split("/")[-1] == f"Slicer{DESCRIPTION.stem}"
    named = re.findall(r"https://(?:raw\.githubusercontent|github)\.com/(\w+/\w+)", cmake)
    assert {f"https://github.com/{one}" for one in named} == {repository}
    assert (ROOT / "LICENSE").is_file()


def test_the_home_page_says_what_the_index_asks():
    """License, patents, publication, safety, removal of downloads, and the research-use line."""
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for words in (
        "Apache-2.0", "patents", "arXiv 2603.02974", "No image leaves it", "research use only",
        "Not a medical device", "DINOv3 License", "Uninstall",
    ):  # fmt: skip
        assert words in text, words


def test_file_names_suit_every_system():
    assert "SpatialARAnomaly/SpatialARAnomaly.py" in FILES
    assert len({path.casefold() for path in FILES}) == len(FILES)
    for path in FILES:
        assert len(path) <= MAX_PATH_CHARS, path
        assert not re.search(r'[<>:"\\|?*\x00-\x1f]', path), path
        for part in path.split("/"):
            assert part == part.rstrip(". "), path
            assert not PureWindowsPath(part).is_reserved(), path


def test_texts_end_their_lines_with_line_feeds():
    """All but the examples of other programs; `.gitattributes` keeps it so on Windows."""
    assert "* text=auto eol=lf" in (ROOT / ".gitattributes").read_text(encoding="utf-8")
    for path in FILES:
        if not path.startswith("Testing/Data/odd/"):
            content = (ROOT / path).read_bytes()
            if b"\0" not in content:
                assert b"\r\n" not in content, path


def context_of(path: Path) -> str:
    """Return the context under which Slicer's `tr` looks up the texts of a file."""
    package = (path.parent / "__init__.py").exists()
    return f"{path.parent.name}.{path.stem}" if package else path.stem


def calls_of(path: Path, function: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == function:
            yield node


def test_qt_extracts_every_text(tmp_path):
    """As Slicer's update_translations.py does: `_("…")` by a pattern, then Qt's lupdate.

    The pattern takes no mixed quotation marks and nothing inside of an f-string.
    """
    PySide6 = pytest.importorskip("PySide6")  # noqa: N806 - the package's name
    lupdate = Path(PySide6.__file__).parent / "lupdate"
    if not lupdate.exists():
        pytest.skip("this PySide6 has no lupdate")
    wanted, files = set(), []
    for path in SLICER_SIDE:
        context = context_of(path)
        wanted |= {(context, one.args[0].value) for one in calls_of(path, "_")}
        code = path.read_text(encoding="utf-8")
        for quote in "\"'":
            code = re.sub(
                rf"(?<=[^_])_\((\s*{quote}.+?{quote}\s*)\)",
                lambda found, context=context: f'translate("{context}", {found[1]})',
                code,
                flags=re.DOTALL,
            )
        files.append(tmp_path / f"{context}.py")
        files[-1].write_text(code, encoding="utf-8")
    forms = sorted((MODULE / "Resources/UI").glob("*.ui"))
    (tmp_path / "files.txt").write_text("\n".join(map(str, [*files, *forms])), encoding="utf-8")
    done = subprocess.run(
        [lupdate, f"@{tmp_path / 'files.txt'}", "-ts", tmp_path / "texts_en-US.ts"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    contexts = ElementTree.parse(tmp_path / "texts_en-US.ts").iter("context")
    found = {
        (one.findtext("name"), message.findtext("source"))
        for one in contexts
        for message in one.iter("message")
    }
    assert len(wanted) > 500
    assert wanted - found == set()


SHOWING = {
    "QAction", "QGroupBox", "QLabel", "QPushButton", "addAction", "addItem", "confirm",
    "setAccessibleDescription", "setAccessibleName", "setFormat", "setLabelText",
    "setPlaceholderText", "setStatusTip", "setText", "setTitle", "setToolTip", "setWindowTitle",
    "showStatusMessage",
}  # fmt: skip
"""Functions whose texts a user sees."""


def untranslated(node: ast.AST) -> Iterator[str]:
    """Yield the texts with letters in an expression, but those that are translated."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("_", "translate"):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from re.findall(r"^.*[A-Za-z].*$", node.value, re.MULTILINE)
    for child in ast.iter_child_nodes(node):
        yield from untranslated(child)


def test_texts_that_are_shown_can_be_translated():
    for path in SLICER_SIDE:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in SHOWING:
                shown = [text for one in node.args for text in untranslated(one)]
                assert shown == [], f"{path.name}:{node.lineno}"


IN_THE_INSTALLED_MODULE = """
import pkgutil, sys
from importlib import import_module
from pathlib import Path
from Harness import load_scripted_module, start

tree, work = map(Path, sys.argv[1:])
start(work)
module = load_scripted_module(tree / "SpatialARAnomaly.py")
module.enter()
assert module.ui.detectButton.text
import SpatialARAnomalyLib
assert Path(SpatialARAnomalyLib.__file__).is_relative_to(tree), SpatialARAnomalyLib.__file__
packages = [p for p in pkgutil.walk_packages(SpatialARAnomalyLib.__path__, "SpatialARAnomalyLib.")]
for package in packages:
    import_module(package.name)
from SpatialARAnomalyLib.service.encoders.dinov3_license import license_text
from SpatialARAnomalyLib.service.encoders.loading import load_encoder
load_encoder("demonstration", device="cpu", allow_download=False)
assert license_text()
print("LOADED", len(packages))
module.unload()
"""


@pytest.mark.slow
def test_the_installed_files_are_a_whole_module(tmp_path):
    """Only what CMake lists, as Slicer's build installs it: module, forms, weights, license."""
    installed = tmp_path / "qt scripted modules é"
    for file in cmake_list("MODULE_PYTHON_SCRIPTS") | cmake_list("MODULE_PYTHON_RESOURCES"):
        (installed / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(MODULE / file, installed / file)
    paths = [str(installed), str(ROOT / "Testing"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_INSTALLED_MODULE, installed, tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = re.findall(r"LOADED (\d+)", done.stdout)
    modules = set(LIBRARY.rglob("*.py")) - {LIBRARY / "__init__.py"}
    assert int(line) == len(modules)
