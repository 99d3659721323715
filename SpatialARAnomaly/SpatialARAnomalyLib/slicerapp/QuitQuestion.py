"""Whether Slicer may quit while something runs that would stop."""

from collections.abc import Callable

import qt


class QuitQuestion(qt.QObject):
    """Asks before a window closes; lives as long as the window, its parent.

    Qt gives the window's events to this object first: an answer of no ends the
    close event here, before Slicer asks about the scene.
    """

    def __init__(self, window: "qt.QWidget", mayClose: Callable[[], bool]) -> None:
        qt.QObject.__init__(self, window)
        self._mayClose = mayClose
        self._asking = False
        window.installEventFilter(self)

    def eventFilter(self, watched: "qt.QObject", event: "qt.QEvent") -> bool:
        """Keep the close event from the window where the answer is no."""
        if event.type() != qt.QEvent.Close:
            return False
        # A second click on the cross while the question is shown is no answer.
        if not self._asking:
            self._asking = True
            try:
                if self._mayClose():
                    return False
            finally:
                self._asking = False
        event.ignore()
        return True
