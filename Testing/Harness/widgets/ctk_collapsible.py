"""Stand-ins for CTK's collapsible containers."""
# ruff: noqa: N801

import qt
from PySide6.QtCore import Property, Signal

from .observing import calling
from .properties import stand_in, stored


@stand_in
class ctkCollapsibleButton(qt.QAbstractButton):
    """A header bar with an arrow above its contents, which a click hides or shows."""

    contentsCollapsed = Signal(bool)

    collapsedHeight = stored(int, 10, applied="updateGeometry")
    contentsFrameShape = stored(int, 0)
    contentsLineWidth = stored(int, 1)
    buttonTextAlignment = stored(int, 0)

    def __init__(self, text="", parent=None):
        if not isinstance(text, str):
            text, parent = "", text
        qt.QAbstractButton.__init__(self, parent)
        self._collapsed = False
        self._forcing = False
        self._maximum_height = self.maximumHeight
        self.setCheckable(True)
        self.setChecked(True)
        # As in CTK: the size hint of wrapped labels becomes the smallest width of the panel.
        self.setSizePolicy(qt.QSizePolicy.Minimum, qt.QSizePolicy.Preferred)
        self.setText(text)
        self.setContentsMargins(0, self._header().height(), 0, 0)
        self.toggled.connect(calling(self, "_toggle"))

    def _header(self):
        """The size of the header bar."""
        option = qt.QStyleOptionButton()
        option.initFrom(self)
        style, metrics = self.style(), self.fontMetrics()
        indicator = style.pixelMetric(qt.QStyle.PM_IndicatorWidth, option, self)
        gap = style.pixelMetric(qt.QStyle.PM_CheckBoxLabelSpacing, option, self)
        text = metrics.size(qt.Qt.TextShowMnemonic, self.text or "XXXX")
        inner = qt.QSize(indicator + gap + text.width(), max(text.height(), indicator))
        return style.sizeFromContents(qt.QStyle.CT_PushButton, option, inner, self)

    def sizeHint(self):
        """The header alone if collapsed, else the contents below it."""
        header = self._header()
        collapsed = header + qt.QSize(0, self.collapsedHeight)
        if self._collapsed:
            return collapsed
        return qt.QAbstractButton.sizeHint(self).expandedTo(collapsed)

    def minimumSizeHint(self):
        """The header alone if collapsed, else the contents below it."""
        header = self._header()
        if self._collapsed:
            return header + qt.QSize(0, self.collapsedHeight)
        if self.layout() is None:
            return header
        return qt.QAbstractButton.minimumSizeHint(self).expandedTo(header)

    def _set_collapsed(self, collapsed):
        self.setChecked(not collapsed)

    collapsed = Property(bool, lambda self: self._collapsed, _set_collapsed)

    def _toggle(self, checked):
        self._collapsed = not checked
        if self._collapsed:
            self._maximum_height = self.maximumHeight
            self.setMaximumHeight(self.sizeHint().height())
        else:
            self.setMaximumHeight(self._maximum_height)
        for child in self.children():
            if child.isWidgetType():
                self._force(child)
        self.updateGeometry()
        self.contentsCollapsed.emit(self._collapsed)

    def _force(self, child):
        """Hide a child while collapsed, else show it unless it was hidden explicitly."""
        wanted = child.property("visibilityToParent")
        self._forcing = True
        child.setVisible(not self._collapsed and wanted is not False)
        self._forcing = False
        if wanted is not False:
            child.setAttribute(qt.Qt.WA_WState_ExplicitShowHide, False)

    def childEvent(self, event):
        """Watch the children: one that is shown while the button is collapsed is hidden again."""
        child = event.child()
        if child is not None and child.isWidgetType():
            if event.type() == qt.QEvent.ChildAdded:
                child.installEventFilter(self)
                if self._collapsed:
                    self._force(child)
            elif event.type() == qt.QEvent.ChildRemoved:
                child.removeEventFilter(self)

    def eventFilter(self, child, event):
        """Keep whether a child was shown or hidden explicitly."""
        kind = event.type()
        if self._forcing or kind not in (qt.QEvent.ShowToParent, qt.QEvent.HideToParent):
            return False
        shown = kind == qt.QEvent.ShowToParent
        child.setProperty("visibilityToParent", shown)
        if shown and self._collapsed:
            self._force(child)
        return False

    def hitButton(self, place):
        """Only the header is pressed."""
        return place.y() <= self._header().height()

    def paintEvent(self, event):
        """Draw the header."""
        palette, painter = self.palette, qt.QPainter(self)
        header = qt.QRect(0, 0, self.width, self._header().height())
        painter.setPen(palette.mid().color())
        painter.setBrush(palette.button())
        painter.drawRect(header.adjusted(0, 0, -1, -1))
        arrow = qt.QStyleOption()
        arrow.initFrom(self)
        size = header.height() - 8
        arrow.rect = qt.QRect(4, 4, size, size)
        kind = qt.QStyle.PE_IndicatorArrowRight
        if not self._collapsed:
            kind = qt.QStyle.PE_IndicatorArrowDown
        self.style().drawPrimitive(kind, arrow, painter, self)
        painter.setPen(palette.buttonText().color())
        painter.drawText(
            header.adjusted(header.height() + 4, 0, 0, 0), qt.Qt.AlignVCenter, self.text
        )
        if self.hasFocus():
            focus = qt.QStyleOptionFocusRect()
            focus.initFrom(self)
            focus.rect = header.adjusted(2, 2, -3, -3)
            self.style().drawPrimitive(qt.QStyle.PE_FrameFocusRect, focus, painter, self)
        painter.end()


@stand_in
class ctkCollapsibleGroupBox(qt.QGroupBox):
    """A group box whose contents hide when it is unchecked."""

    collapsedHeight = stored(int, 14)

    def __init__(self, title="", parent=None):
        if not isinstance(title, str):
            title, parent = "", title
        qt.QGroupBox.__init__(self, title, parent)
        self._hidden_by_collapse = []
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(calling(self, "_show_contents"))

    def _show_contents(self, shown):
        if not shown:
            self._hidden_by_collapse = [
                child for child in self.children() if child.isWidgetType() and not child.isHidden()
            ]
        for child in self._hidden_by_collapse:
            child.setVisible(shown)

    collapsed = Property(
        bool,
        lambda self: not self.checked,
        lambda self, collapsed: self.setChecked(not collapsed),
    )
