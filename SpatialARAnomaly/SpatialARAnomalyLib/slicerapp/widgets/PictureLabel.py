"""A picture as wide as the room there is for it."""

import qt


class PictureLabel(qt.QLabel):
    """Shows a picture from a file; never makes the panel wider."""

    def __init__(self, parent: "qt.QWidget") -> None:
        qt.QLabel.__init__(self, parent)
        self._picture: qt.QPixmap | None = None
        self.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        self.setMinimumWidth(1)
        self.setVisible(False)

    def showFile(self, path: str) -> None:
        """Show the picture of a file; an empty path shows none."""
        self._picture = qt.QPixmap(path) if path else None
        self.setVisible(self._picture is not None)
        self._fit()

    def resizeEvent(self, event: "qt.QResizeEvent") -> None:
        """Follow the width."""
        self._fit()

    def _fit(self) -> None:
        if self._picture is None:
            self.clear()
            return
        width = int(self.property("width"))
        if width < 2 or int(self._picture.width()) < 1:
            return
        fitted = self._picture.scaledToWidth(width, qt.Qt.SmoothTransformation)
        self.setFixedHeight(int(fitted.height()))
        self.setPixmap(fitted)
