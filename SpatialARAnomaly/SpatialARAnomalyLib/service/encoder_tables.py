"""Encoders as a table on stdout."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .encoder_catalog import DEFAULT_ID
from .encoder_library import EncoderEntry
from .quantities import size_text


def print_encoders(entries: Sequence[EncoderEntry]) -> None:
    """Print which encoders there are, what they need, and which are here."""
    table = Table(box=None)
    # An id is there to be copied: it is never cut.
    table.add_column("encoder", no_wrap=True)
    for heading in ("download", "memory", "gated", "here"):
        table.add_column(heading, no_wrap=True)
    for entry in entries:
        known = entry.known
        table.add_row(
            Text(entry.source),
            size_text(known.download_bytes, known.approximate) if known else "",
            size_text(known.memory_bytes, True) if known else "",
            ("yes" if known.gated else "no") if known else "",
            _here(entry),
        )
    # As wide as it must be, so that a pipe gets whole lines, too.
    Console(width=max(80, Console().width, *(len(one.source) + 60 for one in entries))).print(table)
    print(
        f"{DEFAULT_ID} is the default. Gated: only for accounts that were granted access on its "
        "page.\nMemory is about what loading and embedding one slice at a time take."
    )


def _here(entry: EncoderEntry) -> str:
    size = size_text(entry.disk_bytes)
    if entry.own:
        return f"{size}, your own"
    return size if entry.here else ""
