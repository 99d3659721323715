"""A training through the store beside one that embeds every slice anew in every epoch."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from Benchmark.speed.site import SIDE, own_settings
from Benchmark.speed.tables import Options, Table, Target
from Benchmark.speed.timing import Ratio, in_turn, ratio, spread
from Benchmark.speed.warm_job import Setting, WarmJob
from SpatialARAnomalyLib.engine.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.feature_store import FeatureStore
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset, TrainingSpec

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.encoder import Encoder
    from SpatialARAnomalyLib.engine.slicing import SliceStack
    from SpatialARAnomalyLib.engine.training import TokenArray

LEAST = 3.0
EPOCHS, SLICES = 40, 1000
"""Of the training that is spoken of."""

MEASURED_SLICES = 40
HELD_OUT_SHARE = 0.2
REPEATS = 3
STANDARD = AutoregressiveSpec.from_preset(Preset.STANDARD)

CHECKED = Setting(slices=24, size_px=224)
"""What is trained in both ways from beginning to end, with the demonstration encoder."""
CHECKED_EPOCHS = {True: 3, False: EPOCHS}
"""Quick or not."""


def run(options: Options) -> list[Table]:
    """The tables."""
    with own_settings(options.work):
        return [_large(options), _both_ways(options)]


def _store(options: Options) -> FeatureStore:
    folder = options.work / "training-store"
    shutil.rmtree(folder, ignore_errors=True)
    return FeatureStore(folder)


def _parts(tokens: "TokenArray") -> "tuple[TokenArray, TokenArray]":
    """Those that train, and those held out."""
    held_out = max(1, round(HELD_OUT_SHARE * len(tokens)))
    return tokens[held_out:], tokens[:held_out]


def _large(options: Options) -> Table:
    """40 epochs of 1,000 slices, by what a slice costs."""
    from SpatialARAnomalyLib.engine.detection import embed_slices
    from SpatialARAnomalyLib.engine.training import fit

    setting = None if options.quick else Setting(slices=MEASURED_SLICES)
    stack, encoder = WarmJob.make(options, setting).stack()
    slices, store, report = len(stack.indices), _store(options), SilentReporter()

    def embed() -> None:
        for _ in embed_slices(stack, encoder, report):
            pass

    def embed_into_store() -> None:
        store.write("scan", _shape(stack, encoder), embed_slices(stack, encoder, report))

    def epoch() -> None:
        training, held_out = _parts(store.open("scan"))
        spec = TrainingSpec(epochs=1)
        fit([training], [held_out], STANDARD, spec, report=report, device=options.device)

    works = {"store": embed_into_store, "epoch": epoch, "embed": embed}
    seconds = in_turn(works, min(options.repeats, REPEATS), options.device)
    per_slice = {name: spread(found).per(slices) for name, found in seconds.items()}
    turns = list(zip(seconds["store"], seconds["epoch"], seconds["embed"], strict=True))
    times = SLICES / slices
    through = [times * (into + EPOCHS * one) for into, one, _ in turns]
    anew = [times * EPOCHS * (again + one) for _, one, again in turns]
    gain = ratio(anew, through)
    return Table(
        "training",
        f"{EPOCHS} epochs of {SLICES:,} slices, through the store and without",
        ("Work", "s a slice", f"s for {EPOCHS} epochs of {SLICES:,}"),
        (
            ("embedding into the store, once", per_slice["store"], None),
            ("embedding, not kept", per_slice["embed"], None),
            ("an epoch of the network from the store", per_slice["epoch"], None),
            ("training through the store", None, spread(through)),
            ("training, every epoch embedded anew", None, spread(anew)),
            ("gain", None, gain),
        ),
        (
            f"Measured: {slices} slices of a scan, in turn in one process, with the program's "
            f"own functions; an epoch counts its held-out part ({HELD_OUT_SHARE:.0%}) and the "
            f"beginning of a training. Multiplied: to {SLICES:,} slices and {EPOCHS} epochs.",
        ),
        (Target(what="anew / through the store", reached=gain, at_least=LEAST),),
    )


def _shape(stack: "SliceStack", encoder: "Encoder") -> tuple[int, int, int, int]:
    across = stack.rows.tokens
    return (len(stack.indices) * stack.tiles, encoder.card.channels, across, across)


def _both_ways(options: Options) -> Table:
    """The same training in both ways for real, beside what the cost of a slice predicts."""
    from SpatialARAnomalyLib.engine.detection import embed_slices
    from SpatialARAnomalyLib.engine.encoder import load_encoder
    from SpatialARAnomalyLib.engine.training import fit

    stack = _demonstration_stack(options)
    encoder = load_encoder(DEMONSTRATION, device=options.device)
    epochs, report, store = CHECKED_EPOCHS[options.quick], SilentReporter(), _store(options)
    embed_s: list[float] = []

    def embed() -> "TokenArray":
        start = time.perf_counter()
        store.write("scan", _shape(stack, encoder), embed_slices(stack, encoder, report))
        embed_s.append(time.perf_counter() - start)
        return store.open("scan")

    def train(
        tokens: "TokenArray", until: int, checkpoint: Path | None = None
    ) -> tuple[float, ...]:
        training, held_out = _parts(tokens)
        spec = TrainingSpec(epochs=until)
        done = fit(
            [training], [held_out], STANDARD, spec,
            report=report, device=options.device, checkpoint=checkpoint,
        )  # fmt: skip
        return tuple(figures.held_out_nll for figures in done.curve)

    def through() -> tuple[float, ...]:
        return train(embed(), epochs)

    def anew() -> tuple[float, ...]:
        checkpoint = options.work / "training-anew.safetensors"
        checkpoint.unlink(missing_ok=True)
        curve: tuple[float, ...] = ()
        for epoch in range(1, epochs + 1):
            curve = train(embed(), epoch, checkpoint)
        return curve

    assert np.allclose(through(), anew()), "both ways must train the same model"
    embed_s.clear()
    seconds = {"through": [0.0], "anew": [0.0]}
    for name, way in {"through": through, "anew": anew}.items():
        start = time.perf_counter()
        way()
        seconds[name] = [time.perf_counter() - start]
    once = sum(embed_s) / len(embed_s)
    epoch_s = (seconds["through"][0] - once) / epochs
    predicted = epochs * (once + epoch_s) / (once + epochs * epoch_s)
    measured = ratio(seconds["anew"], seconds["through"])
    return Table(
        "training-real",
        "The same training in both ways, from beginning to end",
        ("Work", "Seconds"),
        (
            ("through the store", seconds["through"][0]),
            ("every epoch embedded anew", seconds["anew"][0]),
            ("gain, measured", measured.median),
            ("gain, predicted from the cost of a slice", predicted),
        ),
        (
            f"Demonstration encoder, {len(stack.indices)} slices of {stack.rows.spec.size_px} px, "
            f"{epochs} epochs; anew goes on from a checkpoint epoch by epoch. Held-out NLLs of "
            "all epochs are the same. A check of the arithmetic: its network is small beside "
            "which an epoch weighs much, so its gain is not the one above.",
        ),
    )


def _demonstration_stack(options: Options) -> "SliceStack":
    from Benchmark.speed.site import head_scan
    from SpatialARAnomalyLib.engine.plane_volume import PlaneVolume
    from SpatialARAnomalyLib.engine.slicing import SliceStack
    from SpatialARAnomalyLib.engine.specs import IntensitySpec, Modality, Plane, SliceSpec
    from SpatialARAnomalyLib.service.inputs import find_one_input

    slices, side = (8, 48) if options.quick else (CHECKED.slices, SIDE)
    _, volume = find_one_input(head_scan(options.work, 1, slices, side)).read()
    turned = PlaneVolume(volume, Plane.AXIAL, Modality.MR)
    size_px = 64 if options.quick else CHECKED.size_px
    return SliceStack(
        turned,
        SliceSpec(fov_mm=1.1 * max(turned.extent_mm), size_px=size_px),
        IntensitySpec.for_modality(Modality.MR),
        16,
    )
