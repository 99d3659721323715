"""Images for training the demonstration encoder: normal anatomy, shapes, and photographs.

There are four kinds: slices of the phantom heads, slices of the deformed template heads, random
label maps with random intensities (after SynthMorph, arXiv 2004.10282), and pieces of photographs.
No head contains a lesion or another of the benchmark's anomalies, and none is one of the
benchmark's: seeds start at `FIRST_SEED`, those of the benchmarks end below 100,000.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import skimage.data
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

HEAD_SHARE, PHOTOGRAPH_SHARE = 0.45, 0.2
"""Shares of images that are slices of heads and pieces of photographs; the others are drawn."""

PHOTOGRAPHS = (
    *("brick", "camera", "cell", "chelsea", "clock", "coffee", "grass", "gravel"),
    *("microaneurysms", "retina", "rocket"),
)
"""Photographs in scikit-image's wheel that its documentation calls CC0 or public domain."""

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


@functools.cache
def photograph(name: str) -> np.ndarray:
    """Load a gray photograph [y, x] in [0, 1]."""
    pixels = getattr(skimage.data, name)()
    gray = pixels[..., :3].mean(axis=-1) if pixels.ndim == 3 else pixels
    return (gray / gray.max()).astype(np.float32)


def photograph_image(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Cut a piece out of a photograph: turned, mirrored, at a random size."""
    pixels = photograph(PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))])
    pixels = np.rot90(pixels, int(rng.integers(4)))[:: int(rng.choice([-1, 1]))]
    shape = np.array(pixels.shape)
    step = rng.uniform(0.25, 1.0) * min(1.0, shape.min() / size_px)
    offset = rng.uniform(0, 1, 2) * (shape - 1 - step * (size_px - 1))
    pixels = ndimage.gaussian_filter(pixels, rng.uniform(0, 1.5))
    return ndimage.affine_transform(pixels, np.full(2, step), offset, (size_px, size_px), order=1)


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
    """Map an image to [0, 1] with another contrast: a window, a gain and gamma, or a curve.

    A window saturates what is outside, as in CT. A curve may fall or bend, because the order of
    tissues differs in T2; air stays dark in most of them.
    """
    top = max(float(np.percentile(image, 99.5)), 1e-3)
    level = np.clip(image / (1.25 * top), 0, 1)
    gain = rng.uniform(0.45, 1.0)
    kind = rng.random()
    if kind < 0.15:
        low = rng.uniform(0, 0.4)
        return np.clip((level - low) / rng.uniform(0.2, 0.6), 0, 1)
    if kind < 0.6:
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
        kind = rng.random()
        if kind < HEAD_SHARE:
            image = pool.image(rng, size_px)
        elif kind < HEAD_SHARE + PHOTOGRAPH_SHARE:
            image = photograph_image(rng, size_px)
        else:
            image = synthetic_image(rng, size_px)
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
