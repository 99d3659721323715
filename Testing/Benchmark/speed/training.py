"""A training through the feature store beside one that embeds every slice in every epoch."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from Benchmark.speed.site import SIDE, head_scan, own_settings
from Benchmark.speed.tables import Options, Table, Target
from Benchmark.speed.timing import Ratio, in_turn, ratio, spread, timed
from Benchmark.speed.warm_job import Setting, WarmJob
from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    Plane,
    Preset,
    SliceSpec,
    TrainingSpec,
)

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
    from SpatialARAnomalyLib.engine.model.training import TokenArray
    from SpatialARAnomalyLib.engine.slices.slice_stack import SliceStack

LEAST = 3.0
EPOCHS, SLICES = 40, 1000
"""Epochs and slices of the extrapolated training."""

MEASURED_SLICES = 40
HELD_OUT_SHARE = 0.2
REPEATS = 3

CHECKED_SLICES, CHECKED_PX = 24, 224
"""Slices and their side in pixels of the training that is run in both ways."""
QUICK_SLICES, QUICK_SIDE, QUICK_PX, QUICK_EPOCHS = 8, 48, 64, 3


def run(options: Options) -> list[Table]:
    """Measure both tables."""
    with own_settings(options.work):
        return [_large(options), _both_ways(options)]


@dataclass(eq=False)
class Trainer:
    """Embeds the slices of one scan and trains on them, with a part held out."""

    stack: "SliceStack"
    encoder: "Encoder"
    options: Options

    def __post_init__(self) -> None:
        folder = self.options.work / "training"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._store = FeatureStore(folder / "features")
        self._checkpoint = folder / "checkpoint.safetensors"

    @property
    def slices(self) -> int:
        """The number of slices with body."""
        return len(self.stack.indices)

    def embed(self) -> None:
        """Embed all slices without keeping the tokens."""
        from SpatialARAnomalyLib.engine.scoring.scoring import embed_slices

        for _ in embed_slices(self.stack, self.encoder, SilentReporter()):
            pass

    def store(self) -> None:
        """Embed all slices into the store."""
        from SpatialARAnomalyLib.engine.scoring.scoring import embed_slices

        across = self.stack.rows.tokens
        shape = (self.slices * self.stack.tiles, self.encoder.card.channels, across, across)
        tokens = embed_slices(self.stack, self.encoder, SilentReporter())
        self._store.write("scan", shape, (one.cpu().numpy() for one in tokens))

    def restart(self) -> None:
        """Delete the checkpoint."""
        self._checkpoint.unlink(missing_ok=True)

    def train(self, until: int) -> tuple[float, ...]:
        """Train from the checkpoint up to that epoch; return all held-out NLLs."""
        from SpatialARAnomalyLib.engine.model.training import fit

        training, held_out = _parts(self._store.open("scan"))
        done = fit(
            [training],
            [held_out],
            AutoregressiveSpec.from_preset(Preset.STANDARD),
            TrainingSpec(epochs=until),
            report=SilentReporter(),
            device=self.options.device,
            checkpoint=self._checkpoint,
        )
        return tuple(figures.held_out_nll for figures in done.curve)

    def epoch(self) -> None:
        """Train the first epoch."""
        self.restart()
        self.train(1)


def _parts(tokens: "TokenArray") -> "tuple[TokenArray, TokenArray]":
    """Split the tokens into training and held-out ones."""
    held_out = max(1, round(HELD_OUT_SHARE * len(tokens)))
    return tokens[held_out:], tokens[:held_out]


@dataclass(frozen=True)
class Costs:
    """Seconds of a trainer's works, turn by turn."""

    store: list[float]
    embed: list[float]
    epoch: list[float]

    @classmethod
    def measure(cls, trainer: Trainer, repeats: int) -> "Costs":
        """Measure alternately in this process."""
        works: dict[str, Callable[[], None]] = {
            "store": trainer.store,
            "embed": trainer.embed,
            "epoch": trainer.epoch,
        }
        return cls(**in_turn(works, repeats, trainer.options.device))

    def through(self, epochs: int) -> list[float]:
        """Extrapolate the training through the store: embedded once."""
        return [store + epochs * epoch for store, epoch in zip(self.store, self.epoch, strict=True)]

    def anew(self, epochs: int) -> list[float]:
        """Extrapolate the training that embeds in every epoch."""
        return [
            epochs * (embed + epoch) for embed, epoch in zip(self.embed, self.epoch, strict=True)
        ]

    def gain(self, epochs: int) -> Ratio:
        """Compute how many times faster the store is."""
        return ratio(self.anew(epochs), self.through(epochs))


def _large(options: Options) -> Table:
    """Extrapolate 40 epochs of 1,000 slices from the cost of a slice."""
    setting = None if options.quick else Setting(slices=MEASURED_SLICES)
    trainer = Trainer(*WarmJob.make(options, setting).stack(), options)
    costs = Costs.measure(trainer, min(options.repeats, REPEATS))
    slices, gain = trainer.slices, costs.gain(EPOCHS)
    times = SLICES / slices
    through = spread([times * one for one in costs.through(EPOCHS)])
    anew = spread([times * one for one in costs.anew(EPOCHS)])
    return Table(
        "training",
        f"{EPOCHS} epochs of {SLICES:,} slices, through the store and without",
        ("Work", "s a slice", f"s for {EPOCHS} epochs of {SLICES:,}"),
        (
            ("embedding into the store, once", spread(costs.store).per(slices), None),
            ("embedding, not kept", spread(costs.embed).per(slices), None),
            ("an epoch of the network from the store", spread(costs.epoch).per(slices), None),
            ("training through the store", None, through),
            ("training, embedded in every epoch", None, anew),
            ("gain", None, gain),
        ),
        (
            f"Measured: {slices} slices of a scan, in turn in one process, with the program's "
            f"own functions; an epoch counts its held-out part ({HELD_OUT_SHARE:.0%}), its "
            f"checkpoint and the beginning of a training. Multiplied: to {SLICES:,} slices and "
            f"{EPOCHS} epochs.",
        ),
        (Target(what="in every epoch / through the store", reached=gain, at_least=LEAST),),
    )


def _both_ways(options: Options) -> Table:
    """Run the same training in both ways, beside the prediction from the cost of a slice."""
    from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder

    encoder = load_encoder(DEMONSTRATION, device=options.device)
    trainer = Trainer(_demonstration_stack(options), encoder, options)
    epochs = QUICK_EPOCHS if options.quick else EPOCHS
    predicted = Costs.measure(trainer, min(options.repeats, REPEATS)).gain(epochs)
    curves: dict[str, tuple[float, ...]] = {}

    def through() -> None:
        trainer.restart()
        trainer.store()
        curves["through"] = trainer.train(epochs)

    def anew() -> None:
        trainer.restart()
        for epoch in range(1, epochs + 1):
            trainer.store()
            curves["anew"] = trainer.train(epoch)

    seconds = {way.__name__: timed(way, options.device) for way in (through, anew)}
    assert np.allclose(curves["through"], curves["anew"]), "both ways must train one model"
    return Table(
        "training-real",
        "The same training in both ways, from beginning to end",
        ("Work", "Seconds"),
        (
            ("through the store", seconds["through"]),
            ("embedded in every epoch", seconds["anew"]),
            ("gain, measured", seconds["anew"] / seconds["through"]),
            ("gain, predicted from the cost of a slice", predicted),
        ),
        (
            f"Demonstration encoder, {trainer.slices} slices of {trainer.stack.rows.spec.size_px} "
            f"px, {epochs} epochs; the second resumes at every epoch. The held-out "
            "NLLs of all epochs are the same. A check of the arithmetic above: beside so small "
            "an encoder an epoch weighs much, so the gain is not the one above.",
        ),
    )


def _demonstration_stack(options: Options) -> "SliceStack":
    from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
    from SpatialARAnomalyLib.service.scans import find_one_scan

    slices, side = (QUICK_SLICES, QUICK_SIDE) if options.quick else (CHECKED_SLICES, SIDE)
    _, volume = find_one_scan(head_scan(options.work, 1, slices, side)).read()
    turned = PlaneVolume(volume, Plane.AXIAL, Modality.MR)
    return SliceStack(
        turned,
        SliceSpec(
            fov_mm=1.1 * max(turned.extent_mm), size_px=QUICK_PX if options.quick else CHECKED_PX
        ),
        IntensitySpec.for_modality(Modality.MR),
        16,
    )
