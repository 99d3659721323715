"""Icons of the panel's buttons, and the names of its controls for screen readers."""

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

FOLDER = Path(__file__).parents[3] / "Resources" / "Icons"

ICONS = {
    "detectButton": "Detect",
    "previousButton": "Previous",
    "nextButton": "Next",
    "acceptButton": "Accept",
    "rejectButton": "Reject",
    "undoButton": "Undo",
    "exportButton": "Export",
}
"""Icon by button."""

SIDES_PX = 16, 24, 32, 48
"""Sides of an icon's pictures: of screens scaled by 100, 150, 200 and 300 %."""

CONTROLS = (
    "QAbstractButton",
    "QComboBox",
    "QAbstractSpinBox",
    "QLineEdit",
    "QAbstractItemView",
    "QPlainTextEdit",
    "QSlider",
    "QProgressBar",
    "ctkPathLineEdit",
    "ctkSliderWidget",
    "ctkDoubleSlider",
    "qMRMLNodeComboBox",
)
"""Classes of widgets that a screen reader reads."""


def _names() -> dict[str, str]:
    """Return the names of the controls that have neither a text nor a label."""
    return {
        "previousButton": _("Previous finding"),
        "nextButton": _("Next finding"),
        "undoButton": _("Undo review"),
        "modelMenuButton": _("More on the model"),
        "resultMenuButton": _("More on the result"),
        "findingsTable": _("Findings"),
        "progressBar": _("Progress of the detection"),
        "batchProgressBar": _("Progress of the batch"),
        "batchTable": _("Scans of the batch"),
        "evaluateTable": _("Metrics"),
        "trainScansTable": _("Surveyed scans"),
        "trainProgressBar": _("Progress of the training"),
        "modelsTable": _("Models"),
        "modelsProgressBar": _("Progress"),
        "encodersTable": _("Encoders"),
        "encodersTokenEdit": _("Token of the hub"),
        "encodersProgressBar": _("Progress of the download"),
        "setupTable": _("Packages"),
        "setupProgressBar": _("Progress of the installation"),
        "setupLogText": _("Output of the installer"),
        "logText": _("Log"),
    }


COLORS = {
    "#7a8794": ("#202020", "#f0f0f0"),
    "#2f9e5f": ("#1a6b3c", "#5fd08f"),
    "#d0454c": ("#b3262e", "#ff8a8f"),
}
"""Colors of the files, and those instead on a light and on a dark background."""


def showIcons(ui: object) -> None:
    """Give the buttons their icons, in colors that stand out from the present background."""
    for name, file in ICONS.items():
        icon = qt.QIcon()
        for sidePx in SIDES_PX:
            picture = qt.QPixmap()
            picture.loadFromData(qt.QByteArray(iconData(file, sidePx)))
            icon.addPixmap(picture)
        button = getattr(ui, name)
        button.setIcon(icon)
        if icon.isNull() and not button.property("text"):  # Qt without its plugin for SVG
            button.setText(button.accessibleName)


def iconData(file: str, sidePx: int = 16) -> bytes:
    """Return an icon's SVG in the colors for the present background of buttons."""
    dark = slicer.app.palette().button().color().lightness() < 128
    text = (FOLDER / f"{file}.svg").read_text(encoding="utf-8")
    for color, (onLight, onDark) in COLORS.items():
        text = text.replace(color, onDark if dark else onLight)
    return text.replace('width="16" height="16"', f'width="{sidePx}" height="{sidePx}"').encode()


def nameControls(ui: object) -> None:
    """Name every control for screen readers: as listed here, or by its text, or by its label.

    The parts of a composed control get its name; they have no text of their own but a value.
    """
    widgets = vars(ui).values()
    labels = {
        label.buddy().objectName: label.property("text").strip(" :")
        for label in widgets
        if label.inherits("QLabel") and label.buddy() is not None
    }
    names = _names()
    for key, widget in vars(ui).items():
        if not any(widget.inherits(kind) for kind in CONTROLS):
            continue
        isButton = widget.inherits("QAbstractButton")  # a section is one
        text = str(widget.property("text") or "") if isButton else ""
        name = names.get(key) or text or labels.get(key, "")
        if not name or key.startswith("qt_"):
            continue
        widget.setAccessibleName(name)
        for child in () if isButton else widget.findChildren(qt.QWidget):
            own = child.accessibleName or child.objectName.startswith("qt_")
            if child.focusPolicy != qt.Qt.NoFocus and not own:
                child.setAccessibleName(name)
