"""Pictures of panels, in light and dark."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import qt

from .waiting import run_events

_DARK = {
    "Window": "#353535",
    "WindowText": "#ffffff",
    "Base": "#252525",
    "AlternateBase": "#353535",
    "ToolTipBase": "#252525",
    "ToolTipText": "#ffffff",
    "PlaceholderText": "#8a8a8a",
    "Text": "#ffffff",
    "Button": "#404040",
    "ButtonText": "#ffffff",
    "Light": "#606060",
    "Midlight": "#505050",
    "Mid": "#2a2a2a",
    "Dark": "#232323",
    "Shadow": "#141414",
    "Link": "#4ea3e0",
    "Highlight": "#2a82da",
    "HighlightedText": "#ffffff",
}
_LIGHT = {
    "Window": "#efefef",
    "WindowText": "#000000",
    "Base": "#ffffff",
    "AlternateBase": "#f7f7f7",
    "ToolTipBase": "#ffffdc",
    "ToolTipText": "#000000",
    "PlaceholderText": "#7f7f7f",
    "Text": "#000000",
    "Button": "#e6e6e6",
    "ButtonText": "#000000",
    "Light": "#ffffff",
    "Midlight": "#cacaca",
    "Mid": "#b8b8b8",
    "Dark": "#9f9f9f",
    "Shadow": "#767676",
    "Link": "#0057ae",
    "Highlight": "#308cc6",
    "HighlightedText": "#ffffff",
}
_DISABLED = ("WindowText", "Text", "ButtonText")


def _palette(colors: dict[str, str]) -> Any:
    palette = qt.QPalette()
    for role, color in colors.items():
        palette.setColor(getattr(qt.QPalette, role), qt.QColor(color))
    for role in _DISABLED:
        palette.setColor(qt.QPalette.Disabled, getattr(qt.QPalette, role), qt.QColor("#808080"))
    return palette


@contextlib.contextmanager
def color_scheme(scheme: Literal["light", "dark"]) -> Iterator[None]:
    """The application in light or dark colors within the block."""
    before = qt.QPalette(qt.QApplication.palette())
    qt.QApplication.setPalette(_palette({"light": _LIGHT, "dark": _DARK}[scheme]))
    try:
        yield
    finally:
        qt.QApplication.setPalette(before)


def _asked_height(widget: Any, width_px: int) -> int:
    layout = widget.layout()
    if layout is None or not layout.hasHeightForWidth():
        return int(widget.property("sizeHint").height())
    layout.activate()
    return max(int(widget.property("sizeHint").height()), layout.heightForWidth(width_px))


def grab(
    widget: Any,
    path: Path | str,
    *,
    width_px: int = 480,
    height_px: int | None = None,
    scheme: Literal["light", "dark"] = "light",
) -> Path:
    """Write a picture of the widget, such as a module's panel, at the width of a side panel.

    The default height is the widget's size hint.
    """
    path = Path(path)
    with color_scheme(scheme):
        was_visible = widget.isVisible()
        widget.resize(width_px, height_px or 100)
        widget.show()
        run_events()
        # Wrapped text asks for its height anew after a resize, until it has settled.
        for _turn in range(0 if height_px else 4):
            widget.resize(width_px, _asked_height(widget, width_px))
            run_events()
        if not widget.grab().save(str(path)):
            raise OSError(f"the picture could not be written to {path}")
        if not was_visible:
            widget.hide()
    return path
