"""`slicer.app`: the application without its window, and its start."""

import contextlib
import importlib
import os
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import qt
import slicer
from PySide6.QtCore import Property, QObject, Signal

from . import scene as scenes
from . import ui_loader, widgets
from .file_io import FileIO
from .layout import LayoutManager
from .module_loading import ModuleManager
from .python_slicer import put_python_slicer_on_path
from .pythonqt.classes import cpp_class
from .widgets.properties import stored

# The application of Qt, which ends with its last reference.
_kept: list[Any] = []

_REPLACED = ("ScriptedLoadableModule", "i18n", "packaging", "parameterNodeWrapper")


def _folder(name: str) -> Property:
    return Property(str, lambda self: str(self._folder / name))


@cpp_class
class Application(QObject):
    """The methods of qSlicerApplication that modules use."""

    startupCompleted = Signal()
    aboutToQuit = Signal()
    mrmlSceneChanged = Signal(object)

    applicationName = stored(str, "Slicer")
    mainApplicationName = stored(str, "Slicer")
    applicationVersion = stored(str, "5.12.4")
    majorVersion = stored(int, 5)
    minorVersion = stored(int, 12)
    revision = stored(str, "00000")
    repositoryRevision = stored(str, "00000")
    releaseType = stored(str, "Stable")
    isInstalled = stored(bool, True)
    documentationBaseUrl = stored(str, "https://slicer.readthedocs.io/en/latest/")

    def __init__(
        self, scene: Any, logic: Any, folder: Path, with_window: bool, size_px: tuple[int, int]
    ):
        QObject.__init__(self)
        self._scene, self._logic, self._folder = scene, logic, folder
        self._testing = False
        self._modules = ModuleManager()
        self._file_io = FileIO(scene, logic, folder / "cache")
        self._layout = LayoutManager(scene, logic, size_px) if with_window else None
        self._window = None
        if with_window:
            self._window = qt.QMainWindow()
            self._window.setObjectName("qSlicerMainWindow")

    temporaryPath = _folder("temporary")
    slicerHome = _folder("home")
    cachePath = _folder("cache")
    defaultScenePath = _folder("documents")
    extensionsInstallPath = _folder("extensions")
    slicerSharePath = stored(str, "share/Slicer-5.12")

    def mrmlScene(self) -> Any:
        """The scene."""
        return self._scene

    def applicationLogic(self) -> Any:
        """The application's logic."""
        return self._logic

    def moduleManager(self) -> ModuleManager:
        """The factory manager of scripted modules."""
        return self._modules

    def coreIOManager(self) -> FileIO:
        """The manager that loads and saves files."""
        return self._file_io

    ioManager = coreIOManager

    def layoutManager(self) -> LayoutManager | None:
        """The views, or None without a main window."""
        return self._layout

    def testingEnabled(self) -> bool:
        """True if messages are logged instead of shown."""
        return self._testing

    def setTestingEnabled(self, enabled: bool) -> None:
        """Only in the harness: set whether messages are logged instead of shown."""
        self._testing = enabled

    def commandOptions(self) -> types.SimpleNamespace:
        """The command line options."""
        return types.SimpleNamespace(
            testingEnabled=self._testing, noMainWindow=self._layout is None, runPythonAndExit=False
        )

    def processEvents(self, *flags: Any) -> None:
        """Process pending events."""
        qt.QApplication.instance().processEvents(*flags)

    def topLevelWidgets(self) -> tuple:
        """The widgets without parents."""
        hidden = "qSlicerMainWindow" if self._window is None else None
        widgets = qt.QApplication.topLevelWidgets()
        return tuple(widget for widget in widgets if widget.objectName != hidden)

    def mainWindow(self) -> Any:
        """The main window, which is empty and not shown; None without one."""
        return self._window

    def settings(self) -> Any:
        """The application's settings."""
        return qt.QSettings()

    userSettings = revisionUserSettings = settings

    def translate(self, context: str, text: str) -> str:
        """Return the text untranslated."""
        return qt.QCoreApplication.translate(context, text)

    def setOverrideCursor(self, cursor: Any) -> None:
        """Show this cursor until it is restored."""
        qt.QApplication.setOverrideCursor(qt.QCursor(cursor))

    def restoreOverrideCursor(self) -> None:
        """Show the former cursor."""
        qt.QApplication.restoreOverrideCursor()

    def pauseRender(self) -> None:
        """Draw nothing until `resumeRender`."""
        self._logic.PauseRender()

    def resumeRender(self) -> None:
        """Draw again."""
        self._logic.ResumeRender()

    def keyboardModifiers(self) -> Any:
        """The modifier keys that are down."""
        return qt.QApplication.keyboardModifiers()

    def clipboard(self) -> Any:
        """The clipboard."""
        return qt.QApplication.clipboard()

    def palette(self) -> Any:
        """The application's palette."""
        return qt.QApplication.palette()

    def style(self) -> Any:
        """The application's style."""
        return qt.QApplication.style()

    def startupEnvironment(self) -> Any:
        """The environment the application was started in."""
        return qt.QProcessEnvironment.systemEnvironment()

    environment = startupEnvironment

    def moduleDocumentationUrl(self, name: str) -> str:
        """Return the address of the module's documentation."""
        return self.documentationBaseUrl + name

    def restart(self) -> None:
        """Not possible in a test."""
        raise RuntimeError("the module asked to restart Slicer")

    def exit(self, status: int = 0) -> None:
        """Not possible in a test."""
        raise RuntimeError(f"the module asked to end Slicer with status {status}")


def _import_slicer_python() -> None:
    """Import Slicer's own Python files from SLICER_PYTHON_DIR if set, else the replacements."""
    home = f"{__package__}.replacements"
    if folder := os.environ.get("SLICER_PYTHON_DIR"):
        home = "slicer"
        slicer.__path__.append(str(Path(folder) / "slicer"))
    for name in _REPLACED:
        module = importlib.import_module(f"{home}.{name}")
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)
    sys.modules["SampleData"] = importlib.import_module(f"{__package__}.replacements.SampleData")


def _register_core_modules() -> None:
    """The names under which Slicer's Python imports the wrapped C++ libraries."""
    import slicer_core

    for name in (
        "MRMLCore",
        "MRMLLogic",
        "MRMLDisplayableManager",
        "vtkITK",
        "vtkSegmentationCore",
    ):
        module = getattr(slicer_core, name)
        sys.modules.setdefault(name, module)
        sys.modules.setdefault(f"{name}Python", module)


def start(
    folder: Path | None = None,
    *,
    with_window: bool = True,
    share_path: Path | None = None,
    view_size_px: tuple[int, int] = (400, 400),
) -> Application:
    """Start the application, once per process, and return `slicer.app`."""
    if hasattr(slicer, "app"):
        return slicer.app
    folder = Path(folder or tempfile.mkdtemp(prefix="SlicerHarness-"))
    for name in ("temporary", "home", "cache", "documents", "settings", "bin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    qt.QSettings.setDefaultFormat(qt.QSettings.IniFormat)
    for scope in (qt.QSettings.UserScope, qt.QSettings.SystemScope):
        qt.QSettings.setPath(qt.QSettings.IniFormat, scope, str(folder / "settings"))
    qt.QCoreApplication.setOrganizationName("SlicerHarness")
    qt.QCoreApplication.setApplicationName("Slicer")
    if qt.QApplication.instance() is None:
        _kept.append(qt.QApplication(["Slicer"]))
        qt.QApplication.setStyle("Fusion")
    put_python_slicer_on_path(folder / "bin")
    scenes.print_vtk_to_stderr()
    scene, logic = scenes.build(folder / "temporary", share_path)
    _register_core_modules()
    widgets.install(slicer)
    qt.QUiLoader = ui_loader.UiLoader
    slicer.app = Application(scene, logic, folder, with_window, view_size_px)
    _import_slicer_python()
    return slicer.app


@contextlib.contextmanager
def without_main_window() -> Iterator[None]:
    """Within the block the application has no main window: `layoutManager()` is None."""
    app = slicer.app
    kept = app._layout, app._window
    app._layout = app._window = None
    try:
        yield
    finally:
        app._layout, app._window = kept
