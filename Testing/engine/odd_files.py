"""The cases of `Testing/Data/odd/cases.json`, and the table of `Resources/Docs/inputs.md`.

`PYTHONPATH=Testing python -m engine.odd_files` prints the table.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from engine import odd_examples

ODD = Path(__file__).parents[1] / "Data/odd"
ELSEWHERE = os.environ.get("SPATIALAR_ODD_DATA")
"""A folder with the files that are too large for the repository."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """An odd file, and what must happen to it."""

    input: str
    """File or folder under `ODD` or `ELSEWHERE`, or one of `odd_examples.MAKERS`."""
    kind: str
    what: str
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of `read_volume`, named as the command line's options."""
    labels: bool = False
    """Read as a truth or mask."""
    refused: str | None = None
    """Code of the error; None if the file is read."""
    says: tuple[str, ...] = ()
    """Parts of the error's message or of the notices."""
    notices: tuple[str, ...] = ()
    """Codes of the notices of a file that is read."""
    same_as: str | None = None
    """Another input that shows the same voxels at the same places."""
    size: tuple[int, int, int] | None = None
    """Number of voxels along i, j and k."""
    place: tuple[tuple[float, ...], ...] | None = None
    """First three rows of `ras_from_voxel`, by an independent reading."""
    values: dict[str, float] = field(default_factory=dict)
    """Values of voxels "i j k", by an independent reading."""
    todo: str | None = None
    """Who will make it so; the test must fail until then."""

    @property
    def name(self) -> str:
        return " ".join([self.input, *self.command_options])

    @property
    def command_options(self) -> list[str]:
        """The options as the command line has them."""
        return [
            f"--{key.replace('_', '-')}" + ("" if value is True else f" {value}")
            for key, value in self.options.items()
        ]

    def find(self, folder: Path) -> Path:
        """Return the case's file or folder; one that is made is written into `folder`."""
        if (stored := ODD / self.input).exists():
            return stored
        if ELSEWHERE and (elsewhere := Path(ELSEWHERE) / self.input).exists():
            return elsewhere
        if (name := Path(self.input).name) in odd_examples.MAKERS:
            return odd_examples.make(name, folder)
        pytest.skip("needs the files of SPATIALAR_ODD_DATA")

    @property
    def result(self) -> str:
        """What happens, in the words of the table."""
        if self.refused is not None:
            return f"refused: `{self.refused}`"
        return "; ".join(["read", *(f"notice `{code}`" for code in self.notices)])


def _case(values: dict[str, Any]) -> Case:
    listed = {
        key: tuple(tuple(row) if isinstance(row, list) else row for row in value)
        for key, value in values.items()
        if isinstance(value, list)
    }
    return Case(**(values | listed))


CASES = [_case(one) for one in json.loads((ODD / "cases.json").read_text(encoding="utf-8"))]


def table() -> str:
    """The table of `Resources/Docs/inputs.md`."""
    rows = ["| kind | file | what happens |", "| --- | --- | --- |"]
    for case in CASES:
        options = "".join(f", `{option}`" for option in case.command_options)
        row = f"| {case.kind} | {case.what}{options} | {case.result} |"
        if row not in rows:
            rows.append(row)
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
