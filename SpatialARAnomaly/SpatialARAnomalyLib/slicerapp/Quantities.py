"""Times and sizes in words."""

from slicer.i18n import tr as _


def durationText(seconds: float) -> str:
    """A time, as exact as an estimate is."""
    if seconds < 90:
        return _("{number} s").format(number=max(1, round(seconds)))
    if seconds < 5400:
        return _("{number} min").format(number=round(seconds / 60))
    return _("{number} h").format(number=f"{seconds / 3600:.1f}")


def sizeText(sizeBytes: float, approximate: bool = False) -> str:
    """Bytes in the unit that fits, decimal as the hub's pages give them: `86.4 MB`."""
    if sizeBytes >= 1e9:
        text = _("{number} GB").format(number=f"{sizeBytes / 1e9:.3g}")
    else:
        text = _("{number} MB").format(number=f"{sizeBytes / 1e6:.3g}")
    return f"~{text}" if approximate else text
