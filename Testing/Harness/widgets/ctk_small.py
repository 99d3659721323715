"""Stand-ins for CTK's small additions to Qt's own widgets."""
# ruff: noqa: N801

import qt
from PySide6.QtCore import Signal
from PySide6.QtGui import QColor

from .observing import calling
from .properties import stand_in, stored


@stand_in
class ctkCheckBox(qt.QCheckBox):
    """A check box with an icon."""

    indicatorIconSize = stored("QSize", None)


@stand_in
class ctkComboBox(qt.QComboBox):
    """A combo box with a text for no choice."""

    defaultText = stored(str, "")
    scrollWheelEffect = stored(int, 0)
    elideMode = stored(int, 3)


@stand_in
class ctkMenuButton(qt.QPushButton):
    """A button with a menu beside it."""


@stand_in
class ctkCheckablePushButton(qt.QPushButton):
    """A push button with a check box in it."""

    checkBoxToggled = Signal(bool)

    checkBoxControlsButton = stored(bool, True)
    checkBoxControlsButtonToggleState = stored(bool, True)
    checkState = stored(int, 0)


@stand_in
class ctkColorPickerButton(qt.QPushButton):
    """A button that shows a color."""

    colorChanged = Signal(QColor)

    displayColorName = stored(bool, True)
    color = stored(QColor, QColor("black"), applied="_show_color", notified="colorChanged")

    def _show_color(self):
        self.setText(self.color.name())


@stand_in
class ctkMessageBox(qt.QMessageBox):
    """A message box that can be asked not to come again."""

    dontShowAgainVisible = stored(bool, False)
    dontShowAgain = stored(bool, False, applied="_remember")
    dontShowAgainSettingsKey = stored(str, "", applied="_recall")

    def exec(self):
        """Real Slicer waits for the answer; a test replaces the module's dialogs."""
        raise RuntimeError(f"a message would wait for ever: {self.text}")

    def _remember(self):
        if self.dontShowAgainSettingsKey:
            qt.QSettings().setValue(self.dontShowAgainSettingsKey, str(self.dontShowAgain))

    def _recall(self):
        value = qt.QSettings().value(self.dontShowAgainSettingsKey)
        self.dontShowAgain = str(value).lower() == "true"


@stand_in
class ctkFittedTextBrowser(qt.QTextBrowser):
    """A text browser as high as its text, which can hide the rest behind a link."""

    collapsed = stored(bool, True)
    collapsible = stored(bool, False)
    showDetailsText = stored(str, "Show details...")

    def __init__(self, parent=None):
        qt.QTextBrowser.__init__(self, parent)
        self.setVerticalScrollBarPolicy(qt.Qt.ScrollBarAlwaysOff)
        self.textChanged.connect(calling(self, "_fit"))

    def _fit(self):
        document = self.document.clone()
        document.setTextWidth(self.viewport().width)
        self.setFixedHeight(round(document.size.height()) + 2 * self.frameWidth)

    def resizeEvent(self, event):
        """Fit the height to the new width."""
        qt.QTextBrowser.resizeEvent(self, event)
        self._fit()


class ctkWidgetsUtils:
    """Pictures of widgets."""

    @staticmethod
    def grabWidget(widget, rectangle=None):
        """The widget as an image."""
        pixmap = widget.grab() if rectangle is None else widget.grab(rectangle)
        return pixmap.toImage()
