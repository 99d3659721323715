"""Times and sizes in words."""

from slicer.i18n import tr as _


def durationText(seconds: float) -> str:
    """A time, as exact as an estimate is."""
    if seconds < 90:
        return _("{number} s").format(number=max(1, round(seconds)))
    if seconds < 5400:
        return _("{number} min").format(number=round(seconds / 60))
    return _("{number} h").format(number=f"{seconds / 3600:.1f}")


def bytesText(count: int) -> str:
    """A size in megabytes or gigabytes."""
    if count < 1e9:
        return _("{number} MB").format(number=max(1, round(count / 1e6)))
    return _("{number} GB").format(number=f"{count / 1e9:.1f}")
