"""Words that stand wherever results are shown."""

from collections.abc import Sized

RESEARCH_NOTICE = "For research use only. Not a medical device."


def count_findings(findings: Sized) -> str:
    """`no findings`, `1 finding`, `2 findings`."""
    count = len(findings)
    return f"{count or 'no'} finding" + ("" if count == 1 else "s")
