"""Stand-ins for the widgets of CTK and Slicer, written in Python.

They have the properties, methods and signals that modules use, and are C++ classes to the rules of
`Harness.pythonqt`.
"""

import sys
import types
from collections.abc import Iterator

_FILES = (
    "ctk_collapsible",
    "ctk_numbers",
    "ctk_paths",
    "ctk_small",
    "qmrml_base",
    "qmrml_node_combo_box",
    "qmrml_tables",
    "module_panels",
)


def stand_ins() -> Iterator[type]:
    """Return all stand-ins; `qt` and `slicer` must be importable."""
    import importlib

    for file in _FILES:
        module = importlib.import_module(f"{__name__}.{file}")
        for name, value in vars(module).items():
            if name.startswith(("ctk", "qMRML", "qSlicer")) and value.__module__ == module.__name__:
                yield value


def install(slicer: types.ModuleType) -> None:
    """Make the module `ctk`, and put the others where Slicer has them."""
    ctk = sys.modules["ctk"] = types.ModuleType("ctk", "CTK's widgets, stood in for.")
    for cls in stand_ins():
        setattr(ctk if cls.__name__.startswith("ctk") else slicer, cls.__name__, cls)
