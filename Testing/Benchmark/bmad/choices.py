"""The names of the methods that can be compared, and the parsing of lists of names and seeds."""

from collections.abc import Sequence
from enum import StrEnum

from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.engine.specs import Preset


class Peer(StrEnum):
    """Methods of others, on the same tokens."""

    BANK = "bank"
    """Cosine distance to the nearest of all normal tokens (AnomalyDINO)."""
    CORESET = "coreset"
    """Euclidean distance to the nearest of a tenth of them (PatchCore)."""
    GAUSSIAN = "gaussian"
    """Mahalanobis distance to a Gaussian per position (PaDiM)."""
    BRIGHT = "bright"
    """The gray value."""
    DARK = "dark"
    """1 − the gray value."""


SEEDED = {Peer.CORESET, Peer.GAUSSIAN}
"""Peers that draw random numbers, run once per seed; the others are run once."""

ALL_METHODS = ",".join([*Preset, *Peer])


def parse_methods(names: str) -> list[Preset | Peer]:
    """Parse a comma-separated list of method names; duplicates are dropped.

    Raises `SpecError` `method-unknown` for an unknown name or an empty list.
    """
    found: list[Preset | Peer] = []
    known: dict[str, Preset | Peer] = {one.value: one for one in (*Preset, *Peer)}
    for name in _split(names):
        if name not in known:
            raise SpecError(
                "method-unknown",
                f"Methods must be among {', '.join(known)}, separated by commas; found {name!r}.",
            )
        if known[name] not in found:
            found.append(known[name])
    if not found:
        raise SpecError("method-unknown", "At least one method must be named; found none.")
    return found


def parse_seeds(seeds: str) -> list[int]:
    """Parse a comma-separated list of seeds; duplicates are dropped.

    Raises `SpecError` `seed-unreadable` for anything but whole numbers from 0.
    """
    parts = _split(seeds)
    wrong = [part for part in parts if not (part.isascii() and part.isdigit())]
    if wrong or not parts:
        raise SpecError(
            "seed-unreadable",
            f"Seeds must be whole numbers from 0; found {wrong[0] if wrong else 'none'!r}. "
            "Separate them by commas, as in 42,43,44.",
        )
    return list(dict.fromkeys(int(part) for part in parts))


def _split(text: str) -> Sequence[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
