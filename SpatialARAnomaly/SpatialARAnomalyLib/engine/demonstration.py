"""A small encoder with seeded random weights, for demos and tests: no file, no license."""

import numpy as np
import torch
from jaxtyping import Float

from .encoder_layouts import VIT, NamedWeights

NOTICE = (
    "Demonstration encoder: DINOv3 architecture with seeded random weights made by this project; "
    "for demos and tests, not for clinical or research results."
)

_CHANNELS, _LAYERS, _HEADS, _REGISTERS, _PATCH = 96, 2, 3, 4, 16
_MLP = 2 * _CHANNELS
_FREQUENCIES = 8
"""The patch filters see up to so many half-periods per patch, down and across together."""
_MEAN_GAIN, _PATTERN_GAIN = 4.0, 8.0
"""A patch's mean of 0 to 1 is a step of 4 in a token; patterns are fainter, and weigh more."""
_LAYER_SCALE = 0.2
"""Small, so that a token is mostly its own patch, with a little of its surroundings."""


def demonstration_weights(
    mean: tuple[float, float, float], std: tuple[float, float, float]
) -> NamedWeights:
    """The weights, with the same bits on every machine.

    Random weights keep what a linear patch embedding sees, and mix it. So the
    embedding is made to see what matters in a patch: its mean intensity, and the
    low frequencies of its cosine transform (gradients, edges, texture), combined
    at random. Its bias is as large as the signal, so that the final LayerNorm,
    which divides by a token's spread, does not take the intensity away.

    `mean` and `std` are those that gray images are normalized with in three
    channels: the filters undo that, and so act on gray values in [0, 1].
    """
    random = np.random.RandomState(0)
    filters = _patch_filters(random)
    # A third of each channel, times its std, sums to the gray value minus this.
    center = (mean[0] + mean[1] + mean[2]) / 3
    tensors = {
        "embeddings.cls_token": _normal(random, 1, 1, _CHANNELS),
        "embeddings.register_tokens": _normal(random, 1, _REGISTERS, _CHANNELS),
        "embeddings.patch_embeddings.weight": np.stack([filters * (s / 3) for s in std], axis=1),
        "embeddings.patch_embeddings.bias": (
            _normal(random, _CHANNELS) + filters.sum(axis=(1, 2)) * (center - 0.5)
        ),
        "norm.weight": np.ones(_CHANNELS),
        "norm.bias": np.zeros(_CHANNELS),
    }
    for layer in range(_LAYERS):
        tensors |= {f"layer.{layer}.{name}": t for name, t in _block(random).items()}
    return NamedWeights(
        architecture=VIT,
        layout="transformers",
        tensors={name: torch.from_numpy(t.astype(np.float32)) for name, t in tensors.items()},
        head_channels=_CHANNELS // _HEADS,
    )


def _patch_filters(random: np.random.RandomState) -> Float[np.ndarray, "c p p"]:
    """Random combinations of the low frequencies; applied to a patch of gray values.

    Cosines are rounded to 12 binary digits, which all libraries agree on; then
    every product and sum below is exact, in any order.
    """
    position = np.arange(_PATCH) + 0.5
    frequency = np.arange(_FREQUENCIES + 1)[:, None]
    waves = np.round(np.cos(np.pi / _PATCH * frequency * position) * 2**12) / 2**12
    patterns = np.array(
        [
            np.outer(down, across) * (_PATTERN_GAIN if u + v else _MEAN_GAIN)
            for u, down in enumerate(waves)
            for v, across in enumerate(waves)
            if u + v <= _FREQUENCIES
        ]
    )
    mixing = _normal(random, _CHANNELS, len(patterns))
    filters: Float[np.ndarray, "c p p"] = np.tensordot(mixing, patterns / _PATCH**2, axes=1)
    return filters


def _block(random: np.random.RandomState) -> dict[str, np.ndarray]:
    """One transformer block under the names of transformers' files."""
    tensors: dict[str, np.ndarray] = {}
    for norm in ("norm1", "norm2"):
        tensors[f"{norm}.weight"] = np.ones(_CHANNELS)
        tensors[f"{norm}.bias"] = np.zeros(_CHANNELS)
    for letter in "qkvo":
        # 0.1 is about one over the square root of the channels: outputs vary as inputs do.
        tensors[f"attention.{letter}_proj.weight"] = 0.1 * _normal(random, _CHANNELS, _CHANNELS)
        if letter != "k":
            tensors[f"attention.{letter}_proj.bias"] = np.zeros(_CHANNELS)
    tensors["mlp.up_proj.weight"] = 0.1 * _normal(random, _MLP, _CHANNELS)
    tensors["mlp.up_proj.bias"] = _normal(random, _MLP)
    tensors["mlp.down_proj.weight"] = 0.1 * _normal(random, _CHANNELS, _MLP)
    tensors["mlp.down_proj.bias"] = np.zeros(_CHANNELS)
    for scale in ("layer_scale1", "layer_scale2"):
        tensors[f"{scale}.lambda1"] = np.full(_CHANNELS, _LAYER_SCALE)
    return tensors


def _normal(random: np.random.RandomState, *shape: int) -> np.ndarray:
    """About normal, mean 0 and variance 1: twice the sum of three uniforms of ±½.

    From integers, without a logarithm whose last digit depends on the machine.
    """
    integers = random.randint(-(2**11), 2**11, size=(3, *shape), dtype=np.int64)
    normal: np.ndarray = (2 * integers.sum(axis=0) + 3) / 2**12
    return normal
