"""Stand-ins for CTK's collapsible containers."""
# ruff: noqa: N801

import qt
from PySide6.QtCore import Property, Signal

from .observing import calling
from .properties import stand_in, stored

_PADDING = 4
_NO_MAXIMUM = 16_777_215  # QWIDGETSIZE_MAX


@stand_in
class ctkCollapsibleButton(qt.QWidget):
    """A header bar with an arrow above its contents, which a click hides or shows."""

    contentsCollapsed = Signal(bool)
    toggled = Signal(bool)
    clicked = Signal(bool)

    contentsFrameShape = stored(int, 0)
    contentsLineWidth = stored(int, 1)
    buttonTextAlignment = stored(int, 0)
    flat = stored(bool, False)

    def __init__(self, text="", parent=None):
        if not isinstance(text, str):
            text, parent = "", text
        qt.QWidget.__init__(self, parent)
        self._text = text
        self._collapsed = False
        self._hidden_by_collapse = []
        side = _PADDING + 2
        self.setMinimumHeight(self._header_height())
        self.setContentsMargins(side, self._header_height() + _PADDING, side, side)

    def _header_height(self):
        return self.fontMetrics().height() + 2 * _PADDING

    def _set_text(self, text):
        self._text = text
        self.update()

    text = Property(str, lambda self: self._text, _set_text)

    def _set_collapsed(self, collapsed):
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        if collapsed:
            self._hidden_by_collapse = [
                child for child in self.children() if child.isWidgetType() and not child.isHidden()
            ]
            for child in self._hidden_by_collapse:
                child.hide()
            self.setMaximumHeight(self._header_height())
        else:
            self.setMaximumHeight(_NO_MAXIMUM)
            for child in self._hidden_by_collapse:
                child.show()
        self.update()
        self.contentsCollapsed.emit(collapsed)
        self.toggled.emit(not collapsed)

    collapsed = Property(bool, lambda self: self._collapsed, _set_collapsed)
    checked = Property(
        bool,
        lambda self: not self._collapsed,
        lambda self, checked: self._set_collapsed(not checked),
    )

    def isChecked(self):
        """True if the contents are shown."""
        return not self._collapsed

    def toggle(self):
        """Hide the contents, or show them."""
        self._set_collapsed(not self._collapsed)

    def click(self):
        """Toggle the contents, like a click on the header."""
        self.toggle()
        self.clicked.emit(not self._collapsed)

    def mouseReleaseEvent(self, event):
        """Toggle on the header."""
        if event.position().y() <= self._header_height():
            self.click()

    def paintEvent(self, event):
        """Draw the header, and a frame around the contents."""
        palette = self.palette
        painter = qt.QPainter(self)
        header = qt.QRect(0, 0, self.width, self._header_height())
        painter.setPen(palette.mid().color())
        if not self._collapsed:
            painter.drawRect(self.rect.adjusted(0, 0, -1, -1))
        painter.setBrush(palette.button())
        painter.drawRect(header.adjusted(0, 0, -1, -1))
        arrow = qt.QStyleOption()
        arrow.initFrom(self)
        size = header.height() - 2 * _PADDING
        arrow.rect = qt.QRect(_PADDING, _PADDING, size, size)
        kind = qt.QStyle.PE_IndicatorArrowRight
        if not self._collapsed:
            kind = qt.QStyle.PE_IndicatorArrowDown
        self.style().drawPrimitive(kind, arrow, painter, self)
        painter.setPen(palette.buttonText().color())
        painter.drawText(
            header.adjusted(header.height() + _PADDING, 0, 0, 0), qt.Qt.AlignVCenter, self._text
        )
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
