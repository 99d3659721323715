"""Gain of bf16 on GPUs with units for it, and its effect on the ranks of the NLL."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from Benchmark.speed.encoder import SIDE_PX
from Benchmark.speed.encoders import QUICK_SIZE, SIZES, encoder_folder, random_images
from Benchmark.speed.tables import Options, Table, Target
from Benchmark.speed.timing import in_turn, ratio, spread
from scipy.stats import spearmanr
from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.encoder.encoder import (
    Encoder,
    load_encoder,
)
from SpatialARAnomalyLib.engine.encoder.precision import best_precision
from SpatialARAnomalyLib.engine.model.training import fit
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.scoring.scoring import (
    embed_slices,
    slice_nll,
)
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    Plane,
    Precision,
    Preset,
    SliceSpec,
    TrainingSpec,
)
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom import (
    PhantomHead,
    add_lesion,
    normal_head,
)

BATCHES = {"cpu": (1, 8), "cuda": (1, 8, 64), "mps": (1, 8)}
FASTER, LEAST_SPEARMAN = 1.3, 0.999

LEARNED, TEST_SEED, LESION_MM = 3, 100, 9.0
"""Heads for training (the last is held out); seed and lesion radius in mm of the scored head."""


def run(options: Options) -> list[Table]:
    """Measure time beside float32 where new models take bf16; the ranks on any device."""
    gains = best_precision(options.device) is Precision.BFLOAT16
    return [times(options) if gains else float32_only(options), ranks(options)]


def float32_only(options: Options) -> Table:
    """Make the table for devices on which new models use float32."""
    rows = ((str(options.device), "float32"),)
    return Table("precision_seconds", "bf16 beside float32", ("device", "new models use"), rows)


def times(options: Options) -> Table:
    """Measure seconds per slice in both precisions."""
    size, side_px = (QUICK_SIZE, 64) if options.quick else (SIZES["S"], SIDE_PX)
    folder = str(encoder_folder(options.work, size))
    encoders = _both(folder, options)
    rows, faster = [], {}
    for batch in BATCHES[options.device.type]:
        images = random_images(batch, side_px)
        calls = {kind: partial(one.embed, images) for kind, one in encoders.items()}
        seconds = in_turn(calls, options.repeats, options.device)
        whole, half = seconds[Precision.FLOAT32], seconds[Precision.BFLOAT16]
        faster[batch] = ratio(whole, half)
        rows.append((batch, spread(whole).per(batch), spread(half).per(batch), faster[batch]))
    largest = max(faster)
    return Table(
        "precision_seconds",
        f"Encoder in bf16 beside float32: {size.channels} channels, {side_px}² pixels",
        ("batch", "float32, s a slice", "bf16, s a slice", "float32 by bf16"),
        tuple(rows),
        targets=(
            Target(
                what=f"float32 by bf16 with batch {largest}",
                reached=faster[largest],
                at_least=FASTER,
            ),
        ),
    )


def ranks(options: Options) -> Table:
    """Train one model, and compare its NLLs of both kinds of tokens of a head with a mass."""
    encoders = _both(DEMONSTRATION, options)
    side_px = 64 if options.quick else 224
    patch = encoders[Precision.FLOAT32].card.patch_px
    learned = [_stack(_head(seed, options), side_px, patch) for seed in range(LEARNED)]
    sick, _ = add_lesion(_head(TEST_SEED, options), TEST_SEED, radius_mm=LESION_MM)
    scored = _stack(sick, side_px, patch)
    tokens = {kind: _tokens([scored], one)[0] for kind, one in encoders.items()}
    # The precision of the feature store.
    grids = [one.astype(np.float16) for one in _tokens(learned, encoders[Precision.FLOAT32])]
    inside = np.concatenate([scored.tokens_inside(index) for index in scored.indices])
    training = TrainingSpec(epochs=1 if options.quick else 5, batch_size=8)
    rows, targets = [], []
    for preset in (Preset.STANDARD, Preset.COMPOSITE):
        model = fit(
            grids[:-1],
            grids[-1:],
            AutoregressiveSpec.from_preset(preset),
            training,
            report=SilentReporter(),
            device=options.device,
        ).model
        whole, half = (
            slice_nll(tokens[kind], model)[inside]
            for kind in (Precision.FLOAT32, Precision.BFLOAT16)
        )
        lost = 1 - float(spearmanr(whole, half).statistic)
        apart = float(np.abs(half - whole).max() / whole.std())
        rows.append((str(preset), int(inside.sum()), lost, apart))
        what = f"{preset}, 1 − Spearman's correlation of NLLs,"
        targets.append(Target(what=what, reached=lost, at_most=1 - LEAST_SPEARMAN))
    return Table(
        "precision_ranks",
        "NLL of a phantom head with a mass, bf16 beside float32 (demonstration encoder)",
        (
            "preset",
            "tokens in the body",
            "1 − Spearman",
            "largest difference, σ",
        ),
        tuple(rows),
        ("The model was trained on float32 tokens of other heads.",),
        tuple(targets),
    )


def _both(source: str, options: Options) -> dict[Precision, Encoder]:
    return {
        kind: load_encoder(source, device=options.device, precision=kind)
        for kind in (Precision.FLOAT32, Precision.BFLOAT16)
    }


def _head(seed: int, options: Options) -> PhantomHead:
    if options.quick:
        return normal_head(seed, shape_kji=(6, 48, 40), spacing_mm=(4.8, 4.8, 24.0))
    return normal_head(seed, shape_kji=(24, 96, 80), spacing_mm=(2.4, 2.4, 6.0))


def _stack(volume: Volume, side_px: int, patch_px: int) -> SliceStack:
    return SliceStack(
        PlaneVolume(volume, Plane.AXIAL, Modality.MR),
        SliceSpec(fov_mm=220.0, size_px=side_px),
        IntensitySpec.for_modality(Modality.MR),
        patch_px,
    )


def _tokens(stacks: Sequence[SliceStack], encoder: Encoder) -> list[np.ndarray]:
    """Embed the slices of every stack into tokens [n, c, h, w]."""
    report = SilentReporter()
    return [torch.cat(list(embed_slices(stack, encoder, report))).cpu().numpy() for stack in stacks]
