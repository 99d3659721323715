"""The report of a case: one HTML file with findings, pictures, model card and settings.

It names no scan and no patient, unless a title is given.
"""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt16

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import (
    FindingsSpec,
    IntensitySpec,
    Modality,
    Plane,
    Region,
    Spec,
)
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.detection.findings_table import rank_color
from SpatialARAnomalyLib.service.detection.review_case import ReviewCase, peak_of
from SpatialARAnomalyLib.service.detection.review_picture import write_review
from SpatialARAnomalyLib.service.models.wording import basis_text
from SpatialARAnomalyLib.service.text import (
    RESEARCH_NOTICE,
    count_findings,
    number_text,
    position_text,
    rate_text,
)

MAX_PICTURES = 12
"""Slices that are shown."""

_STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em;
       color: #1b1b1b; background: #ffffff; }
table { border-collapse: collapse; margin: 0.5em 0 1.5em; }
th, td { border: 1px solid #b5b5b5; padding: 0.25em 0.6em; text-align: left; }
td.number { text-align: right; }
.caution { border-left: 0.4em solid #b45309; padding-left: 0.8em; font-weight: bold; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.4em; }
img { max-width: 100%; background: #000000; }
"""


@dataclass(frozen=True, kw_only=True)
class ReportFacts(Spec):
    """The facts of a report besides scan, NLL volume, label map and findings."""

    plane: Plane
    modality: Modality
    region: Region = Region.BODY
    calibration: Calibration
    false_positive_rate: float
    min_volume_ml: float
    refine_outlines: bool = FindingsSpec.refine_outlines
    case_score: float | None = None
    model: dict[str, Any] = field(default_factory=dict)
    """The model's card in words."""
    notices: tuple[str, ...] = ()
    """Reasons to doubt the result."""
    title: str = ""
    space: str = "scan"
    """Space of the positions: that of the scan, or of Slicer's scene."""


def case_from_facts(
    volume: Volume,
    nll: Float[np.ndarray, "k j i"],
    labels: UInt16[np.ndarray, "k j i"],
    findings: Sequence[Mapping[str, Any]],
    facts: ReportFacts,
) -> ReviewCase:
    """Return what is shown of a result that was kept elsewhere."""
    score = facts.case_score
    return ReviewCase(
        volume=volume,
        plane_volume=PlaneVolume(volume, facts.plane, facts.modality),
        plane=facts.plane,
        intensity=IntensitySpec.for_modality(facts.modality),
        nll=nll,
        labels=labels,
        findings=findings,
        calibration=facts.calibration,
        spec=FindingsSpec(
            false_positive_rate=facts.false_positive_rate,
            min_volume_ml=facts.min_volume_ml,
            refine_outlines=facts.refine_outlines,
        ),
        case_p_value=None if score is None else facts.calibration.case_p_value(score),
        model={"name": ""} | {key: str(value) for key, value in facts.model.items()},
        notices=facts.notices,
    )


def write_report(path: Path, case: ReviewCase, title: str = "", space: str = "scan") -> None:
    """Write the report of a case."""
    picture = io.BytesIO()
    write_review(picture, case, most_rows=MAX_PICTURES)
    encoded = base64.b64encode(picture.getvalue()).decode("ascii")
    count = count_findings(case.findings)
    parts = [
        f"<h1>{_text(title or 'Anomaly detection')}</h1>",
        f"<p><b>{_text(RESEARCH_NOTICE)}</b></p>",
        *(f'<p class="caution">{_text(one)}</p>' for one in case.notices),
        f"<p>{_text(count[0].upper() + count[1:])} above the threshold of "
        f"{rate_text(case.spec.false_positive_rate)} voxels of normal scans. "
        f"{_text(_case(case))}</p>",
        "<h2>Findings</h2>",
        _findings(case, space),
        "<h2>Pictures</h2>",
        f'<p><img alt="{_text(count)}, in slices" src="data:image/png;base64,{encoded}"></p>',
        "<h2>Model</h2>",
        _facts(case.model.items()),
        "<h2>Settings</h2>",
        _facts(
            {
                "false-positive rate": f"{case.spec.false_positive_rate:g}",
                "threshold": f"NLL {case.threshold_nll:.4f} nats per channel",
                "least volume": f"{case.spec.min_volume_ml:g} mL",
                "refined outlines": "yes" if case.spec.refine_outlines else "no",
                "positions": f"RAS mm, space of the {space}",
                "program": f"SpatialARAnomaly {__version__}",
                "written": datetime.now(UTC).isoformat(timespec="seconds"),
            }.items()
        ),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{_text(title or 'Anomaly detection')}</title><style>{_STYLE}</style></head>\n"
        "<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _text(text: object) -> str:
    return html.escape(str(text))


def _case(case: ReviewCase) -> str:
    basis = basis_text(case.calibration)
    if case.case_p_value is None:
        return f"The case has no p-value ({basis})."
    return f"The case as a whole: p = {case.case_p_value:.2g} ({basis})."


def _findings(case: ReviewCase, space: str) -> str:
    if not case.findings:
        return "<p>None.</p>"
    reviewed = any(row.get("status") or row.get("comment") for row in case.findings)
    heads = ["#", "in a normal scan", "volume (mL)", f"peak (mm, space of the {space})"]
    heads += ["review", "comment"] if reviewed else []
    lines = ["<tr>" + "".join(f"<th>{_text(head)}</th>" for head in heads) + "</tr>"]
    for row in case.findings:
        number = "unknown"
        if row["per_normal_scan"] is not None and case.calibration.findings is not None:
            number = number_text(row["per_normal_scan"], case.calibration.findings.least)
        color = ", ".join(str(round(255 * one)) for one in rank_color(row["rank"]))
        swatch = f'<span class="swatch" style="background: rgb({color})"></span>'
        cells = [
            f"<td>{swatch}{_text(row['rank'])}</td>",
            f'<td class="number">{_text(number)}</td>',
            f'<td class="number">{row["volume_ml"]:.2f}</td>',
            f"<td>{_text(position_text(peak_of(row)))}</td>",
        ]
        if reviewed:
            cells += [f"<td>{_text(row.get(key) or '')}</td>" for key in ("status", "comment")]
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = (f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts)
    return "<table>\n" + "\n".join(rows) + "\n</table>"
