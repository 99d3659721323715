"""Tooltips as the code set them: Slicer wraps those of widgets in a paragraph."""

from typing import Any


def tip(widget: Any) -> str:
    """Return the tooltip of a widget."""
    return str(widget.toolTip).removeprefix("<p>").removesuffix("</p>")
