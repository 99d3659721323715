"""Times and sizes in words."""

from slicer.i18n import tr as _

from ..service.quantities import size_number


def durationText(seconds: float) -> str:
    """A time, as exact as an estimate is."""
    if seconds < 90:
        return _("{number} s").format(number=max(1, round(seconds)))
    if seconds < 5400:
        return _("{number} min").format(number=round(seconds / 60))
    return _("{number} h").format(number=f"{seconds / 3600:.1f}")


def sizeText(sizeBytes: float, approximate: bool = False) -> str:
    """A size in the unit that fits: `86.4 MB`."""
    number, unit = size_number(sizeBytes)
    text = {"GB": _("{number} GB"), "MB": _("{number} MB")}[unit].format(number=number)
    return f"~{text}" if approximate else text
