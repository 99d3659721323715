"""Effect of the headroom above the 99th percentile of an MR scan: prints a table.

    python Testing/Benchmark/intensity_headroom.py            # about 5 minutes on two cores

Phantom heads, demonstration encoder, preset `standard`; 8 normal heads for training and 2 held
out, 12 epochs; 4 heads with a bright mass of 14 mm radius each. Columns per headroom and
contrast: heads whose lesion is the first finding at a false-positive rate of 0.001, mean Dice of
that finding, mean number of other findings, and the same Dice for a threshold of the plain
intensity at the same rate.
"""

import argparse
import dataclasses

import numpy as np
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder
from SpatialARAnomalyLib.engine.model.training import fit
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.scoring.calibration_fit import fit_calibration
from SpatialARAnomalyLib.engine.scoring.findings import find_in_box
from SpatialARAnomalyLib.engine.scoring.scoring import (
    embed_slices,
    slice_nll,
)
from SpatialARAnomalyLib.engine.slices.intensity import scale_intensity
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    Plane,
    Preset,
    SliceSpec,
    TrainingSpec,
)
from SpatialARAnomalyLib.service.demo.phantom import (
    add_lesion,
    normal_head,
)

RATE, MIN_ML, LESIONS = 0.001, 0.5, 4
SILENT = SilentReporter()


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Compute the Dice overlap of two masks."""
    total = np.count_nonzero(found) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(found & truth) / total if total else 0.0


def stack_of(volume, intensity: IntensitySpec, slices: SliceSpec) -> SliceStack:
    """Cut the volume into slices with that intensity scale."""
    return SliceStack(PlaneVolume(volume, Plane.AXIAL, Modality.MR), slices, intensity, 16)


def intensities(stack: SliceStack) -> np.ndarray:
    """Return the encoder's input on the volume's voxels: the score of the plain baseline."""
    scaled = scale_intensity(stack.voxels, stack.value_range, stack.intensity)
    return stack.plane_volume.orientation.undo(scaled)


def first_finding(score, stack, head, lesion, samples):
    """Return whether the lesion is the first finding, its Dice, and the number of others."""
    calibration = fit_calibration(samples, samples)  # p-values are not used here
    threshold = calibration.threshold(RATE)
    score = np.where(stack.inside_volume(), score, score.min()).astype(np.float32)
    findings, box = find_in_box(score, head.ras_from_voxel, calibration, threshold, MIN_ML)
    labels = np.zeros(score.shape, np.uint16) if box is None else box.on_grid(score.shape)
    ranks = np.bincount(labels[lesion], minlength=1)
    ranks[0] = 0
    rank = int(ranks.argmax())
    if not ranks.any():
        return False, 0.0, len(findings)
    return rank == 1, dice(labels == rank, lesion), len(findings) - 1


def measure(headroom: float, contrasts: list[float], epochs: int) -> None:
    """Train once with this headroom, and print a row per contrast."""
    encoder = load_encoder("demonstration")
    intensity = dataclasses.replace(IntensitySpec.for_modality(Modality.MR), headroom=headroom)
    slices = SliceSpec(plane=Plane.AXIAL, fov_mm=250.0, size_px=448)

    def tokens_of(volume):
        stack = stack_of(volume, intensity, slices)
        return stack, np.stack(list(embed_slices(stack, encoder, SILENT)))

    training = [tokens_of(normal_head(1000 + n))[1][:, 0].astype(np.float16) for n in range(8)]
    held_out = [tokens_of(normal_head(2000 + n)) for n in range(2)]
    model = fit(
        training,
        [tokens[:, 0].astype(np.float16) for _, tokens in held_out],
        AutoregressiveSpec.from_preset(Preset.STANDARD),
        TrainingSpec(epochs=epochs, batch_size=16),
        report=SILENT,
    ).model.eval()

    def nll(stack, tokens):
        return stack.volume_from_tokens([slice_nll(one, model) for one in tokens], model.lowest_nll)

    normal_nll = [nll(*one)[one[0].inside_volume()] for one in held_out]
    normal_gray = [intensities(stack)[stack.inside_volume()] for stack, _ in held_out]
    for contrast in contrasts:
        rows, baseline = [], []
        for seed in range(LESIONS):
            head, lesion = add_lesion(normal_head(3000 + seed), seed, contrast=contrast)
            stack, tokens = tokens_of(head)
            rows.append(first_finding(nll(stack, tokens), stack, head, lesion, normal_nll))
            gray = intensities(stack)
            baseline.append(first_finding(gray, stack, head, lesion, normal_gray)[1])
        first, overlap, others = np.array(rows, dtype=float).T
        print(
            f"| {headroom:.2f} | {contrast:.2f} | {int(first.sum())} of {LESIONS} "
            f"| {overlap.mean():.2f} | {others.mean():.1f} | {np.mean(baseline):.2f} |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The headroom's worth on phantom heads.")
    parser.add_argument("--headroom", type=float, nargs="+", default=[0.0, 0.2, 0.4])
    parser.add_argument("--contrast", type=float, nargs="+", default=[0.45, 0.6])
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    print("| headroom | contrast | first finding | Dice | other findings | Dice by intensity |")
    print("| --- | --- | --- | --- | --- | --- |")
    for headroom in arguments.headroom:
        measure(headroom, arguments.contrast, arguments.epochs)


if __name__ == "__main__":
    main()
