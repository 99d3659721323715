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
        """The slice composite node, which selects the volumes."""
        return self.view.composite_node

    def sliceView(self) -> "SliceWidget":
        """Return itself: the harness does not separate view and frame."""
        return self

    sliceController = sliceView

    def renderWindow(self) -> Any:
        """The VTK render window."""
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
    """The layout manager that `slicer.app.layoutManager()` returns."""

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
        """Do nothing: the harness has no 3D views."""

    def threeDWidget(self, index: int) -> None:
        """None: the harness has no 3D views."""

    threeDViewCount = Property(int, lambda self: 0)
    tableViewCount = Property(int, lambda self: 0)
    plotViewCount = Property(int, lambda self: 0)

    def setLayout(self, layout: int) -> None:
        """Store the layout; the views do not change."""
        self._layout = layout
        self.layoutChanged.emit(layout)

    layout = Property(int, lambda self: self._layout, setLayout)
