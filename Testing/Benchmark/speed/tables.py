"""The tables of a part: printed, as Markdown and as JSON."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from Benchmark.speed.growth import Fit
from Benchmark.speed.timing import Spread

if TYPE_CHECKING:
    import torch
    from rich.table import Table as RichTable

Cell = str | int | float | Spread | Fit | None


@dataclass(frozen=True)
class Options:
    """Settings of a measurement."""

    device: "torch.device"
    quick: bool
    """Tiny sizes: everything runs, the figures have no meaning."""
    repeats: int
    pictures: Path | None
    """Folder for pictures; None draws none."""
    work: Path
    """Folder for temporary files."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target of the design, and the value reached."""

    what: str
    reached: float | Spread
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        """True if the median reaches the target."""
        value = self.reached.median if isinstance(self.reached, Spread) else self.reached
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return low <= value <= high

    def __str__(self) -> str:
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("at least", self.at_least), ("at most", self.at_most))
            if bound is not None
        ]
        word = "reached" if self.holds else "NOT reached"
        return f"Target: {self.what} {' and '.join(bounds)}; {word}: {cell_text(self.reached)}."


@dataclass(frozen=True)
class Table:
    """A table with its notes."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.name

    def rich(self) -> "RichTable":
        """Return the table for a terminal."""
        from rich import box
        from rich.table import Table as RichTable

        table = RichTable(
            title=self.title,
            title_justify="left",
            caption="\n".join(self._remarks()) or None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
        )
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*map(cell_text, row))
        return table

    def markdown(self) -> str:
        """Return the table for a document."""
        lines = [
            self.columns,
            ["---", *["---:"] * (len(self.columns) - 1)],
            *(list(map(cell_text, row)) for row in self.rows),
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([f"**{self.title}**", table, *self._remarks()]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return JSON types: one object per row, spreads as median, low and high."""
        return {
            "name": self.name,
            "title": self.title,
            "rows": [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows],
            "notes": list(self.notes),
            "targets": [
                {**dataclasses.asdict(one), "reached": _plain(one.reached), "holds": one.holds}
                for one in self.targets
            ],
        }

    def _remarks(self) -> list[str]:
        return [*self.notes, *map(str, self.targets)]


Part = Callable[[Options], list[Table]]
"""Type of every part's `run`."""


def cell_text(cell: Cell) -> str:
    """Format three significant digits; a spread as `median (low to high)`."""
    if cell is None:
        return "–"
    if isinstance(cell, Spread):
        return f"{number(cell.median)} ({number(cell.low)} to {number(cell.high)})"
    if isinstance(cell, Fit):
        return f"{cell.exponent:.2f} ± {cell.error:.2f}"
    return number(cell) if isinstance(cell, float) else str(cell)


def number(value: float) -> str:
    """Format `value` with three significant digits, as a power of ten only if tiny."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.2e}" if digits > 6 else f"{value:,.{max(0, digits)}f}"


def cells_of(column: str, table: Table) -> Sequence[Cell]:
    """Return a column's cells, from the top."""
    place = table.columns.index(column)
    return [row[place] for row in table.rows]


def _plain(cell: Cell) -> Any:
    if isinstance(cell, (Spread, Fit)):
        return {name: _plain(value) for name, value in dataclasses.asdict(cell).items()}
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    return cell
