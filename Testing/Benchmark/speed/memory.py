"""Peak memory of separate processes, and its growth with the work."""

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from Benchmark.speed.children import VOLUME_SLICES, run_child
from Benchmark.speed.encoders import QUICK_SIZE, SIZES, encoder_folder
from Benchmark.speed.site import SIDE, SLICES, head_scan, many_heads, own_settings, trained_model
from Benchmark.speed.tables import Cell, Options, Table, Target
from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore
from SpatialARAnomalyLib.engine.specs import Preset

MOST_GROWTH = 1.10

FEW_SLICES = 16
"""Slices of the scans on which resolution and encoder are compared: two batches of the encoder."""
SIDE_PX = 448
TRAINED_SLICES = (200, 600, 2000)
QUICK_TRAINED = (40, 80)
QUICK_SIDE = 48
TOKENS, CHANNELS = 28, 384
"""Grid side and channels of ViT-S/16 at 448²."""
TRAIN_PX = 224
"""Image side in pixels of the whole training job, which uses the demonstration encoder."""

COLUMNS = ("Process", "Peak MB", "Own MB", "Growth", "Seconds")
RESIDENT = (
    "Peak: of the resident memory, with pages of mapped files, which the system can take back; "
    "own: without those. Growth: of the peak, beside the first of its kind."
)


def run(options: Options) -> list[Table]:
    """Measure detections and trainings."""
    with own_settings(options.work):
        return [_detections(options), _trainings(options)]


def _row(name: str, found: dict[str, Any], beside: dict[str, Any] | None) -> tuple[Cell, ...]:
    growth = None if beside is None else found["resident_mb"] / beside["resident_mb"]
    own = None if found["own_mb"] is None else round(found["own_mb"])
    return name, round(found["resident_mb"]), own, growth, found["seconds"]


def _detections(options: Options) -> Table:
    """Measure detections against slices, resolution and size of the encoder."""
    work, device = options.work, options.device.type
    side = QUICK_SIDE if options.quick else SIDE

    def detect(slices: int, size_px: int, size: str) -> dict[str, Any]:
        shape = SIZES[size] if size else QUICK_SIZE
        return run_child(
            "detect",
            scan=str(head_scan(work, 7, slices, side)),
            model=str(trained_model(work, shape, size_px, device, side)),
            encoder=str(encoder_folder(work, shape)),
            out=str(work / "results"),
            device=device,
        )

    series: list[tuple[str, Sequence[tuple[int, int, str]]]]
    if options.quick:
        series = [("slices", [(6, 64, "")])]
    else:
        series = [
            ("slices", [(one, SIDE_PX, "S") for one in (39, SLICES, 310)]),
            ("resolution", [(FEW_SLICES, one, "S") for one in (224, 448, 896)]),
            ("encoder", [(FEW_SLICES, SIDE_PX, one) for one in SIZES]),
        ]
    rows: list[tuple[Cell, ...]] = []
    if not options.quick:
        rows.append(
            _row("imports of torch and transformers alone", run_child("only_imports"), None)
        )
    known: dict[tuple[int, int, str], dict[str, Any]] = {}
    for _, settings in series:
        first: dict[str, Any] | None = None
        for setting in settings:
            slices, size_px, size = setting
            if setting not in known:
                known[setting] = detect(*setting)
            name = f"{slices} slices, {size_px} px, ViT-{size or 'tiny'}/16"
            rows.append(_row(name, known[setting], first))
            first = first or known[setting]
    return Table(
        "memory-detection",
        "Peak memory of a detection, cold, from file to all files",
        COLUMNS,
        tuple(rows),
        (RESIDENT, f"Preset standard; slices of {side}×{side} voxels."),
    )


def _trainings(options: Options) -> Table:
    """Measure trainings against the number of slices: the network alone, and the whole job."""
    counts = QUICK_TRAINED if options.quick else TRAINED_SLICES
    works = {"network": _fitted} | ({} if options.quick else {"whole training": _trained})
    rows: list[tuple[Cell, ...]] = []
    targets: list[Target] = []
    for name, measure in works.items():
        found = [measure(options, count) for count in counts]
        for count, one in zip(counts, found, strict=True):
            rows.append(_row(f"{name}, {count:,} slices", one, found[0]))
        grown = found[-1]["resident_mb"] / found[0]["resident_mb"]
        what = f"{name}: peak at {counts[-1]:,} / at {counts[0]:,} slices"
        targets.append(Target(what=what, reached=grown, at_most=MOST_GROWTH))
    tokens = _quick_tokens() if options.quick else (CHANNELS, TOKENS)
    return Table(
        "memory-training",
        "Peak memory of a training of one epoch",
        COLUMNS,
        tuple(rows),
        (
            RESIDENT,
            f"Network: preset standard on tokens {tokens[0]}×{tokens[1]}×{tokens[1]} in a store on "
            f"disk, {VOLUME_SLICES} slices a volume. Whole training: demonstration encoder, scans "
            f"of {VOLUME_SLICES} slices; left out of a quick run.",
        ),
        tuple(targets),
    )


def _quick_tokens() -> tuple[int, int]:
    return 16, 4


def _fitted(options: Options, slices: int) -> dict[str, Any]:
    """Measure `fit` on random tokens, which are deleted afterwards because they are large."""
    channels, side = _quick_tokens() if options.quick else (CHANNELS, TOKENS)
    folder = options.work / "memory-store"
    folder.mkdir(parents=True, exist_ok=True)
    store = FeatureStore(folder)
    random = np.random.default_rng(0)
    try:
        for number in range(slices // VOLUME_SLICES):
            shape = (VOLUME_SLICES, channels, side, side)
            store.write(
                f"{number}",
                shape,
                (random.standard_normal((1, *shape[1:]), np.float32) for _ in range(shape[0])),
            )
        return run_child(
            "fit",
            store=str(folder),
            slices=slices,
            preset=Preset.STANDARD.value,
            device=options.device.type,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trained(options: Options, slices: int) -> dict[str, Any]:
    """Measure the job `train` on scans with that many slices."""
    normals = many_heads(options.work, slices // VOLUME_SLICES, VOLUME_SLICES, SIDE)
    return run_child(
        "train",
        normals=[str(one) for one in normals],
        out=str(options.work / "trained"),
        size_px=TRAIN_PX,
        preset=Preset.STANDARD.value,
        device=options.device.type,
    )
