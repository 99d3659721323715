"""A default stands in its spec and nowhere else: not in options, the panel or its forms."""

import ast
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import SpatialARAnomalyLib
from SpatialARAnomalyLib.engine.specs import (
    FindingsSpec,
    Plane,
    Preset,
    SliceSpec,
    TrainingSpec,
)
from SpatialARAnomalyLib.service.training.request import TrainSpec

PACKAGE = Path(SpatialARAnomalyLib.__file__).parent
FILES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "engine/specs.py"})
FORMS = sorted((PACKAGE.parent / "Resources/UI").glob("*.ui"))

DEFAULTS = {
    field.name: field.default
    for kind in (SliceSpec, TrainingSpec, FindingsSpec, TrainSpec)
    for field in fields(kind)
    if isinstance(field.default, int | float | Plane | Preset)
    if not isinstance(field.default, bool)
}


def word(name: str) -> str:
    """Reduce a name to one form, so that `size_px`, `SizePx` and `trainSizePx` can be compared."""
    return name.replace("_", "").lower()


WORDS = {name: word(name) for name in DEFAULTS} | {
    "min_volume_ml": "volumeml", "size_px": "size", "false_positive_rate": "positiverate"
}  # fmt: skip
"""Part of a name that refers to a field, also in the panel and its forms."""

DISTINCTIVE = {value for value in DEFAULTS.values() if isinstance(value, int) and value > 100}
"""Numbers that mean the default under any name."""


def is_default(name: str, value: object) -> bool:
    """Return True if this is the default of a field that the name refers to."""
    same = {field for field, default in DEFAULTS.items() if value in (default, str(default))}
    return any(WORDS[field] in word(name) for field in same) and not isinstance(value, bool)


def named_constants(tree: ast.AST) -> Iterator[tuple[str, ast.Constant]]:
    """Yield constants with the names they are assigned to."""
    for node in ast.walk(tree):
        pairs: list[tuple[str, ast.AST | None]] = []
        match node:
            case ast.Assign(targets=targets):
                pairs = [(ast.unparse(target), node.value) for target in targets]
            case ast.AnnAssign():
                pairs = [(ast.unparse(node.target), node.value)]
            case ast.keyword(arg=str(name)):
                pairs = [(name, node.value)]
            case ast.Dict():
                pairs = [
                    (key.value, value)
                    for key, value in zip(node.keys, node.values, strict=True)
                    if isinstance(key, ast.Constant) and isinstance(key.value, str)
                ]
            case ast.arguments():
                positional = [*node.posonlyargs, *node.args]
                late = positional[len(positional) - len(node.defaults) :]
                given = [*zip(late, node.defaults, strict=True)]
                given += [*zip(node.kwonlyargs, node.kw_defaults, strict=True)]
                pairs = [(argument.arg, value) for argument, value in given]
            case ast.FunctionDef():
                returned = (one.value for one in ast.walk(node) if isinstance(one, ast.Return))
                pairs = [(node.name, value) for value in returned]
        for name, value in pairs:
            match value:
                case ast.Constant():
                    yield name, value
                case ast.IfExp(body=one, orelse=other):
                    yield from (
                        (name, end) for end in (one, other) if isinstance(end, ast.Constant)
                    )


def repeated(code: str) -> list[str]:
    """List the places where code repeats a default of a spec."""
    tree = ast.parse(code)
    found = [
        f"line {constant.lineno}: {name} = {constant.value!r}"
        for name, constant in named_constants(tree)
        if is_default(name, constant.value)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int):
            options = (f"--{name.replace('_', '-')} {value}" for name, value in DEFAULTS.items())
            if node.value in DISTINCTIVE or any(
                re.search(rf"{re.escape(one)}(?![\w.])", str(node.value)) for one in options
            ):
                found.append(f"line {node.lineno}: {node.value!r}")
    return found


def test_no_code_repeats_a_default():
    found = {file.name: repeated(file.read_text(encoding="utf-8")) for file in FILES}
    assert {name: places for name, places in found.items() if places} == {}


@pytest.mark.parametrize(
    "code",
    [
        "size_px: int = 448", "x = 448", "TRAINING = {'SizePx': '448'}", "EPOCHS = 40",
        "make(epochs=40)", "def f(batch_size=64): ...", "def f(*, learning_rate=1e-3): ...",
        "def falsePositiveRate(self): return rate if rate else 0.001", "leastVolumeMl = 0.5",
        "trainPlane: str = 'axial'", "help = 'x --size-px 448 --y'", "held_out_share = 0.2",
    ],
)  # fmt: skip
def test_the_scan_sees_a_repeated_default(code):
    assert repeated(code)


def test_the_scan_leaves_other_numbers_alone():
    code = """
epochs = TrainSpec.epochs; EPOCHS = 12; opacity = 0.5; REST_MS = 40; aspect = 64
def f(size_px=SliceSpec.size_px, overlay=0.5): return 0.001
text = "x --epochs 400 --size-px 336"
"""
    assert repeated(code) == []


def widgets(form: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the named widgets of a form and their numeric properties."""
    for widget in ET.parse(form).iter("widget"):
        numbers = {}
        for item in widget.findall("property"):
            for kind in ("number", "double"):
                if (text := item.findtext(kind)) is not None:
                    numbers[item.get("name", "")] = text
        yield widget.get("name", ""), numbers


def test_no_form_repeats_a_default():
    found = [
        name
        for form in FORMS
        for name, numbers in widgets(form)
        if is_default(name, float(numbers.get("value", "nan")))
    ]
    assert found == []


def test_what_a_form_allows_the_spec_allows():
    limits = dict(widgets(PACKAGE.parent / "Resources/UI/Train.ui"))
    for field, name in (("size_px", "trainSizeSpinBox"), ("epochs", "trainEpochsSpinBox")):
        low, high = (int(limits[name][end]) for end in ("minimum", "maximum"))
        assert low <= DEFAULTS[field] <= high
        for value in (low, high):
            assert getattr(TrainSpec(**{field: value}), field) == value
