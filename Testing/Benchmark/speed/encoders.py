"""DINOv3 of the published sizes with random weights, which take the same time as trained ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder


@dataclass(frozen=True)
class Size:
    """Size of a ViT: channels, layers and heads; the MLP has four times the channels."""

    channels: int
    layers: int
    heads: int


SIZES = {"S": Size(384, 12, 6), "B": Size(768, 12, 12), "L": Size(1024, 24, 16)}
"""Sizes of DINOv3 ViT-S/16, ViT-B/16 and ViT-L/16."""
QUICK_SIZE = Size(128, 2, 2)

PATCH_PX, REGISTERS = 16, 4


def encoder_folder(work: Path, size: Size) -> Path:
    """Write a folder in transformers' layout to `work`, unless it is there."""
    import torch
    from transformers import DINOv3ViTConfig, DINOv3ViTModel
    from transformers.utils import logging

    folder = work / f"vit-{size.channels}-{size.layers}-{size.heads}"
    if not folder.exists():
        config = DINOv3ViTConfig(
            patch_size=PATCH_PX,
            hidden_size=size.channels,
            intermediate_size=4 * size.channels,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_register_tokens=REGISTERS,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            logging.disable_progress_bar()
            DINOv3ViTModel(config).save_pretrained(folder)
            logging.enable_progress_bar()
    return folder


def random_encoder(work: Path, size: Size, device: "torch.device | str" = "cpu") -> "Encoder":
    """Load the encoder of that size on `device`, through the program's own loading."""
    from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder

    return load_encoder(str(encoder_folder(work, size)), device=device)


def random_images(count: int, side_px: int) -> "torch.Tensor":
    """Draw gray images [b, 1, s, s] in [0, 1]."""
    import torch

    return torch.rand(count, 1, side_px, side_px, generator=torch.Generator().manual_seed(7))
