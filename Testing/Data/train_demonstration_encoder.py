"""Train the demonstration encoder from seeds alone: writes one safetensors file.

    python Testing/Data/train_demonstration_encoder.py OUT.safetensors [--device cuda]

Needs the extra `test` (nilearn contains the template). encoder_images.py describes the images,
encoder_objective.py the objective. The same seed, software and machine give the same bits; another
processor may round differently, so the file in the package is the one to use.
"""

import argparse
import copy
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
from Data.encoder_objective import PATCH_PX, Description, cosine_filters

CHANNELS, LAYERS, HEAD_CHANNELS, MLP_CHANNELS, REGISTERS = 128, 3, 64, 512, 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalization in `load_encoder`, the one of the published weights."""

STEPS, BATCH, SIZE_PX = 2500, 2, 448
SMALL_EVERY = 3
"""Every third step has four times as many images of half the side."""
LEARNING_RATE, WARMUP, WEIGHT_DECAY = 3e-3, 150, 0.02
PHANTOMS, TEMPLATES = 6, 8


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


def patch_tokens(network: DINOv3ViTModel, images: Tensor) -> Tensor:
    """Return the patch tokens [b, n, c] after the final LayerNorm."""
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (MEAN, STD))
    return network(pixel_values=(images - mean) / std).last_hidden_state[:, 1 + REGISTERS :]


def rate(step: int) -> float:
    """Return the share of the learning rate: rising, then falling with the root of the step."""
    return min((step + 1) / WARMUP, math.sqrt(WARMUP / (step + 1)))


@torch.no_grad()
def follow(average: DINOv3ViTModel, network: DINOv3ViTModel, step: int) -> None:
    """Move averaged weights towards the network's: over the last tenth of the steps, at most 500.

    The average needs no schedule that ends, so a training can stop at any step.
    """
    share = max(1 / 500, 10 / (step + 10))
    for kept, weight in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(weight, share)


def train(
    *,
    steps: int = STEPS,
    batch: int | None = None,
    size_px: int = SIZE_PX,
    seed: int = 0,
    device: str = "cpu",
    pool: HeadPool | None = None,
    report_every: int = 20,
    log: Path | None = None,
    out: Path | None = None,
) -> tuple[DINOv3ViTModel, list[dict[str, float]]]:
    """Return the averaged network, and the mean errors of every `report_every` steps.

    With every report, `log` gets a line and `out` the weights so far.
    """
    batch = batch or BATCH
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pool = pool or HeadPool.render(PHANTOMS, TEMPLATES, seed)
    network = new_network().to(device).train()
    images = make_images(pool, rng, 32 * batch, size_px)
    average = copy.deepcopy(network)
    description = Description(CHANNELS, images).to(device)
    parameters = list(network.parameters())
    decayed = [p for p in parameters if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    curve: list[dict[str, float]] = []
    recent: list[dict[str, float]] = []
    begun_s = time.monotonic()
    for step in range(steps):
        small = step % SMALL_EVERY == SMALL_EVERY - 1
        images = make_images(
            pool, rng, 4 * batch if small else batch, size_px // 2 if small else size_px
        )
        tokens = patch_tokens(network, degrade(images, rng).to(device))
        errors = description.errors(tokens, images.to(device))
        optimizer.zero_grad(set_to_none=True)
        errors["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        follow(average, network, step)
        recent.append({name: error.item() for name, error in errors.items()})
        if len(recent) == report_every or step == steps - 1:
            means = {name: float(np.mean([one[name] for one in recent])) for name in recent[0]}
            curve.append({"step": step + 1, "seconds": time.monotonic() - begun_s, **means})
            recent.clear()
            if log:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(curve[-1]) + "\n")
            if out:
                out.write_bytes(weights_file(average))
    return average.eval(), curve


def weights_file(network: DINOv3ViTModel) -> bytes:
    """Write the encoder's file: names of transformers, float16, without the mask token."""
    tensors = {}
    for name, tensor in network.state_dict().items():
        if not name.endswith("mask_token"):
            tensors[name.removeprefix("model.")] = tensor.detach().cpu().half().contiguous()
    return save(tensors, metadata={"format": "pt"})


def main(arguments: list[str] | None = None) -> None:
    """Train, and write the file with every report."""
    parser = argparse.ArgumentParser(description="Train the demonstration encoder.")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"({STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--log", type=Path, help="a file for the loss curve, as JSON lines")
    chosen = parser.parse_args(arguments)
    train(**vars(chosen))


if __name__ == "__main__":
    main()
