"""The cohort: training, held-out and fresh normal heads, and anomalous ones with their twins.

All heads come from `Data.template_cohort` and `Data.template_anomalies`. No two groups, and no
two anomalous heads, share a seed: every head is another patient.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from Data.template_anomalies import FAMILIES, RADII_MM, AnomalousHead, anomalous_head
from Data.template_cohort import template_head
from SpatialARAnomalyLib.engine.files import replacing
from SpatialARAnomalyLib.engine.specs import Modality
from SpatialARAnomalyLib.engine.volumes.volume import Volume

TRAINING, HELD_OUT, NORMAL, ANOMALOUS, TWIN = (
    "training",
    "held_out",
    "normal",
    "anomalous",
    "twin",
)
"""Groups; a twin is the head that an anomaly was put into, without it."""

FIRST_SEED = {TRAINING: 0, HELD_OUT: 2000, NORMAL: 4000, ANOMALOUS: 6000}

CACHE_VERSION = 1
"""Version of the kept scans; increase it when heads or anomalies change."""


@dataclass(frozen=True, kw_only=True)
class CohortSpec:
    """Numbers of heads of each kind, and their grid."""

    training: int = 24
    held_out: int = 16
    normals: int = 60
    families: tuple[str, ...] = FAMILIES
    sizes: tuple[str, ...] = tuple(RADII_MM)
    repeats: int = 3
    """Anomalous heads per family and size."""
    spacing_mm: float = 2.0
    every: int = 4
    """One of so many slices is kept: slices 8 mm apart, as in a routine scan."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Head:
    """One head of the cohort."""

    group: str
    seed: int
    family: str = ""
    size: str = ""

    @property
    def name(self) -> str:
        """Name with group, family, size and seed."""
        return "_".join(filter(None, (self.group, self.family, self.size, str(self.seed))))


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadScan:
    """The kept slices of one head, and what is known of their voxels [k, j, i]."""

    volume: Volume
    truth: np.ndarray
    ignored: np.ndarray
    """Voxels that the anomaly changed without being part of it; they count in no metric."""


def cohort(spec: CohortSpec) -> list[Head]:
    """List all heads; an anomalous one is followed by its twin."""
    heads = [
        Head(group=group, seed=spec.seed + FIRST_SEED[group] + number)
        for group, count in (
            (TRAINING, spec.training),
            (HELD_OUT, spec.held_out),
            (NORMAL, spec.normals),
        )
        for number in range(count)
    ]
    return heads + list(_anomalous(spec))


def _anomalous(spec: CohortSpec) -> Iterator[Head]:
    for family in spec.families:
        for size in spec.sizes:
            for repeat in range(spec.repeats):
                # The same head for every choice of families and sizes.
                place = FAMILIES.index(family) * len(RADII_MM) + list(RADII_MM).index(size)
                seed = spec.seed + FIRST_SEED[ANOMALOUS] + 20 * place + repeat
                for group in (ANOMALOUS, TWIN):
                    yield Head(group=group, seed=seed, family=family, size=size)


def scan_heads(heads: list[Head], spec: CohortSpec, folder: Path) -> Iterator[tuple[Head, Path]]:
    """Write the file of each head's scan unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for head in heads:
        path = folder / f"{head.name}_{spec.spacing_mm:g}mm_{spec.every}_v{CACHE_VERSION}.npz"
        if not path.exists():
            scan = _scan(head, spec)
            with replacing(path) as partial, partial.open("wb") as file:
                np.savez_compressed(
                    file,
                    voxels=scan.volume.voxels,
                    ras_from_voxel=scan.volume.ras_from_voxel,
                    truth=scan.truth,
                    ignored=scan.ignored,
                )
        yield head, path


def read_scan(path: Path) -> HeadScan:
    """Read the scan that `scan_heads` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return HeadScan(
            volume=Volume(stored["voxels"], stored["ras_from_voxel"], Modality.MR),
            truth=stored["truth"],
            ignored=stored["ignored"],
        )


@functools.lru_cache(maxsize=1)
def _anomaly(family: str, size: str, seed: int, spacing_mm: float) -> AnomalousHead:
    """Make an anomalous head; cached for the head and its twin."""
    return anomalous_head(family, size, seed, spacing_mm=spacing_mm)


def _scan(head: Head, spec: CohortSpec) -> HeadScan:
    if head.family:
        anomaly = _anomaly(head.family, head.size, head.seed, spec.spacing_mm)
        truth, ignored = anomaly.truth, anomaly.ignored
        whole = anomaly.head if head.group == ANOMALOUS else anomaly.healthy
        # The slices that show most of it: at 8 mm a small one could lie between two slices.
        shown = [np.count_nonzero(truth[first :: spec.every]) for first in range(spec.every)]
        first = int(np.argmax(shown))
    else:
        whole = template_head(head.seed, spacing_mm=spec.spacing_mm)
        truth = ignored = np.zeros(whole.voxels.shape, bool)
        first = head.seed % spec.every
    kept = slice(first, None, spec.every)
    ras_from_voxel = whole.ras_from_voxel.copy()
    ras_from_voxel[:3, 3] += first * ras_from_voxel[:3, 2]
    ras_from_voxel[:3, 2] *= spec.every
    return HeadScan(
        volume=Volume(np.ascontiguousarray(whole.voxels[kept]), ras_from_voxel, Modality.MR),
        truth=truth[kept].copy(),
        ignored=ignored[kept].copy(),
    )
