"""The layout manager and its three slice views."""

from typing import Any

from PySide6.QtCore import Property, QObject, Signal

from .pythonqt.classes import cpp_class
from .slice_views import SliceView

_VIEWS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}


class SliceWidget:
    """A slice view with the methods of qMRMLSliceWidget; `view` draws it."""

    def __init__(self, view: SliceView):
        self.view = view

    def sliceLogic(self) -> Any:
        """The logic of the view."""
        return self.view.logic

    def mrmlSliceNode(self) -> Any:
        """The node of the view."""
        return self.view.node

    def mrmlSliceCompositeNode(self) -> Any:
        """The node that says which volumes are shown."""
        return self.view.composite_node

    def sliceView(self) -> "SliceWidget":
        """Itself: view and frame are one here."""
        return self

    sliceController = sliceView

    def renderWindow(self) -> Any:
        """VTK's window."""
        return self.view.window

    def forceRender(self) -> None:
        """Draw now."""
        self.view.window.Render()

    scheduleRender = forceRender

    def fitSliceToBackground(self) -> None:
        """Show all of the background volume."""
        self.view.fit()


@cpp_class
class LayoutManager(QObject):
    """What `slicer.app.layoutManager()` gives."""

    layoutChanged = Signal(int)

    def __init__(self, scene: Any, application_logic: Any, size_px: tuple[int, int]):
        QObject.__init__(self)
        self._application_logic = application_logic
        self._layout = 3
        self._widgets = {
            name: SliceWidget(SliceView(scene, application_logic, name, orientation, size_px))
            for name, orientation in _VIEWS.items()
        }

    def sliceViewNames(self) -> tuple[str, ...]:
        """Red, Yellow and Green."""
        return tuple(self._widgets)

    def sliceWidget(self, name: str) -> SliceWidget | None:
        """The slice view of that name."""
        return self._widgets.get(name)

    def mrmlSliceLogics(self) -> Any:
        """The logics of the slice views."""
        return self._application_logic.GetSliceLogics()

    def resetSliceViews(self) -> None:
        """Show all of the background volume in every view."""
        for widget in self._widgets.values():
            widget.fitSliceToBackground()

    def resetThreeDViews(self) -> None:
        """Nothing: there are no 3D views here."""

    def threeDWidget(self, index: int) -> None:
        """None: there are no 3D views here."""

    threeDViewCount = Property(int, lambda self: 0)
    tableViewCount = Property(int, lambda self: 0)
    plotViewCount = Property(int, lambda self: 0)

    def setLayout(self, layout: int) -> None:
        """Remember the layout; the views stay as they are."""
        self._layout = layout
        self.layoutChanged.emit(layout)

    layout = Property(int, lambda self: self._layout, setLayout)
