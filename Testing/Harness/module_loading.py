"""Loading, reloading and unloading of scripted modules, as Slicer's module factory does it."""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import slicer
from PySide6.QtCore import QObject, Signal

from .pythonqt.classes import cpp_class


@cpp_class
class ModuleManager(QObject):
    """Registry of the scripted modules, with a signal for their removal."""

    CPP_SIGNALS: ClassVar[dict] = {
        "moduleLoaded(QString)": None,
        "moduleAboutToBeUnloaded(QString)": None,
        "moduleUnloaded(QString)": None,
    }
    moduleLoaded = Signal(str)
    moduleAboutToBeUnloaded = Signal(str)
    moduleUnloaded = Signal(str)

    def __init__(self) -> None:
        QObject.__init__(self)
        self._loaded: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        """The module of that name, or None."""
        return self._loaded.get(name) or getattr(slicer.modules, name.lower(), None)

    def modulesNames(self) -> tuple[str, ...]:
        """The names of the scripted modules."""
        return tuple(self._loaded)

    def isLoaded(self, name: str) -> bool:
        """Return True if the module is loaded."""
        return self.module(name) is not None

    def factoryManager(self) -> "ModuleManager":
        """Return itself."""
        return self

    def loadedModuleNames(self) -> tuple[str, ...]:
        """The names of the scripted modules."""
        return tuple(self._loaded)


@dataclass(frozen=True)
class LoadedModule:
    """A scripted module that is loaded."""

    name: str
    module: Any
    """The instance of the module's class."""
    parent: Any
    """Its `parent`, `slicer.modules.<name in lower case>`."""

    @property
    def panel(self) -> Any:
        """The panel, made on first use: the `parent` of the module's widget."""
        return self.parent.widgetRepresentation()

    @property
    def widget(self) -> Any:
        """The module's widget; after a reload, the new one."""
        return self.panel.self()

    @property
    def ui(self) -> Any:
        """The widgets of the .ui file by name."""
        return self.widget.ui

    def enter(self) -> None:
        """Enter the module, as when the user selects it."""
        self.panel.enter()

    def exit(self) -> None:
        """Exit the module, as when the user selects another."""
        self.panel.exit()

    def reload(self) -> "LoadedModule":
        """Reload the module, like the Reload button."""
        slicer.util.reloadScriptedModule(self.name)
        return self

    def unload(self) -> None:
        """Unload the module as Slicer does when it quits."""
        unload_scripted_module(self.name)


def load_scripted_module(path: Path | str, *, startup: bool = True) -> LoadedModule:
    """Load the module of this file; its panel is made on first use.

    With `startup` the application then emits `startupCompleted`, at which modules register their
    sample data. Each connection receives it once, as in Slicer.
    """
    path = Path(path).resolve()
    name = path.stem
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    python_module = importlib.util.module_from_spec(spec)
    sys.modules[name] = python_module
    spec.loader.exec_module(python_module)
    parent = slicer.qSlicerScriptedLoadableModule(name, str(path))
    module = getattr(python_module, name)(parent)
    setattr(slicer.modules, name.lower(), parent)
    setattr(slicer.modules, f"{name}Instance", module)
    manager = slicer.app.moduleManager()
    manager._loaded[name] = parent
    manager.moduleLoaded.emit(name)
    if startup:
        slicer.app.startupCompleted.emit()
        slicer.app.startupCompleted.disconnect()
    return LoadedModule(name, module, parent)


def unload_scripted_module(name: str) -> None:
    """Unload the module: clean up its widget and remove its names."""
    manager = slicer.app.moduleManager()
    manager.moduleAboutToBeUnloaded.emit(name)
    parent = manager._loaded.pop(name)
    parent._forget_panel()
    for attribute in (name.lower(), f"{name}Instance", f"{name}Widget"):
        if hasattr(slicer.modules, attribute):
            delattr(slicer.modules, attribute)
    sys.modules.pop(name, None)
    manager.moduleUnloaded.emit(name)
