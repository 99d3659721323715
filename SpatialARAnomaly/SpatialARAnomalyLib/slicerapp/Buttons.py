"""Buttons that say in their tooltip why they cannot be clicked."""

import qt


def enable(button: "qt.QWidget", reason: str | None, does: str) -> None:
    """Enable a button that `does` something, unless there is a reason not to."""
    button.setEnabled(reason is None)
    button.setToolTip(does if reason is None else reason)
