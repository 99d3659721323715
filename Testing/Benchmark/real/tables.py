"""The tables of a comparison: Markdown, CSV, JSON, and a picture."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from Benchmark.real.counts import MEASURES, REGIONS, Draws, Estimate
from Benchmark.real.methods import PAPER, Peer
from SpatialARAnomalyLib.service.text import RESEARCH_NOTICE

KINDS = ("md", "csv", "json", "png")
"""Endings of the files."""

SHOWN = (
    ("body", "pixel_ap"), ("body", "pixel_auroc"), ("body", "pro"), ("body", "image_auroc"),
    ("all", "pixel_ap"), ("all", "pixel_auroc"), ("all", "pro"), ("all", "image_auroc"),
)  # fmt: skip
"""Columns of the Markdown table; CSV and JSON hold all."""

DIFFERENCES = (("body", "pixel_ap"), ("body", "pixel_auroc"), ("all", "pixel_ap"),
               ("all", "image_auroc"))  # fmt: skip
"""Columns of a table of differences."""

MAIN = ("body", "pixel_ap")
"""The measure by which the better of the paper's two networks is chosen."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The results of one method."""

    method: str
    seeds: tuple[int, ...] = ()
    """Seeds of its runs; empty if it draws no random numbers or was not run."""
    draws: Draws = field(default_factory=dict)
    by_seed: Sequence[Mapping[str, Mapping[str, float]]] = ()
    """Measures by region of every run."""
    score_ms: float = 0.0
    """Milliseconds to score the tokens of one image."""
    size_bytes: int = 0
    """Memory needed to score, in bytes, without the encoder."""
    not_run: str = ""
    """Why it was not run; empty if it was."""

    def estimate(self, region: str, measure: str, than: "Row | None" = None) -> Estimate:
        """Return a measure, or its difference from another method on the same resamples."""
        draws = self.draws[region][measure]
        return Estimate.of(draws if than is None else draws - than.draws[region][measure])


@dataclass(frozen=True, kw_only=True)
class Table:
    """The results of all methods and the conditions of the comparison."""

    rows: tuple[Row, ...]
    about: Mapping[str, Any]

    @cached_property
    def run(self) -> dict[str, Row]:
        """The methods that were run, by name."""
        return {row.method: row for row in self.rows if not row.not_run}

    @property
    def references(self) -> list[Row]:
        """The methods that the others are compared with.

        The better of the paper's two networks, the memory bank, and brightness or darkness,
        whichever is better.
        """
        found = []
        for names in (PAPER, (Peer.BANK.value,), (Peer.BRIGHT.value, Peer.DARK.value)):
            rows = [self.run[name] for name in names if name in self.run]
            if rows:
                found.append(max(rows, key=lambda row: row.estimate(*MAIN).value))
        return found

    @property
    def title(self) -> str:
        """One line that says what is compared."""
        about = self.about
        return (
            f"{about['set']}, encoder {about['encoder']['name']}: {about['test_patients']} test "
            f"patients with {about['test_images']} images, {about['training_patients']} normal "
            f"training patients with {about['training_images']}"
        )

    @property
    def conditions(self) -> str:
        """What holds for all rows."""
        about = self.about
        return (
            f"Mean over seeds {', '.join(map(str, about['seeds']))} (interval of 95 % over "
            f"patients and seeds); {about['training']['epochs']} epochs, {about['size_px']} px; "
            f"time as a share of the encoder's ({about['encode_ms']:.0f} ms an image on "
            f"{about['hardware']}); {about['date']}."
        )

    def lines(self) -> Iterator[tuple[str, str, str, str, Estimate]]:
        """Yield method, region, measure, reference ("": none) and estimate."""
        for row in self.run.values():
            for region in REGIONS:
                for measure in MEASURES:
                    yield row.method, region, measure, "", row.estimate(region, measure)
                    for than in self.references:
                        if than is not row:
                            estimate = row.estimate(region, measure, than)
                            yield row.method, region, measure, than.method, estimate

    def to_dict(self) -> dict[str, Any]:
        """Convert to one JSON object that holds estimates and the values of each run."""
        results: dict[str, Any] = {
            row.method: {
                "seeds": list(row.seeds),
                "not_run": row.not_run,
                "score_ms": row.score_ms,
                "size_bytes": row.size_bytes,
                "by_seed": list(row.by_seed),
                "estimates": [],
            }
            for row in self.rows
        }
        for method, region, measure, than, estimate in self.lines():
            results[method]["estimates"].append(
                {"region": region, "measure": measure, "than": than}
                | {key: _finite(value) for key, value in vars(estimate).items()}
            )
        return {"about": dict(self.about), "methods": results}


def write_tables(stem: Path, table: Table) -> None:
    """Write all files, whose names begin with `stem`."""
    paths = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in KINDS}
    paths["md"].write_text(markdown(table), encoding="utf-8")
    paths["json"].write_text(json.dumps(table.to_dict(), indent=1) + "\n", encoding="utf-8")
    with paths["csv"].open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["method", "pixels", "measure", "than", "value", "low", "high"])
        for *names, estimate in table.lines():
            values = (_finite(one) for one in vars(estimate).values())
            lines.writerow([*names, *("" if one is None else f"{one:.6g}" for one in values)])
    _write_picture(paths["png"], table)


def markdown(table: Table) -> str:
    """Return the measures, and a table of differences from every reference."""
    encode_ms = max(table.about["encode_ms"], 1e-9)
    heads = [_heading(table, *column) for column in SHOWN]
    parts = [table.title + ".", "", table.conditions, "", *table_head(["method", *heads, "time"])]
    for row in table.rows:
        if row.not_run:
            parts.append(f"| `{row.method}` | {row.not_run} |" + " |" * len(SHOWN))
            continue
        cells = [estimate_text(row.estimate(*column)) for column in SHOWN]
        parts.append(table_line([f"`{row.method}`", *cells, f"{row.score_ms / encode_ms:.3f}"]))
    for than in table.references:
        heads = [f"Δ {_heading(table, *column)}" for column in DIFFERENCES]
        parts += ["", f"Difference from `{than.method}` on the same patients:", ""]
        parts += table_head(["method", *heads])
        for row in table.run.values():
            if row is not than:
                found = [row.estimate(*column, than) for column in DIFFERENCES]
                parts.append(
                    table_line([f"`{row.method}`", *(estimate_text(one, "+") for one in found)])
                )
    return "\n".join(parts) + "\n"


def _heading(table: Table, region: str, measure: str) -> str:
    place = table.about["region"].replace("-", " ") if region == "body" else "all pixels"
    return f"{MEASURES[measure]}, {place}"


def table_head(names: Sequence[str]) -> list[str]:
    return [table_line(names), table_line(["---"] * len(names))]


def table_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def estimate_text(estimate: Estimate, sign: str = "") -> str:
    """Format as `0.122 (0.080 to 0.170)`; a difference is bold if its interval excludes 0."""
    if math.isnan(estimate.value):
        return "–"
    text = f"{estimate.value:{sign}.3f}"
    if math.isnan(estimate.low):
        return text
    text += f" ({estimate.low:{sign}.3f} to {estimate.high:{sign}.3f})"
    return f"**{text}**" if sign and (estimate.low > 0 or estimate.high < 0) else text


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_picture(path: Path, table: Table) -> None:
    """Draw every method's measures with their intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(table.run.values())
    figure = Figure(figsize=(11, 1.6 + 0.24 * len(rows)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    columns = (*DIFFERENCES[:2], ("body", "pro"), DIFFERENCES[3])
    for axes, (region, measure) in zip(
        figure.subplots(1, len(columns), sharey=True), columns, strict=True
    ):
        found = [row.estimate(region, measure) for row in rows]
        values = np.array([(one.value, one.low, one.high) for one in found]).reshape(-1, 3).T
        places = np.arange(len(rows))
        axes.hlines(places, values[1], values[2], color="0.6")
        axes.plot(values[0], places, "o", color="tab:blue", markersize=4)
        axes.set_title(_heading(table, region, measure), fontsize=9)
        axes.set_yticks(places, [row.method for row in rows], fontsize=8)
        axes.grid(axis="x", color="0.9")
        axes.tick_params(axis="x", labelsize=8)
    figure.axes[0].invert_yaxis()
    figure.suptitle(table.title, fontsize=10, parse_math=False)
    figure.supxlabel(f"{table.conditions} {RESEARCH_NOTICE}", fontsize=7, parse_math=False)
    figure.savefig(path, facecolor="white")
