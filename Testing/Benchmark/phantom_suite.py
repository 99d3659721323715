"""Compare all methods on the same tokens of the same heads: writes tables and pictures.

    PYTHONPATH=Testing python Testing/Benchmark/phantom_suite.py OUT --work WORK

Makes the cohort (normal heads for training, held-out and fresh ones, and anomalies of every
family and size), embeds every head once, fits every method, scores every test head, and writes
OUT/table.md, methods.csv, heads.csv, results.json and pictures. WORK keeps heads and tokens, so
a repeated run begins with the methods. Resources/Docs/phantom_suite.md explains the measures,
suite/methods.py how to add a method.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from Benchmark.suite.earlier import read_trials
from Benchmark.suite.heads import (
    ANOMALOUS,
    HELD_OUT,
    TRAINING,
    CohortSpec,
    Head,
    cohort,
    scan_heads,
)
from Benchmark.suite.methods import METHODS, Lesson
from Benchmark.suite.scans import Embedder, axial
from Benchmark.suite.tables import write_tables
from Benchmark.suite.trial import run_method
from Data.template_anomalies import FAMILIES, RADII_MM, anomalous_head
from SpatialARAnomalyLib.engine.device import (
    Device,
    resolve_device,
)
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder
from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore
from SpatialARAnomalyLib.engine.specs import TrainingSpec

FOV_MM, SIZE_PX = 220.0, 352
"""Field of view in mm and slice side in px; with a patch of 16 px 22×22 tokens of 10 mm."""

QUICK = {
    "training": 3, "held_out": 2, "normals": 2, "sizes": ["large"], "repeats": 1,
    "spacing_mm": 4.0, "every": 2, "size_px": 224, "epochs": 2, "batch_size": 8,
    "hidden_channels": 16,
}  # fmt: skip
"""Settings of --quick: everything runs, the figures have no meaning."""


def _names(known: list[str]) -> Any:
    """Make a parser for comma-separated lists of known names."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)} not known; known: {', '.join(known)}"
            )
        return names

    return parse


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = argparse.ArgumentParser(description="Compare methods on phantom anomalies.")
    made.add_argument("out", type=Path, metavar="OUT", help="folder for tables and pictures")
    made.add_argument("--work", type=Path, help="folder that keeps heads and tokens (OUT/work)")
    made.add_argument("--quick", action="store_true", help="tiny sizes, to check that it runs")
    made.add_argument(
        "--anomalies-only", action="store_true", help="draw one picture of each family"
    )
    made.add_argument(
        "--methods",
        type=_names(list(METHODS)),
        default=list(METHODS),
        help="comma-separated (all)",
    )
    made.add_argument(
        "--earlier",
        type=Path,
        action="append",
        default=[],
        help="results.json whose methods are added to the tables; may be repeated",
    )
    made.add_argument("--families", type=_names(list(FAMILIES)), default=list(FAMILIES))
    made.add_argument("--sizes", type=_names(list(RADII_MM)), default=list(RADII_MM))
    made.add_argument("--training", type=int, default=24, help="normal heads for training (24)")
    made.add_argument("--held-out", type=int, default=40, help="normal heads for thresholds (40)")
    made.add_argument("--normals", type=int, default=60, help="fresh normal test heads (60)")
    made.add_argument("--repeats", type=int, default=3, help="heads per family and size (3)")
    made.add_argument("--spacing-mm", type=float, default=2.0)
    made.add_argument("--every", type=int, default=4, help="one of so many slices is kept (4)")
    made.add_argument("--encoder", default="demonstration")
    made.add_argument("--fov-mm", type=float, default=FOV_MM)
    made.add_argument("--size-px", type=int, default=SIZE_PX)
    made.add_argument("--epochs", type=int, default=6)
    made.add_argument("--batch-size", type=int, default=8)
    made.add_argument("--hidden-channels", type=int, help="hidden channels of all networks")
    made.add_argument("--device", type=Device, default=Device.CPU)
    made.add_argument("--seed", type=int, default=0, help="seed of cohort and weights (0)")
    return made


def main(arguments: list[str] | None = None) -> None:
    """Run the suite."""
    options = parser().parse_args(arguments)
    if options.quick:
        vars(options).update(QUICK)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.anomalies_only:
        _draw_families(options)
        return
    work = options.work or options.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    device = resolve_device(options.device)
    encoder = load_encoder(options.encoder, device=device)
    spec = CohortSpec(
        training=options.training,
        held_out=options.held_out,
        normals=options.normals,
        families=tuple(options.families),
        sizes=tuple(options.sizes),
        repeats=options.repeats,
        spacing_mm=options.spacing_mm,
        every=options.every,
        seed=options.seed,
    )
    embedder = Embedder(
        encoder, axial(options.fov_mm, options.size_px), FeatureStore(work / "tokens")
    )
    heads = cohort(spec)
    scans = []
    for number, (head, path) in enumerate(scan_heads(heads, spec, work / "heads"), start=1):
        scans.append(embedder.scan(head, path))
        _print_progress(f"head {number} of {len(heads)}: {head.name}")
    lesson = Lesson(
        training=[scan for scan in scans if scan.head.group == TRAINING],
        held_out=[scan for scan in scans if scan.head.group == HELD_OUT],
        spec=TrainingSpec(
            epochs=options.epochs, batch_size=options.batch_size, seed=42 + options.seed
        ),
        hidden_channels=options.hidden_channels,
        device=device,
        encoder=encoder,
    )
    tests = [scan for scan in scans if scan.head.group not in (TRAINING, HELD_OUT)]
    for scan in scans:
        _ = scan.inside  # computed once, outside of the methods' times
    pictured = _pictured(heads)
    settings = {
        **dataclasses.asdict(spec),
        **{name: getattr(options, name) for name in ("fov_mm", "size_px", "hidden_channels")},
        "training_spec": lesson.spec.to_dict(),
        "encoder": encoder.card.to_dict(),
        "embed_s_per_slice": embedder.seconds / embedder.embedded if embedder.embedded else None,
    }
    trials = {}
    for earlier in options.earlier:
        trials |= read_trials(earlier, settings)
    for name in options.methods:
        start = time.perf_counter()
        trials[name] = run_method(METHODS[name], lesson, tests, pictured=pictured)
        _print_progress(f"{name}: {time.perf_counter() - start:.0f} s")

    results = write_tables(options.out, trials, settings, str(device))
    from Benchmark.suite.pictures import draw_examples, draw_families, draw_ranking

    draw_ranking(results, options.out / "ranking.png")
    draw_families(results, options.out / "families.png")
    shown = {name: trials[name] for name in options.methods}
    draw_examples(
        shown, {scan.head: scan for scan in tests}, pictured, options.out / "examples.png"
    )
    sys.stdout.write((options.out / "table.md").read_text(encoding="utf-8"))


def _pictured(heads: list[Head]) -> list[Head]:
    """Choose the largest anomaly of each family: the last size's first head."""
    chosen: dict[str, Head] = {}
    for head in heads:
        if head.group == ANOMALOUS and head.size != getattr(chosen.get(head.family), "size", None):
            chosen[head.family] = head
    return list(chosen.values())


def _draw_families(options: argparse.Namespace) -> None:
    from Benchmark.suite.pictures import draw_anomalies

    made = {
        family: anomalous_head(
            family, options.sizes[-1], options.seed + 1, spacing_mm=options.spacing_mm
        )
        for family in options.families
    }
    draw_anomalies(made, options.out / "anomalies.png")


def _print_progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
