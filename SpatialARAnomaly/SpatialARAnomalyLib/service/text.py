"""Sizes in words."""

from collections.abc import Sized


def size_number(size_bytes: float) -> tuple[str, str]:
    """A size in the unit that fits, decimal as the hub's pages give them: `86.4`, `MB`."""
    value, unit = (size_bytes / 1e9, "GB") if size_bytes >= 1e9 else (size_bytes / 1e6, "MB")
    return (f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"), unit


def size_text(size_bytes: float, approximate: bool = False) -> str:
    """A size in words: `86.4 MB`, `~1.2 GB`."""
    return f"{'~' if approximate else ''}{' '.join(size_number(size_bytes))}"


RESEARCH_NOTICE = "For research use only. Not a medical device."


def count_findings(findings: Sized) -> str:
    """`no findings`, `1 finding`, `2 findings`."""
    count = len(findings)
    return f"{count or 'no'} finding" + ("" if count == 1 else "s")
