"""The learning curve as a Slicer chart: NLL of training and held-out scans per epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.progress import nll_of_mse
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import ROLE

CHART = "TrainingChart"

EPOCH, TRAIN, HELD_OUT, BEST_EPOCH, BEST = (
    "epoch",
    "train_nll",
    "held_out_nll",
    "best_epoch",
    "best_nll",
)
"""Columns of the table; all rows hold the same best epoch, because columns cannot have gaps."""

SERIES = (
    # x, y, color (blue, orange and black suit color-blind readers)
    (EPOCH, TRAIN, (0.0, 0.45, 0.70)),
    (EPOCH, HELD_OUT, (0.90, 0.50, 0.0)),
    (BEST_EPOCH, BEST, (0.0, 0.0, 0.0)),
)


LEGEND_SHARE = 0.35
"""Room above the curves for the legend, as a share of their height."""


@dataclass(frozen=True)
class Epoch:
    """Losses of one epoch."""

    number: int
    trainMse: float
    """Mean squared error of the training scans during the epoch."""
    heldOutNll: float
    """NLL of the held-out scans, nats per channel."""

    @property
    def trainNll(self) -> float:
        """NLL of the training scans at the best single variance, nats per channel."""
        return nll_of_mse(self.trainMse)


class TrainingPlot:
    """Manages the chart's nodes in the scene, which the user may delete at any time.

    They are not saved with the scene, because the model's card holds the curve.
    """

    def show(self, curve: Sequence[Epoch], name: str) -> None:
        """Draw the curve and show the chart in a plot view."""
        chart = self.draw(curve, name)
        plots = getattr(slicer.modules, "plots", None)
        if plots is not None and slicer.app.layoutManager() is not None:
            plots.logic().ShowChartInLayout(chart)

    def draw(self, curve: Sequence[Epoch], name: str) -> "slicer.vtkMRMLPlotChartNode":
        """Write the curve to the chart's nodes, adding those missing; return the chart."""
        chart, table, best = _nodes() or _newNodes()
        _write(table, curve)
        _scale(chart, curve)
        chart.SetTitle(_("Training of {name}").format(name=name))
        best.SetName(_("best: epoch {epoch}").format(epoch=_best(curve).number if curve else 0))
        return chart

    def update(self, curve: Sequence[Epoch], name: str) -> None:
        """Draw the curve if the scene has a chart."""
        if _nodes() is not None:
            self.draw(curve, name)


def _best(curve: Sequence[Epoch]) -> Epoch:
    return min(curve, key=lambda epoch: epoch.heldOutNll)


Nodes = tuple[
    "slicer.vtkMRMLPlotChartNode", "slicer.vtkMRMLTableNode", "slicer.vtkMRMLPlotSeriesNode"
]
"""Chart, table, and the series that marks the best epoch."""


def _nodes() -> Nodes | None:
    """Return the chart's nodes; if one was deleted, remove the rest and return None."""
    for chart in slicer.util.getNodesByClass("vtkMRMLPlotChartNode"):
        if chart.GetAttribute(ROLE) != CHART:
            continue
        count = chart.GetNumberOfPlotSeriesNodes()
        series = [chart.GetNthPlotSeriesNode(index) for index in range(count)]
        table = next((one.GetTableNode() for one in series if one is not None), None)
        if len(series) == len(SERIES) and None not in series and table is not None:
            return chart, table, series[-1]
        for node in (*series, table, chart):
            if node is not None:
                slicer.mrmlScene.RemoveNode(node)
    return None


def _newNodes() -> Nodes:
    table = _added("vtkMRMLTableNode", _("Learning curve"))
    chart = _added("vtkMRMLPlotChartNode", _("Learning curve chart"))
    chart.SetXAxisTitle(_("Epoch"))
    chart.SetYAxisTitle(_("NLL (nats per channel)"))
    names = (_("training scans"), _("held-out scans"), "")
    for name, (x, y, color) in zip(names, SERIES, strict=True):
        series = _added("vtkMRMLPlotSeriesNode", name)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName(x)
        series.SetYColumnName(y)
        series.SetPlotType(series.PlotTypeScatter)
        marks = y == BEST
        series.SetLineStyle(series.LineStyleNone)
        series.SetMarkerStyle(series.MarkerStyleDiamond if marks else series.MarkerStyleCircle)
        series.SetMarkerSize(14.0 if marks else 6.0)
        series.SetColor(*color)
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    chart.SetAttribute(ROLE, CHART)
    return chart, table, series


def _scale(chart: "slicer.vtkMRMLPlotChartNode", curve: Sequence[Epoch]) -> None:
    """Fit the axes, which Slicer's plot views do only once, and leave room for the legend above.

    A line needs two points: VTK warns of shorter ones.
    """
    losses = [loss for epoch in curve for loss in (epoch.trainNll, epoch.heldOutNll)]
    for index, (_x, y, _color) in enumerate(SERIES):
        series = chart.GetNthPlotSeriesNode(index)
        line = len(curve) > 1 and y != BEST
        series.SetLineStyle(series.LineStyleSolid if line else series.LineStyleNone)
    if not curve:
        return
    low, high = min(losses), max(losses)
    span = high - low or 1.0
    modified = chart.StartModify()
    chart.SetXAxisRangeAuto(False)
    chart.SetXAxisRange(curve[0].number - 0.5, curve[-1].number + 0.5)
    chart.SetYAxisRangeAuto(False)
    chart.SetYAxisRange(low - 0.05 * span, high + LEGEND_SHARE * span)
    chart.EndModify(modified)


def _added(kind: str, name: str) -> "slicer.vtkMRMLNode":
    node = slicer.mrmlScene.CreateNodeByClass(kind)
    node.UnRegister(None)
    node.SetName(name)
    node.SetSaveWithScene(False)
    return slicer.mrmlScene.AddNode(node)


def _write(node: "slicer.vtkMRMLTableNode", curve: Sequence[Epoch]) -> None:
    from vtk.util.numpy_support import numpy_to_vtk

    modified = node.StartModify()
    try:
        node.RemoveAllColumns()
        best = _best(curve) if curve else None
        columns = {
            EPOCH: [float(epoch.number) for epoch in curve],
            TRAIN: [epoch.trainNll for epoch in curve],
            HELD_OUT: [epoch.heldOutNll for epoch in curve],
            BEST_EPOCH: [float(best.number) for _epoch in curve] if best else [],
            BEST: [best.heldOutNll for _epoch in curve] if best else [],
        }
        for name, values in columns.items():
            array = numpy_to_vtk(np.array(values, float), deep=True)
            array.SetName(name)
            node.AddColumn(array)
            if name not in (EPOCH, BEST_EPOCH):
                node.SetColumnUnitLabel(name, "nats/channel")
    finally:
        node.EndModify(modified)
