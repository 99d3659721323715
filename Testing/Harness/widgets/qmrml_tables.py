"""Stand-ins for the widgets that show segmentations and tables."""
# ruff: noqa: N801

from typing import ClassVar

import qt
import slicer
import vtk
from PySide6.QtCore import Property, Signal

from .ctk_small import ctkMenuButton
from .observing import Observers, calling
from .properties import stand_in, stored
from .qmrml_base import HasScene, qMRMLWidget

_COLUMNS = ("", "Color", "Opacity", "Name")
_VISIBLE, _COLOR, _OPACITY, _NAME = range(4)


@stand_in
class qMRMLSegmentsTableView(qMRMLWidget):
    """The segments of a segmentation: shown or not, color, opacity, name."""

    selectionChanged = Signal(object, object)
    segmentAboutToBeModified = Signal(str)

    selectionMode = stored(int, 3)
    headerVisible = stored(bool, True, applied="_show_columns")
    visibilityColumnVisible = stored(bool, True, applied="_show_columns")
    colorColumnVisible = stored(bool, True, applied="_show_columns")
    opacityColumnVisible = stored(bool, True, applied="_show_columns")
    statusColumnVisible = stored(bool, False)
    layerColumnVisible = stored(bool, False)
    filterBarVisible = stored(bool, False)
    textFilter = stored(str, "", applied="_list_segments")
    readOnly = stored(bool, False)
    jumpToSelectedSegmentEnabled = stored(bool, False)

    def __init__(self, parent=None):
        qMRMLWidget.__init__(self, parent)
        self._node, self._ids, self._hidden = None, [], ()
        self._observers = Observers(self)
        self._table = qt.QTableWidget(0, len(_COLUMNS))
        self._table.setHorizontalHeaderLabels(list(_COLUMNS))
        self._table.setSelectionBehavior(qt.QTableWidget.SelectRows)
        self._table.verticalHeader().hide()
        header = self._table.horizontalHeader()
        header.setStretchLastSection(True)
        for column in (_VISIBLE, _COLOR, _OPACITY):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        layout = qt.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._table)
        self._table.selectionModel().selectionChanged.connect(calling(self, "selectionChanged"))

    def _show_columns(self):
        self._table.horizontalHeader().setVisible(self.headerVisible)
        self._table.setColumnHidden(_VISIBLE, not self.visibilityColumnVisible)
        self._table.setColumnHidden(_COLOR, not self.colorColumnVisible)
        self._table.setColumnHidden(_OPACITY, not self.opacityColumnVisible)

    def segmentationNode(self):
        """The segmentation shown, or None."""
        return self._node

    def setSegmentationNode(self, node):
        """Show the segments of this segmentation."""
        self._node = node
        self._observers.observe(node, {vtk.vtkCommand.AnyEvent: "_list_segments"})
        self._list_segments()

    def _list_segments(self, *_):
        segmentation = self._node.GetSegmentation() if self._node else None
        every = segmentation.GetSegmentIDs() if segmentation else ()
        self._ids = [
            segment_id
            for segment_id in every
            if segment_id not in self._hidden
            and self.textFilter.lower() in segmentation.GetSegment(segment_id).GetName().lower()
        ]
        if self._table.rowCount != len(self._ids):
            self._table.setRowCount(len(self._ids))
        display = self._node.GetDisplayNode() if self._node else None
        for row, segment_id in enumerate(self._ids):
            segment = segmentation.GetSegment(segment_id)
            shown = display is None or display.GetSegmentVisibility(segment_id)
            opacity = 1.0 if display is None else display.GetSegmentOpacity3D(segment_id)
            color = qt.QTableWidgetItem("")
            color.setBackground(qt.QColor.fromRgbF(*segment.GetColor()))
            self._table.setItem(row, _VISIBLE, qt.QTableWidgetItem("●" if shown else "○"))
            self._table.setItem(row, _COLOR, color)
            self._table.setItem(row, _OPACITY, qt.QTableWidgetItem(f"{opacity:.2f}"))
            self._table.setItem(row, _NAME, qt.QTableWidgetItem(segment.GetName()))

    segmentCount = Property(int, lambda self: len(self._ids))

    def tableWidget(self):
        """The table inside."""
        return self._table

    def displayedSegmentIDs(self):
        """The IDs of the segments in the table."""
        return tuple(self._ids)

    def segmentIDForRow(self, row):
        """The ID of the segment in this row."""
        return self._ids[row] if 0 <= row < len(self._ids) else ""

    def rowForSegmentID(self, segment_id):
        """The row of the segment, or -1."""
        return self._ids.index(segment_id) if segment_id in self._ids else -1

    def selectedSegmentIDs(self):
        """The IDs of the selected segments."""
        rows = self._table.selectionModel().selectedRows()
        return tuple(self._ids[index.row()] for index in rows)

    def setSelectedSegmentIDs(self, segment_ids):
        """Select these segments and no other."""
        self._table.clearSelection()
        flags = qt.QItemSelectionModel.Select | qt.QItemSelectionModel.Rows
        for segment_id in segment_ids:
            index = self._table.model().index(self.rowForSegmentID(segment_id), 0)
            self._table.selectionModel().select(index, flags)

    def clearSelection(self):
        """Select no segment."""
        self._table.clearSelection()

    def setHideSegments(self, segment_ids):
        """Keep these segments out of the table."""
        self._hidden = tuple(segment_ids)
        self._list_segments()

    def hideSegments(self):
        """The segments kept out of the table."""
        return self._hidden


@stand_in
class qMRMLSegmentationShow3DButton(ctkMenuButton):
    """A button that shows a segmentation in 3D."""

    CPP_SIGNALS: ClassVar[dict] = {}
    locked = stored(bool, False)

    def __init__(self, parent=None):
        ctkMenuButton.__init__(self, parent)
        self._node = None
        self._observers = Observers(self)
        self.setText("Show 3D")
        self.setCheckable(True)
        self.setEnabled(False)
        self.toggled.connect(calling(self, "_show_surfaces"))

    def click(self):
        """Real Slicer opens the button's menu; a test uses `setChecked`."""
        raise RuntimeError("the button's menu would wait for ever: use setChecked")

    def segmentationNode(self):
        """The segmentation, or None."""
        return self._node

    def setSegmentationNode(self, node):
        """Show and hide this segmentation."""
        self._node = node
        self._observers.observe(node, {vtk.vtkCommand.AnyEvent: "_follow"})
        self._follow()

    def _follow(self, *_):
        was = self.blockSignals(True)
        segmentation = self._node.GetSegmentation() if self._node else None
        self.setEnabled(bool(segmentation and segmentation.GetNumberOfSegments()))
        name = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        self.setChecked(bool(segmentation and segmentation.ContainsRepresentation(name)))
        self.blockSignals(was)

    def _show_surfaces(self, shown):
        if self._node is None:
            return
        if shown:
            self._node.CreateClosedSurfaceRepresentation()
            self._node.GetDisplayNode().SetVisibility3D(True)
        else:
            self._node.RemoveClosedSurfaceRepresentation()


@stand_in
class qMRMLTableView(HasScene, qt.QTableView):
    """The cells of a table node."""

    CPP_SIGNALS = HasScene.CPP_SIGNALS
    mrmlSceneChanged = Signal(object)

    transposed = stored(bool, False, applied="_list_cells")
    firstRowLocked = stored(bool, False, applied="_list_cells")
    firstColumnLocked = stored(bool, False, applied="_list_cells")

    def __init__(self, parent=None):
        qt.QTableView.__init__(self, parent)
        self._node = None
        self._observers = Observers(self)
        self._cells = qt.QStandardItemModel(self)
        self.setModel(self._cells)

    def mrmlTableNode(self):
        """The table shown, or None."""
        return self._node

    def setMRMLTableNode(self, node):
        """Show the cells of this table."""
        self._node = node
        self._observers.observe(node, {vtk.vtkCommand.ModifiedEvent: "_list_cells"})
        self._list_cells()

    def tableModel(self):
        """The model of the cells."""
        return self._cells

    def _list_cells(self, *_):
        table = self._node.GetTable() if self._node else None
        self._cells.clear()
        if table is None:
            return
        columns = range(table.GetNumberOfColumns())
        for column in columns:
            array = table.GetColumn(column)
            values = [
                array.GetVariantValue(row).ToString() for row in range(table.GetNumberOfRows())
            ]
            items = [qt.QStandardItem(value) for value in values]
            for item in items:
                item.setEditable(not self._node.GetLocked())
            if self.transposed:
                self._cells.appendRow(items)
            else:
                self._cells.appendColumn(items)
        names = [table.GetColumnName(column) or "" for column in columns]
        if self.transposed:
            self._cells.setVerticalHeaderLabels(names)
        else:
            self._cells.setHorizontalHeaderLabels(names)
