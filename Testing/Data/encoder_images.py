"""Images for training the demonstration encoder: normal anatomy, and shapes without anatomy.

There are three kinds: slices of the phantom heads, slices of the deformed template heads, and
random label maps with random intensities (after SynthMorph, arXiv 2004.10282). No image contains a
lesion or another of the benchmark's anomalies, and no head is one of the benchmark's: seeds start
at `FIRST_SEED`, those of the benchmarks end below 100,000.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from Data.template_cohort import template_head
from scipy import ndimage
from SpatialARAnomalyLib.service.demo.phantom import normal_head
from torch import Tensor

FIRST_SEED = 1_000_000

SPACING_MM = 1.5
PHANTOM_SHAPE_KJI = (104, 136, 112)
"""Grid of a whole head, in voxels of 1.5 mm."""

SYNTHETIC_SHARE = 0.25
"""Share of images without anatomy."""

PIXEL_MM = (0.4, 1.3)
"""Range of pixel sizes in mm: from a part of the head to a head on half of the image."""


@dataclass(frozen=True)
class HeadPool:
    """Noise-free heads in units of white matter, rendered once; slices are cut from them."""

    heads: list[np.ndarray]
    """[k, j, i], float32, isotropic voxels of `SPACING_MM`."""

    @classmethod
    def render(cls, phantoms: int, templates: int, seed: int = 0) -> "HeadPool":
        """Render that many heads of either kind; another seed gives other heads."""
        first = FIRST_SEED + 1000 * seed
        heads = []
        for number in range(phantoms):
            head = normal_head(
                first + number, shape_kji=PHANTOM_SHAPE_KJI, spacing_mm=(SPACING_MM,) * 3, noise=0
            )
            heads.append(head.signal / np.median(head.white_signal))
        for number in range(templates):
            head = template_head(first + number, spacing_mm=SPACING_MM)
            heads.append(head.signal / np.median(head.white_signal))
        return cls([head.astype(np.float32) for head in heads])

    def image(self, rng: np.random.Generator, size_px: int) -> np.ndarray:
        """Cut a slice in a random plane: rotated, mirrored, stretched, at a random pixel size."""
        head = self.heads[rng.integers(len(self.heads))]
        axis = int(rng.integers(3))
        reach = head.shape[axis]
        pixels = np.take(head, int(rng.uniform(0.15, 0.85) * reach), axis)
        pixel_mm = math.exp(rng.uniform(*np.log(PIXEL_MM))) * 224 / size_px
        angle = rng.normal(0, math.radians(10)) + rng.integers(4) * math.pi / 2 * (
            rng.random() < 0.3
        )
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        mirror = rng.choice([-1.0, 1.0], 2)
        matrix = turn * mirror * np.exp(rng.normal(0, 0.08, 2)) * pixel_mm / SPACING_MM
        shape = np.array(pixels.shape)
        # The finer the pixels, the further may the image's middle be from the head's.
        free = np.clip(1 - 0.8 * size_px * pixel_mm / (SPACING_MM * shape), 0.05, 0.6)
        middle = shape * (0.5 + rng.uniform(-0.5, 0.5, 2) * free)
        offset = middle - matrix @ np.full(2, (size_px - 1) / 2)
        return ndimage.affine_transform(pixels, matrix, offset, (size_px, size_px), order=1)


def synthetic_image(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Make random regions, each of one intensity, some with a texture, under a smooth field."""
    labels = int(rng.integers(2, 9))
    fields = smooth_noise(rng, labels, int(rng.integers(2, 20)), size_px)
    if rng.random() < 0.5:  # fields of another scale divide the regions again
        fields = fields + 0.7 * smooth_noise(rng, labels, int(rng.integers(8, 60)), size_px)
    label = fields.argmax(axis=0)
    image = rng.uniform(0, 1.2, labels)[label]
    image = ndimage.gaussian_filter(image, rng.uniform(0.4, 2.5))
    strength = rng.uniform(0, 0.25, labels) * (rng.random(labels) < 0.4)
    texture = smooth_noise(rng, 1, int(rng.integers(20, 110)), size_px)[0]
    image = image + strength[label] * texture
    image = image * np.exp(0.15 * smooth_noise(rng, 1, 3, size_px)[0])
    if rng.random() < 0.6:  # a body in air
        rim = smooth_noise(rng, 1, int(rng.integers(3, 8)), size_px)[0]
        y, x = np.mgrid[-1 : 1 : size_px * 1j, -1 : 1 : size_px * 1j]
        y, x = y - rng.uniform(-0.3, 0.3), x - rng.uniform(-0.3, 0.3)
        radius = np.hypot(y / rng.uniform(0.5, 1.1), x / rng.uniform(0.5, 1.1))
        image = image * (radius + 0.1 * rim < 1)
    return np.maximum(image, 0)


def smooth_noise(rng: np.random.Generator, count: int, cells: int, size_px: int) -> np.ndarray:
    """Draw fields [count, y, x] of about unit variance that vary over `cells` cells."""
    grid = torch.from_numpy(rng.standard_normal((1, count, cells + 2, cells + 2), np.float32))
    fine = F.interpolate(grid, (size_px, size_px), mode="bicubic", align_corners=True)
    return fine[0].numpy() / max(float(fine.std()), 1e-6)


def recolor(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Map an image to [0, 1] with another contrast: a gain, a gamma, or a random curve.

    A curve may fall or bend, because the order of tissues differs in T2; air stays dark in most of
    them.
    """
    top = max(float(np.percentile(image, 99.5)), 1e-3)
    level = np.clip(image / (1.25 * top), 0, 1)
    gain = rng.uniform(0.45, 1.0)
    if rng.random() < 0.5:
        return gain * level ** math.exp(rng.normal(0, 0.25))
    knots = rng.random(int(rng.integers(3, 7)))
    if rng.random() < 0.5:
        knots = np.sort(knots)
    curve = np.interp(level, np.linspace(0, 0.8, len(knots)), knots)
    if rng.random() < 0.8:
        curve = curve * np.clip(level / 0.06, 0, 1)
    return gain * curve / max(float(curve.max()), 0.3)


def make_images(pool: HeadPool, rng: np.random.Generator, count: int, size_px: int) -> Tensor:
    """Make images [count, 1, y, x] in [0, 1] without noise."""
    images = []
    for _ in range(count):
        synthetic = rng.random() < SYNTHETIC_SHARE
        image = synthetic_image(rng, size_px) if synthetic else pool.image(rng, size_px)
        images.append(recolor(image, rng))
    return torch.from_numpy(np.stack(images)[:, None].astype(np.float32))


def degrade(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Degrade images as a scanner does: coarse voxels, noise of their size, a slight gain."""
    seen = []
    for image in images:
        size_px = image.shape[-1]
        voxels = int(size_px / math.exp(rng.uniform(0, math.log(4))))
        noise = rng.standard_normal((1, 1, voxels, voxels), np.float32)
        noise_of_image = rng.uniform(0, 0.05) * torch.from_numpy(noise)
        view = image[None]
        if rng.random() < 0.5:
            view = F.interpolate(view, (voxels, voxels), mode="area")
            view = F.interpolate(view, (size_px, size_px), mode="bilinear")
        added = F.interpolate(noise_of_image, (size_px, size_px), mode="bilinear")
        if rng.random() < 0.5:  # air without noise, as skull stripping leaves it
            added = added * (image > 0.01)
        seen.append((view * (1 + rng.normal(0, 0.03)) + added).abs().clamp(0, 1))
    return torch.cat(seen)
