"""Imports at start, and declared dependencies; `lint-imports` checks imports between modules."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import SpatialARAnomalyLib
from engine.model_examples import CARD, small_model
from SpatialARAnomalyLib.engine.model.model_file import save_model

PACKAGE = Path(SpatialARAnomalyLib.__file__).parent
NAME = PACKAGE.name
PROJECT = Path(__file__).parents[1] / "pyproject.toml"

HEAVY = ["torch", "transformers", "huggingface_hub", "scipy", "SimpleITK", "matplotlib"]

FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def tree(file: str) -> ast.Module:
    return ast.parse(FILES[file].read_text(encoding="utf-8"), file)


def imports(module: ast.AST, file: str) -> Iterator[str]:
    """Yield the full names of all modules that a file imports, at any place."""
    package = [NAME, *Path(file).parts[:-1]]
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            full = ".".join([*base, *([node.module] if node.module else [])])
            # An imported name may itself be a module.
            yield full
            yield from (f"{full}.{alias.name}" for alias in node.names)


def top(names: Iterator[str]) -> set[str]:
    """Return the third-party packages among full module names."""
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {NAME}


def declared(*extras: str) -> set[str]:
    """Return the normalized names of the distributions in pyproject.toml."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][one] for one in extras)]
    return {
        normalized(re.match(r"[\w.-]+", requirement)[0]) for one in lists for requirement in one
    }


def normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_what_is_imported_is_declared():
    distributions = importlib.metadata.packages_distributions()
    imported = {
        package
        for file in FILES
        if not file.startswith("slicerapp/")
        for package in top(imports(tree(file), file))
    }
    assert {"numpy", "torch", "typer"} <= imported
    missing = {
        package
        for package in imported
        if not {normalized(one) for one in distributions.get(package, [])}
        & declared("cluster", "dicomweb", "torch")
    }
    assert missing == set()


def test_what_is_declared_is_imported():
    distributions = importlib.metadata.packages_distributions()
    imported = {
        normalized(distribution)
        for file in FILES
        for package in top(imports(tree(file), file))
        for distribution in distributions.get(package, [])
    }
    assert declared("torch") - imported == set()


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


COMMANDS = [
    ["--help"],
    ["--version"],
    ["train", "--help"],
    ["normals", "--help"],
    ["detect", "--help"],
    ["evaluate", "--help"],
    ["demo", "--help"],
    ["encoders", "check", "--help"],
    ["models", "show", "--help"],
    ["models", "verify", "--help"],
    ["models", "list", "--help"],
    ["models", "import", "--help"],
    ["doctor", "--help"],
    ["offline-kit", "--help"],
    ["install-offline", "--help"],
]


def test_help_is_light():
    """Neither importing the package nor `--help` imports a slow package."""
    code = """
import json, sys
import SpatialARAnomalyLib
heavy, commands = json.loads(sys.argv[1])
loaded = {"import": [name for name in heavy if name in sys.modules]}
from SpatialARAnomalyLib.service.cli.main import main
for command in commands:
    sys.argv[1:] = command
    try:
        main()
    except SystemExit as end:
        assert not end.code, (command, end.code)
    loaded[" ".join(command)] = [name for name in heavy if name in sys.modules]
print(json.dumps(loaded), file=sys.stderr)
"""
    done = run_python(code, json.dumps([HEAVY, COMMANDS]))
    assert done.returncode == 0, done.stderr
    expected = {"import": []} | {" ".join(command): [] for command in COMMANDS}
    assert json.loads(done.stderr) == expected
    assert "Usage: spatial-ar-anomaly models show" in done.stdout
    assert SpatialARAnomalyLib.__version__ in done.stdout.splitlines()


def test_a_model_is_shown_and_verified_where_torch_is_not_installed(tmp_path):
    save_model(tmp_path / "brain.safetensors", CARD, small_model())
    code = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from SpatialARAnomalyLib.service.cli.main import main
main()
"""
    shown = run_python(code, "models", "show", str(tmp_path / "brain"), "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["name"] == CARD.name
    verified = run_python(code, "models", "verify", str(tmp_path / "brain"))
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "complete and unchanged" in verified.stdout


LIGHT = [
    "engine.errors",
    "engine.specs",
    "engine.progress",
    "engine.device",
    "engine.cards.encoder_card",
    "engine.cards.calibration",
    "engine.model.model_file",
    "service.events",
    "service.text",
    "service.detection.findings_table",
    "service.worker.main",
    "service.models.listing",
    "service.models.library",
    "service.encoders.catalog",
    "service.user_folder",
    "service.redaction",
    "service.encoders.library",
    "service.encoders.dinov3_license",
    "service.training.request",
    "service.models.wording",
    "service.training.folder",
    "service.setup.packages",
    "service.setup.doctor",
    "service.setup.kit_manifest",
    "service.outputs",
    "service.evaluation.wording",
]
"""Modules that the panel imports in Slicer's Python, before any package is installed."""

ABSENT = [
    "jaxtyping", "typer", "safetensors", "torch", "transformers", "nibabel", "rich", "slicerio",
    "filelock", "scipy", "skimage", "sklearn", "SimpleITK", "matplotlib", "huggingface_hub",
    "click",
]  # fmt: skip


BEFORE_ALL = ["__main__", "sitecustomize", "_distutils_hack", "distutils-precedence"]
"""Modules that an interpreter may load at its start."""


def test_the_panel_s_modules_need_numpy_alone(tmp_path):
    save_model(tmp_path / "models" / "brain", CARD, small_model())
    code = """
import importlib, json, sys
from pathlib import Path
absent, light, folder = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(absent))
for name in light:
    importlib.import_module("SpatialARAnomalyLib." + name)
from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.model.model_file import ModelCard, read_card
from SpatialARAnomalyLib.service.models.listing import list_models
(entry,) = list_models(Path(folder))
assert entry.card == read_card(entry.path) == ModelCard.from_dict(entry.card.to_dict())
calibration = Calibration.from_dict(json.loads(json.dumps(entry.card.calibration.to_dict())))
threshold = calibration.threshold(0.01)
assert calibration.supports(0.5) and 0 < calibration.p_value(threshold) < 1
others = {name.split(".")[0] for name in sys.modules if sys.modules[name] is not None}
others = {name for name in others if not name.startswith("__editable__")}
print(json.dumps([threshold, sorted(others - set(sys.stdlib_module_names))]))
"""
    done = run_python(code, json.dumps([ABSENT, LIGHT, str(tmp_path / "models")]))
    assert done.returncode == 0, done.stderr
    threshold, others = json.loads(done.stdout)
    assert threshold == CARD.calibration.threshold(0.01)
    assert set(others) <= {"SpatialARAnomalyLib", "numpy", *BEFORE_ALL}
