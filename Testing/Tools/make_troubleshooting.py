"""Write Resources/Docs/troubleshooting.md, the page of error codes, from messages and hints.

PYTHONPATH=Testing .venv/bin/python Testing/Tools/make_troubleshooting.py
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from error_codes import messages
from SpatialARAnomalyLib.service.cli.hints import HINTS

Hints = Mapping[str, str | tuple[str, ...]]

PAGE = Path(__file__).parents[2] / "Resources/Docs/troubleshooting.md"

HEAD = """\
# Troubleshooting

Every error has a code. The command line prints it in brackets after the message, JSON events have
it as `code`, and Python as `error.code`. In the panel, search this page for the first words of the
message. `…` stands for a value.

If that does not help: `spatial-ar-anomaly doctor` names what is wrong with the installation, and
`spatial-ar-anomaly doctor --report report.md` writes what the maintainers need to help: versions,
packages, devices, the kinds of your models; no image, no name, no path. In Slicer, **Copy
diagnostics** under *Set-up* and **Copy log** under *Log* do the same. Attach it to an issue.

`Testing/Tools/make_troubleshooting.py` makes the tables from the program's messages and hints.
"""

GROUPS = {
    "Scans and files": (
        "affine", "dicom", "input", "label-map", "modality", "name", "orientation", "scan",
        "series", "spacing", "volume", "voxels", "window",
    ),
    "Masks and ground truth": ("cases", "mask", "truth"),
    "Models and detection": ("body", "case-score", "model", "nll", "scores", "size", "too-many"),
    "Training": ("checkpoint", "normal", "too-few", "training"),
    "Encoders": ("encoder", "license"),
    "Set-up, devices and memory": (
        "constraints", "device", "install", "kit", "out-of-memory", "package", "pip", "torch",
        "uv",
    ),
    "Results on disk": ("export", "output", "dicom-seg"),
    "The panel and its worker": ("busy", "cancelled", "exchange", "scene", "transform", "worker"),
    "Everything else": ("",),
}  # fmt: skip
"""Sections, by the beginnings of their codes; the longest beginning counts."""

CAUSES = {
    "dicom-seg": "The scan, or this Slicer, cannot make DICOM segmentations.",
    "encoder-not-here": "The encoder to remove or check is not on this machine.",
    "internal": "A defect of the program.",
    "install-not-now": "A task is running that must end before an installation.",
    "kit-unresolved": "No versions fit the other machine and its packages.",
    "normal-unusable": "A scan to train on cannot be used; the message gives the reason.",
    "output-unwritable": "A file or folder cannot be written; the message gives the reason.",
    "pip-failed": "pip could not install or download the packages.",
    "spec-missing-key": "A request lacks a setting.",
    "training-unwritable": "The training's work cannot be written; the message gives the reason.",
    "worker-died": "The worker process crashed, or ended without a result.",
    "worker-held": "The worker process is stopped while packages are installed.",
}
"""Causes of errors whose messages come from elsewhere."""


def section(code: str) -> str:
    """Return the section of a code."""
    beginnings = ((start, title) for title, starts in GROUPS.items() for start in starts)
    return max((len(start), title) for start, title in beginnings if code.startswith(start))[1]


def cause(code: str, told: list[str]) -> str:
    """Return the messages of a code, or its cause in other words."""
    return CAUSES.get(code) or "<br>".join(told)


def cure(hints: Hints, code: str) -> str:
    """Return the hints of a code; empty where that front end never shows it."""
    one = hints.get(code, "")
    texts = (one,) if isinstance(one, str) else one
    return "<br>".join(re.sub(r"\{\w+\}", "…", text) for text in texts)


def cell(text: str) -> str:
    """Escape a text for a table, where `<word>` would be markup."""
    text = text.replace("\n", " ").replace("|", "\\|")
    return re.sub(r"<(?!br>)", "&lt;", text)


def page(panel: Hints) -> str:
    """Return the page's text; `panel` is the panel's table of hints."""
    rows: dict[str, list[str]] = {title: [] for title in GROUPS}
    for code, told in messages().items():
        cells = (f"`{code}`", cause(code, told), cure(HINTS, code), cure(panel, code))
        rows[section(code)].append("| " + " | ".join(map(cell, cells)) + " |")
    head = "| code | what is wrong | on the command line | in the panel |\n" + "| --- " * 4 + "|"
    parts = ("\n".join([f"## {title}\n", head, *lines]) for title, lines in rows.items())
    return "\n\n".join([HEAD.rstrip(), *parts]) + "\n"


def main() -> None:
    """Write the page."""
    from Harness import start

    with tempfile.TemporaryDirectory() as folder:
        start(Path(folder))
        from SpatialARAnomalyLib.slicerapp.wording.Errors import allHints

        PAGE.write_text(page(allHints()), encoding="utf-8")


if __name__ == "__main__":
    main()
