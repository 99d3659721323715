"""The names of what a BMAD table compares; needs no package."""

from collections.abc import Sequence
from enum import StrEnum

from ..engine.errors import SpecError
from ..engine.specs import Preset


class Peer(StrEnum):
    """Methods of others, on the same tokens."""

    BANK = "bank"
    """Nearest of all normal tokens by cosine (AnomalyDINO)."""
    CORESET = "coreset"
    """Nearest of a tenth of them by Euclidean distance (PatchCore)."""
    GAUSSIAN = "gaussian"
    """A Gaussian per position (PaDiM)."""
    BRIGHT = "bright"
    """The gray value itself."""
    DARK = "dark"
    """1 − the gray value."""


SEEDED = {Peer.CORESET, Peer.GAUSSIAN}
"""Peers that draw something; the others are run once."""

ALL_METHODS = ",".join([*Preset, *Peer])


def methods_named(names: str) -> list[Preset | Peer]:
    """The methods of a comma-separated list, each once.

    Raises `SpecError` `method-unknown` for a name it does not know.
    """
    found: list[Preset | Peer] = []
    for name in _parts(names):
        known: dict[str, Preset | Peer] = {one.value: one for one in (*Preset, *Peer)}
        if name not in known:
            raise SpecError(
                "method-unknown",
                f"Methods must be among {', '.join(known)}; found {name!r}.",
                "Name them with commas between.",
            )
        if known[name] not in found:
            found.append(known[name])
    if not found:
        raise SpecError("method-unknown", "At least one method must be named; found none.")
    return found


def seeds_named(seeds: str) -> list[int]:
    """The seeds of a comma-separated list, each once.

    Raises `SpecError` `seed-unreadable` for what is no whole number from 0.
    """
    parts = _parts(seeds)
    wrong = [part for part in parts if not (part.isascii() and part.isdigit())]
    if wrong or not parts:
        raise SpecError(
            "seed-unreadable",
            f"Seeds must be whole numbers from 0; found {wrong[0] if wrong else 'none'!r}.",
            "Name them with commas between, as 42,43,44.",
        )
    return list(dict.fromkeys(int(part) for part in parts))


def _parts(text: str) -> Sequence[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
