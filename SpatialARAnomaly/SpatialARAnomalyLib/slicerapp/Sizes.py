"""Sizes of files in words."""

from slicer.i18n import tr as _


def sizeText(sizeBytes: int, approximate: bool = False) -> str:
    """Bytes in the unit that fits, decimal as the hub's pages give them."""
    if sizeBytes >= 1e9:
        text = _("{number} GB").format(number=f"{sizeBytes / 1e9:.3g}")
    else:
        text = _("{number} MB").format(number=f"{sizeBytes / 1e6:.3g}")
    return f"~{text}" if approximate else text
