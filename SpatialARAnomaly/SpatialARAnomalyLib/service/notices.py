"""Words that stand wherever results are shown."""

from collections.abc import Sequence

from ..engine.findings import Finding

RESEARCH_NOTICE = "For research use only. Not a medical device."


def count_findings(findings: Sequence[Finding]) -> str:
    """`no findings`, `1 finding`, `2 findings`."""
    count = len(findings)
    return f"{count or 'no'} finding" + ("" if count == 1 else "s")
