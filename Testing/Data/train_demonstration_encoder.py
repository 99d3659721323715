"""Train the demonstration encoder from seeds alone: writes one safetensors file.

    python Testing/Data/train_demonstration_encoder.py OUT.safetensors [--device cuda]

Needs the extra `test` (nilearn contains the template). encoder_images.py describes the images,
encoder_objective.py the objective. The same seed, software and machine give the same bits; another
processor may round differently, so the file in the package is the one to use.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from Data.encoder_images import HeadPool, degrade, make_images
from Data.encoder_objective import PATCH_PX, Objective, Shares, cosine_filters

CHANNELS, LAYERS, HEAD_CHANNELS, MLP_CHANNELS, REGISTERS = 128, 4, 64, 256, 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalization in `load_encoder`, the one of the published weights."""

STEPS, BATCH, SIZE_PX = 1000, 8, 224
LARGE_EVERY, LARGE_PX = 10, 448
"""Every tenth step has fewer, larger images, with as many patches as in a detection."""
LEARNING_RATE, WARMUP, WEIGHT_DECAY = 1.5e-3, 100, 0.02
HIDDEN_SHARE = (0.2, 0.6)
PHANTOMS, TEMPLATES = 12, 14


def new_network() -> DINOv3ViTModel:
    """Make DINOv3's network; its patch filters start as random mixtures of low frequencies.

    From white noise, a short training would leave them noisy.
    """
    network = DINOv3ViTModel(
        DINOv3ViTConfig(
            patch_size=PATCH_PX,
            hidden_size=CHANNELS,
            num_hidden_layers=LAYERS,
            num_attention_heads=CHANNELS // HEAD_CHANNELS,
            intermediate_size=MLP_CHANNELS,
            num_register_tokens=REGISTERS,
            layerscale_value=0.3,
            pos_embed_rescale=2.0,
        )
    )
    filters, orders = cosine_filters(PATCH_PX, 10)
    strength = (1 + orders) / math.sqrt(len(orders))
    mixed = torch.randn(CHANNELS, len(filters)) * strength @ filters.flatten(1)
    mixed = mixed.reshape(CHANNELS, 1, PATCH_PX, PATCH_PX)
    with torch.no_grad():
        network.embeddings.patch_embeddings.weight.copy_(
            2 * mixed * torch.tensor(STD)[:, None, None] / 3
        )
    return network


def hidden_patches(rng: np.random.Generator, count: int, across: int) -> Tensor:
    """Draw masks [count, across * across]: rectangles that hide a share of every image."""
    hidden = np.zeros((count, across, across), bool)
    for grid in hidden:
        share = rng.uniform(*HIDDEN_SHARE)
        while grid.mean() < share:
            height, width = rng.integers(1, max(2, across // 3), 2)
            top, left = rng.integers(0, across - height + 1), rng.integers(0, across - width + 1)
            grid[top : top + height, left : left + width] = True
    return torch.from_numpy(hidden.reshape(count, -1))


def patch_tokens(network: DINOv3ViTModel, images: Tensor, hidden: Tensor | None) -> Tensor:
    """Return the patch tokens [b, n, c] after the final LayerNorm."""
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (MEAN, STD))
    output = network(pixel_values=(images - mean) / std, bool_masked_pos=hidden)
    return output.last_hidden_state[:, 1 + REGISTERS :]


def rate(step: int, steps: int) -> float:
    """Return the share of the learning rate: rising, then falling along a cosine."""
    warmup = min(WARMUP, steps // 5)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(
    *,
    steps: int = STEPS,
    batch: int | None = None,
    size_px: int = SIZE_PX,
    seed: int = 0,
    device: str = "cpu",
    pool: HeadPool | None = None,
    shares: Shares | None = None,
    report_every: int = 20,
    log: Path | None = None,
) -> tuple[DINOv3ViTModel, list[dict[str, float]]]:
    """Return the trained network, and the mean terms of every `report_every` steps."""
    batch = batch or BATCH
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pool = pool or HeadPool.render(PHANTOMS, TEMPLATES, seed)
    network = new_network().to(device).train()
    images = make_images(pool, rng, 8 * batch, size_px)
    objective = Objective(CHANNELS, images, shares or Shares()).to(device)
    parameters = [*network.parameters(), *objective.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    curve: list[dict[str, float]] = []
    recent: list[dict[str, float]] = []
    begun_s = time.monotonic()
    for step in range(steps):
        large = step % LARGE_EVERY == LARGE_EVERY - 1
        side = LARGE_PX * size_px // SIZE_PX if large else size_px
        images = make_images(pool, rng, max(1, batch // 5) if large else batch, side)
        views = [degrade(images, rng).to(device) for _ in range(2)]
        hidden = hidden_patches(rng, len(images), side // PATCH_PX).to(device)
        none_hidden = torch.zeros_like(hidden)
        both = patch_tokens(network, torch.cat(views), torch.cat([hidden, none_hidden]))
        terms = objective(images.to(device), tuple(both.chunk(2)), hidden)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        recent.append({"loss": loss.item(), **{name: t.item() for name, t in terms.items()}})
        if len(recent) == report_every or step == steps - 1:
            means = {name: float(np.mean([one[name] for one in recent])) for name in recent[0]}
            curve.append({"step": step + 1, "seconds": time.monotonic() - begun_s, **means})
            recent.clear()
            if log:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(curve[-1]) + "\n")
    return network.eval(), curve


def weights_file(network: DINOv3ViTModel) -> bytes:
    """Write the encoder's file: names of transformers, float16, without the mask token."""
    tensors = {}
    for name, tensor in network.state_dict().items():
        if not name.endswith("mask_token"):
            tensors[name.removeprefix("model.")] = tensor.detach().cpu().half().contiguous()
    return save(tensors, metadata={"format": "pt"})


def main(arguments: list[str] | None = None) -> None:
    """Train, and write the file."""
    parser = argparse.ArgumentParser(description="Train the demonstration encoder.")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"({STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--log", type=Path, help="a file for the loss curve, as JSON lines")
    chosen = parser.parse_args(arguments)
    network, _ = train(steps=chosen.steps, seed=chosen.seed, device=chosen.device, log=chosen.log)
    chosen.out.write_bytes(weights_file(network))


if __name__ == "__main__":
    main()
