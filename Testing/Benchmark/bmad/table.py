"""The table of a comparison: printed, as CSV and JSON, and as a picture."""

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.service.text import RESEARCH_NOTICE, size_text

METRICS = {
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "image_auroc": "image AUROC",
    "pro": "PRO",
}
"""Metrics and their column headings."""


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """The results of one method."""

    method: str
    seeds: tuple[int, ...] = ()
    """Seeds of its runs; empty if it draws no random numbers or was not run."""
    values: Mapping[str, tuple[float | None, ...]]
    """Value of each metric of `METRICS` per run, in [0, 1]; None where undefined."""
    encode_ms: float | None = None
    """Milliseconds to compute the tokens of one image."""
    score_ms: float | None = None
    """Milliseconds to compute the scores of one image from its tokens."""
    size_bytes: int | None = None
    """Memory needed to score, in bytes, without the encoder."""
    not_run: str = ""
    """Why it was not run; empty if it was."""

    def mean(self, metric: str) -> float | None:
        """Mean over runs; None if it is undefined in a run."""
        found = self._found(metric)
        return statistics.fmean(found) if found else None

    def std(self, metric: str) -> float | None:
        """Sample standard deviation (n − 1) over runs; None for a single run."""
        found = self._found(metric)
        return statistics.stdev(found) if len(found) > 1 else None

    @property
    def image_ms(self) -> float | None:
        """Milliseconds for one image, from its pixels to its scores."""
        if self.encode_ms is None or self.score_ms is None:
            return None
        return self.encode_ms + self.score_ms

    def percent(self, metric: str) -> str:
        """Format as percentage: `98.35±0.02`, `98.35`, or a dash."""
        mean, std = self.mean(metric), self.std(metric)
        if mean is None:
            return "–"
        return f"{100 * mean:.2f}" + ("" if std is None else f"±{100 * std:.2f}")

    def _found(self, metric: str) -> list[float]:
        values = self.values.get(metric, ())
        return [] if None in values else [value for value in values if value is not None]


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """The results of all methods and the conditions of the comparison."""

    rows: tuple[MethodRow, ...]
    about: Mapping[str, Any]
    """Data set, protocol, image counts, encoder, training, versions, hardware; no paths."""

    @property
    def title(self) -> str:
        """One line that says what is compared."""
        about = self.about
        return (
            f"BMAD {about['set']}, protocol {about['protocol']}, encoder "
            f"{about['encoder']['name']}: {about['test_images']} test images, "
            f"{about['training_images']} normal training images"
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to one JSON object that holds means and the values of each run."""
        return {
            "about": dict(self.about),
            "rows": [
                asdict(row)
                | {
                    "mean": {metric: row.mean(metric) for metric in METRICS},
                    "std": {metric: row.std(metric) for metric in METRICS},
                    "image_ms": row.image_ms,
                }
                for row in self.rows
            ],
        }


def write_json(path: Path, table: ResultTable) -> None:
    """Write the table and the conditions of the comparison as JSON."""
    path.write_text(json.dumps(table.to_dict(), indent=1) + "\n", encoding="utf-8")


def write_csv(path: Path, table: ResultTable) -> None:
    """Write one line per method; metrics in [0, 1], times in ms."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        spread = [f"{metric}_{statistic}" for metric in METRICS for statistic in ("mean", "std")]
        lines.writerow(
            ["method", "runs", *spread, "encode_ms", "score_ms", "size_bytes", "not_run"]
        )
        for row in table.rows:
            figures = [one for metric in METRICS for one in (row.mean(metric), row.std(metric))]
            runs = 0 if row.not_run else len(row.values["pro"])
            cells = [row.method, runs, *figures, row.encode_ms, row.score_ms, row.size_bytes]
            lines.writerow(["" if cell is None else cell for cell in [*cells, row.not_run]])


def _cells(row: MethodRow) -> list[str]:
    if row.not_run:
        return [row.method, *["–"] * (len(METRICS) + 1), row.not_run]
    time = "–" if row.image_ms is None else f"{row.image_ms:.1f}"
    size = "–" if row.size_bytes is None else size_text(row.size_bytes)
    return [row.method, *(row.percent(metric) for metric in METRICS), time, size]


_HEADINGS = ("method", *(f"{name} %" for name in METRICS.values()), "ms", "memory")


def write_png(path: Path, table: ResultTable) -> None:
    """Write the table as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [_cells(row) for row in table.rows]
    figure = Figure(figsize=(9.5, 1.1 + 0.32 * len(rows)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_axis_off()
    drawn = axes.table(cellText=rows, colLabels=_HEADINGS, loc="center", cellLoc="right")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    drawn.auto_set_column_width(range(len(_HEADINGS)))
    drawn.scale(1, 1.35)
    best = {column: _best(table.rows, metric) for column, metric in enumerate(METRICS, start=1)}
    for (line, column), cell in drawn.get_celld().items():
        cell.set_edgecolor("0.8")
        if column == 0:
            cell.set_text_props(ha="left")
        if line == 0 or (line - 1 in best.get(column, ())):
            cell.set_text_props(weight="bold")
    figure.suptitle(table.title, fontsize=11, parse_math=False)
    figure.supxlabel(f"{_conditions(table)} {RESEARCH_NOTICE}", fontsize=7, parse_math=False)
    figure.savefig(path, facecolor="white")


def _best(rows: Sequence[MethodRow], metric: str) -> set[int]:
    """Indices of the rows with the highest mean."""
    means = {
        place: mean for place, row in enumerate(rows) if (mean := row.mean(metric)) is not None
    }
    return {place for place, mean in means.items() if mean == max(means.values())}


def print_table(table: ResultTable, files: Sequence[Path]) -> None:
    """Print the table and the paths of its files."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(
        title=Text(table.title), title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False
    )
    for heading in _HEADINGS:
        shown.add_column(heading, justify="left" if heading == "method" else "right")
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in _cells(row)))
    Console().print(shown)
    print(_conditions(table))
    for file in files:
        print(file)


def _conditions(table: ResultTable) -> str:
    about = table.about
    return (
        f"Mean ± standard deviation over seeds {', '.join(map(str, about['seeds']))}; "
        "ms per image from pixels to scores; memory without the encoder's; "
        f"{about['hardware']}; {about['date']}."
    )
