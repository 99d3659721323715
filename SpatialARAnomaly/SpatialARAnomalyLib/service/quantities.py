"""Sizes in words."""


def size_text(size_bytes: float, approximate: bool = False) -> str:
    """Bytes in the unit that fits, decimal as the hub's pages give them: `86.4 MB`."""
    value, unit = (size_bytes / 1e9, "GB") if size_bytes >= 1e9 else (size_bytes / 1e6, "MB")
    return f"{'~' if approximate else ''}{value:.3g} {unit}"
