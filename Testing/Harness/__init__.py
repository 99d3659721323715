"""3D Slicer without its window, for tests: real scene and logics, stand-ins for the rest.

Start it once per process and load a module as Slicer does::

    from Harness import grab, load_scripted_module, start, wait_until

    app = start(folder)                    # slicer.app; from here on qt, ctk, slicer.* import
    loaded = load_scripted_module("SpatialARAnomaly/SpatialARAnomaly.py")
    loaded.enter()
    loaded.ui.applyButton.click()
    wait_until(lambda: done, timeout_s=20, what="the segmentation")
    grab(loaded.panel, "panel.png", scheme="dark")
    loaded.unload()

Real (from the wheel `slicer-core`): the scene, its nodes, the logics of the modules, the rendering
of slice views, `slicer.util`. Replaced: Qt by PySide6 with PythonQt's rules (`Harness.pythonqt`),
the widgets of CTK and Slicer (`Harness.widgets`), the application, and Slicer's own Python files
(`Harness.replacements`) unless SLICER_PYTHON_DIR names the folder of the real ones.

Errors in slots, observers and event handlers reach no caller, in Slicer as here. They are
collected: `slot_errors.taken()`, and `slot_errors.expected_slot_errors()` where a test wants one.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .pythonqt import install, slot_errors

if TYPE_CHECKING:
    from .module_loading import LoadedModule

__all__ = [
    "GuiGap",
    "LoadedModule",
    "color_scheme",
    "grab",
    "gui_gap",
    "load_scripted_module",
    "run_events",
    "set_qt_form",
    "settings_after_restart",
    "slot_errors",
    "start",
    "unload_scripted_module",
    "wait_until",
    "why_no_rendering",
    "without_main_window",
]

_HOMES = {
    "GuiGap": "waiting",
    "LoadedModule": "module_loading",
    "color_scheme": "screenshots",
    "grab": "screenshots",
    "gui_gap": "waiting",
    "load_scripted_module": "module_loading",
    "run_events": "waiting",
    "set_qt_form": "pythonqt.signals",
    "settings_after_restart": "settings",
    "unload_scripted_module": "module_loading",
    "wait_until": "waiting",
    "why_no_rendering": "slice_views",
    "without_main_window": "application",
}


def start(folder: Path | None = None, **options: Any) -> Any:
    """Start the application and return `slicer.app`; see `Harness.application.start`."""
    install()
    from .application import start as start_application

    return start_application(folder, **options)


def __getattr__(name: str) -> Any:
    # Most of the harness can only be imported once `qt` is there.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    install()
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
