"""Compare encoders by how well simple densities of their tokens separate lesions: prints a table.

    python Testing/Data/encoder_probe.py demonstration [ENCODER ...]

Template heads with bright and dark masses (`template_head_with_lesion`), and normal ones of other
seeds for fitting; all seeds differ from those of the benchmarks and of the encoder's training.
Three scores of every axial token inside the brain: cosine distance to the nearest normal token
(memory bank), Mahalanobis distance to the normal tokens at the same place, and the error of a
linear prediction from the tokens before it in raster order. The table has average precision and
area under the ROC curve over tokens (a lesion token holds at least a quarter of lesion; those with
less are left out).
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).parents[1]))

from Data.template_cohort import template_head, template_head_with_lesion
from SpatialARAnomalyLib.engine.encoder.encoder import (
    Encoder,
    load_encoder,
)
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import (
    IntensitySpec,
    Modality,
    Plane,
    SliceSpec,
)

FIRST_SEED = 3_000_000
SLICES = SliceSpec(plane=Plane.AXIAL, fov_mm=220.0, size_px=448)
REACH = 2
"""Reach in tokens of the linear prediction, up and to both sides."""


NORMALS, LESIONS, EVERY = 8, 8, 3
"""Heads of either kind, and every third slice of them."""


def slices_of(head, truth=None):
    """Return images [n, 1, y, x], tokens in the brain [n, h, w], and the lesion's share of each."""
    turned = PlaneVolume(head, SLICES.plane, Modality.MR)
    stack = SliceStack(turned, SLICES, IntensitySpec.for_modality(Modality.MR), 16)
    indices = stack.indices[::EVERY]
    images = np.concatenate([stack.images(index) for index in indices])
    inside = np.concatenate([stack.tokens_inside(index) for index in indices])
    if truth is None:
        return torch.from_numpy(images), inside, np.zeros(inside.shape)
    rows, columns = stack.rows.pixels_from_voxels[0], stack.columns.pixels_from_voxels[0]
    lesion = turned.orientation.apply(truth).astype(np.float32)
    share = np.stack([rows @ lesion[index] @ columns.T for index in indices])
    count, height, width = inside.shape
    return (
        torch.from_numpy(images),
        inside,
        share.reshape(count, height, 16, width, 16).mean(axis=(2, 4)),
    )


def embed_images(encoder: Encoder, images: torch.Tensor) -> torch.Tensor:
    """Embed images into tokens [n, h, w, c]."""
    return torch.cat([encoder.embed(image[None]) for image in images]).permute(0, 2, 3, 1)


def memory_bank(normal, inside, tokens):
    """Compute the cosine distance to the nearest of 10,000 normal tokens."""
    bank = torch.nn.functional.normalize(normal[inside], dim=-1)
    order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))
    bank = bank[order[:10_000]]
    tokens = torch.nn.functional.normalize(tokens, dim=-1)
    return torch.stack([1 - (one @ bank.T).amax(dim=-1) for one in tokens])


def gaussian(normal, inside, tokens):
    """Compute the Mahalanobis distance per place; covariances are shrunk half to that of all."""
    channels = normal.shape[-1]
    every = normal[inside]
    pooled = torch.cov(every.T) + 0.01 * torch.eye(channels)
    scores = torch.zeros(tokens.shape[:-1])
    for y in range(normal.shape[1]):
        for x in range(normal.shape[2]):
            here = normal[:, y, x][inside[:, y, x]]
            mean, covariance = every.mean(dim=0), pooled
            if len(here) > 20:
                mean, covariance = here.mean(dim=0), 0.5 * pooled + 0.5 * torch.cov(here.T)
            off = tokens[:, y, x] - mean
            scores[:, y, x] = (off * torch.linalg.solve(covariance, off.T).T).sum(dim=-1)
    return scores


def prediction(normal, inside, tokens):
    """Compute the error of a ridge regression from the tokens before, relative to its variance."""

    def before(grid):
        padded = torch.nn.functional.pad(grid, (0, 0, REACH, REACH, REACH, 0))
        height, width = grid.shape[1:3]
        shifts = [(dy, dx) for dy in range(REACH) for dx in range(2 * REACH + 1)]
        shifts += [(REACH, dx) for dx in range(REACH)]
        parts = [padded[:, dy : dy + height, dx : dx + width] for dy, dx in shifts]
        return torch.cat([*parts, torch.ones_like(grid[..., :1])], dim=-1)

    past, target = before(normal)[inside], normal[inside]
    gram = past.T @ past
    gram += 1e-2 * gram.diagonal().mean() * torch.eye(len(gram))
    weights = torch.linalg.solve(gram, past.T @ target)
    variance = (target - past @ weights).square().mean(dim=0)
    return ((tokens - before(tokens) @ weights).square() / variance).mean(dim=-1)


SCORES = {"memory bank": memory_bank, "Gaussian": gaussian, "prediction": prediction}


def probe(sources: list[str]) -> dict[str, dict[str, tuple[float, float]]]:
    """Compute average precision and area under the ROC curve for every score and encoder."""
    normals = [slices_of(template_head(FIRST_SEED + n)) for n in range(NORMALS)]
    lesions = [slices_of(*template_head_with_lesion(FIRST_SEED + 500 + n)) for n in range(LESIONS)]
    inside = torch.from_numpy(np.concatenate([one[1] for one in normals]))
    share = np.concatenate([one[2] for one in lesions])
    counted = np.concatenate([one[1] for one in lesions]) & ((share == 0) | (share >= 0.25))
    table = {}
    for source in sources:
        encoder = load_encoder(source)
        begun_s = time.perf_counter()
        normal = embed_images(encoder, torch.cat([one[0] for one in normals]))
        image_s = (time.perf_counter() - begun_s) / len(normal)
        tokens = embed_images(encoder, torch.cat([one[0] for one in lesions]))
        table[source] = {"ms an image": (1000 * image_s, 0.0)}
        for name, score in SCORES.items():
            scores = score(normal, inside, tokens).numpy()[counted]
            truth = share[counted] > 0
            table[source][name] = (
                average_precision_score(truth, scores),
                roc_auc_score(truth, scores),
            )
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Encoders' tokens under simple densities.")
    parser.add_argument("encoders", nargs="+", metavar="ENCODER")
    for source, scores in probe(parser.parse_args().encoders).items():
        cells = [f"{name} {one:.3f} / {other:.3f}" for name, (one, other) in scores.items()]
        print(f"| {Path(source).name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
