"""The layout manager with its slice views and plot views."""

from typing import Any

import qt
import slicer
import vtk
from PySide6.QtCore import Property, QObject, Signal

from .pythonqt.classes import cpp_class
from .slice_views import SliceView

_VIEWS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}
_FOUR_UP = 3
_UNPLACED_PX = 100, 30


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


class PlotWidget:
    """A plot view with the methods of qMRMLPlotWidget.

    As in Slicer, the axes fit what a chart shows when it is put into the view, and stay as they
    are when its tables change, unless the chart sets their ranges.
    """

    def __init__(self, node: Any):
        self._node = node
        self._chart_id: str | None = None
        self._fitted = ((0.0, 1.0), (0.0, 1.0))
        node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._follow)
        self._follow()

    def mrmlPlotViewNode(self) -> Any:
        """The node of the view."""
        return self._node

    def plotView(self) -> "PlotWidget":
        """Return itself: the harness does not separate view and frame."""
        return self

    def chart(self) -> Any:
        """The chart shown, or None."""
        return self._node.GetPlotChartNode()

    def _follow(self, *_: object) -> None:
        if self._node.GetPlotChartNodeID() != self._chart_id:
            self._chart_id = self._node.GetPlotChartNodeID()
            self.fitToContent()

    def _columns(self) -> list[tuple[Any, list[float], list[float]]]:
        chart, columns = self.chart(), []
        for index in range(chart.GetNumberOfPlotSeriesNodes() if chart is not None else 0):
            series = chart.GetNthPlotSeriesNode(index)
            node = series.GetTableNode() if series is not None else None
            table = node.GetTable() if node is not None else None
            names = (series.GetXColumnName(), series.GetYColumnName()) if table else ()
            arrays = [table.GetColumnByName(name) for name in names]
            if arrays and None not in arrays:
                values = [
                    [one.GetValue(i) for i in range(one.GetNumberOfTuples())] for one in arrays
                ]
                columns.append((series, *values))
        return columns

    def fitToContent(self) -> None:
        """Fit the axes to all that the chart shows now."""
        both = ([x for _s, x, _y in self._columns()], [y for _s, _x, y in self._columns()])
        values = [[one for column in columns for one in column] for columns in both]
        self._fitted = tuple((min(one), max(one)) if one else (0.0, 1.0) for one in values)

    def axisRanges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Only in the harness: the ranges of the axes as drawn."""
        chart = self.chart()
        x, y = self._fitted
        if chart is not None and not chart.GetXAxisRangeAuto():
            x = tuple(chart.GetXAxisRange())
        if chart is not None and not chart.GetYAxisRangeAuto():
            y = tuple(chart.GetYAxisRange())
        return x, y

    def hiddenPoints(self) -> int:
        """Only in the harness: the number of the chart's points outside of the axes."""
        (left, right), (low, high) = self.axisRanges()
        return sum(
            not (left <= a <= right and low <= b <= high)
            for _series, x, y in self._columns()
            for a, b in zip(x, y, strict=True)
        )

    def brokenLines(self) -> int:
        """Only in the harness: the number of lines of less than two points, of which VTK warns."""
        return sum(
            series.GetLineStyle() != series.LineStyleNone and len(x) < 2
            for series, x, _y in self._columns()
        )


@cpp_class
class LayoutManager(QObject):
    """The layout manager that `slicer.app.layoutManager()` returns.

    Slicer's own layout logic decides which views there are; the harness draws the slice views.
    """

    layoutChanged = Signal(int)

    def __init__(self, scene: Any, application_logic: Any, size_px: tuple[int, int]):
        QObject.__init__(self)
        self._scene, self._application_logic, self._size_px = scene, application_logic, size_px
        self._widgets = {
            name: SliceWidget(SliceView(scene, application_logic, name, orientation, size_px))
            for name, orientation in _VIEWS.items()
        }
        self._plots: dict[str, PlotWidget] = {}
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(scene)
        self._node = self._logic.GetLayoutNode()
        self._node.SetViewArrangement(_FOUR_UP)
        self._arranged = _FOUR_UP
        self._map_views()
        self._node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._arrange)
        self._lost: dict[str, list[Any]] = {}
        scene.AddObserver(scene.NodeAboutToBeRemovedEvent, self._note_lost_foreground)
        scene.AddObserver(scene.NodeRemovedEvent, self._choose_other_foreground)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _note_lost_foreground(self, scene: Any, event: str, node: Any) -> None:
        self._lost[node.GetID()] = [
            one.mrmlSliceCompositeNode()
            for one in self._widgets.values()
            if one.mrmlSliceCompositeNode().GetForegroundVolumeID() == node.GetID()
        ]

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _choose_other_foreground(self, scene: Any, event: str, node: Any) -> None:
        """The controller's combo box chooses the volume beside one that is removed."""
        lost = self._lost.pop(node.GetID(), [])
        left = scene.GetFirstNodeByClass("vtkMRMLVolumeNode")
        for view in lost if left is not None and not scene.IsClosing() else ():
            view.SetForegroundVolumeID(left.GetID())

    def _arrange(self, *_: object) -> None:
        arrangement = self._node.GetViewArrangement()
        if arrangement != self._arranged:
            self._arranged = arrangement
            self._map_views()
            self.layoutChanged.emit(arrangement)

    def _map_views(self) -> None:
        """Make the views of the layout, and mark which views are in it."""
        shown = self._logic.GetViewNodes()
        nodes = [shown.GetItemAsObject(index) for index in range(shown.GetNumberOfItems())]
        for node in nodes:
            if node.IsA("vtkMRMLSliceNode") and node.GetLayoutName() not in self._widgets:
                view = SliceView(
                    self._scene, self._application_logic, node.GetLayoutName(),
                    node.GetOrientation(), self._size_px,
                )  # fmt: skip
                self._widgets[node.GetLayoutName()] = SliceWidget(view)
                # The frame of a new view gets its size in the next turn.
                view.logic.ResizeSliceNode(*_UNPLACED_PX)
                qt.QTimer.singleShot(
                    0, lambda view=view: view.logic.ResizeSliceNode(*self._size_px)
                )
            elif node.IsA("vtkMRMLPlotViewNode") and node.GetID() not in self._plots:
                self._plots[node.GetID()] = PlotWidget(node)
        for widget in self._widgets.values():
            widget.mrmlSliceNode().SetMappedInLayout(int(widget.mrmlSliceNode() in nodes))

    def sliceViewNames(self) -> tuple[str, ...]:
        """The names of the slice views, in no useful order."""
        first = [name for name in ("Yellow", "Green", "Red") if name in self._widgets]
        return (*first, *(name for name in self._widgets if name not in first))

    def sliceWidget(self, name: str) -> SliceWidget | None:
        """The slice view of that name."""
        return self._widgets.get(name)

    def mrmlSliceLogics(self) -> Any:
        """The logics of the slice views."""
        return self._application_logic.GetSliceLogics()

    def layoutLogic(self) -> Any:
        """Slicer's layout logic, which knows the layouts."""
        return self._logic

    def resetSliceViews(self) -> None:
        """Show all of the background volume in every view."""
        for widget in self._widgets.values():
            widget.fitSliceToBackground()

    def resetThreeDViews(self) -> None:
        """Do nothing: the harness has no 3D views."""

    def threeDWidget(self, index: int) -> None:
        """None: the harness has no 3D views."""

    def plotWidget(self, index: int) -> PlotWidget | None:
        """A plot view of the layout."""
        plots = list(self._plots.values())
        return plots[index] if index < len(plots) else None

    threeDViewCount = Property(int, lambda self: 0)
    tableViewCount = Property(int, lambda self: 0)
    plotViewCount = Property(int, lambda self: len(self._plots))

    def setLayout(self, layout: int) -> None:
        """Choose a layout, which makes the views it needs."""
        self._node.SetViewArrangement(layout)

    layout = Property(int, lambda self: self._node.GetViewArrangement(), setLayout)
