"""Fit the autoregressive model on normal volumes; select it on held-out normal volumes.

The loop of Erdil et al., arXiv 2603.02974 (squared error, feature noise,
AdamW), except that the epoch is chosen by the NLL of whole held-out *normal*
volumes: no anomaly is ever seen, and no slice of a training volume judges it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from .autoregressive import AutoregressiveModel
from .errors import SpatialARError
from .progress import EpochFigures, Reporter
from .specs import AutoregressiveSpec, TrainingSpec, Variance

MIN_VARIANCE = 1e-12
"""Keeps the NLL finite where a channel never varies."""

TokenArray = Float16[np.ndarray, "_ c h w"]


@dataclass
class Fit:
    """A training under way or done: what a checkpoint holds."""

    model: AutoregressiveModel
    curve: list[EpochFigures] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_nll(self) -> float:
        """The lowest held-out NLL so far, in nats per channel."""
        if not self.best_epoch:
            return float("inf")
        return self.curve[self.best_epoch - 1].held_out_nll


def split_held_out(
    volume_sha256: Sequence[str], training: TrainingSpec
) -> tuple[list[int], list[int]]:
    """Which volumes train and which are held out: at least one of each.

    Depends on the volumes' contents and the seed, not on the order in which
    they were named; both lists are in the order of the hashes.
    """
    count = len(volume_sha256)
    by_hash = sorted(range(count), key=lambda index: volume_sha256[index])
    held = min(count - 1, max(1, round(training.held_out_share * count)))
    shuffled = np.random.RandomState(training.seed % 2**32).permutation(count)
    chosen = set(shuffled[:held].tolist())
    return (
        [by_hash[place] for place in range(count) if place not in chosen],
        [by_hash[place] for place in sorted(chosen)],
    )


def add_feature_noise(
    tokens: Float[Tensor, "b c h w"], scale: float, generator: torch.Generator
) -> Float[Tensor, "b c h w"]:
    """The tokens with Gaussian noise of `scale` × each slice's and channel's spatial spread."""
    spread = tokens.std(dim=(2, 3), keepdim=True, correction=0)
    noise = torch.randn(tokens.shape, generator=generator).to(tokens.device)
    return tokens + scale * spread * noise


def fit(
    training_tokens: Sequence[TokenArray],
    held_out_tokens: Sequence[TokenArray],
    autoregressive: AutoregressiveSpec,
    training: TrainingSpec,
    *,
    report: Reporter,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    fingerprint: str = "",
) -> Fit:
    """The model of the epoch with the lowest held-out NLL, its variance set.

    One array [image, c, h, w] per volume. With `checkpoint`, every epoch is
    saved there and a later call with the same `fingerprint` goes on from it;
    the result is that of an uninterrupted run. Raises `Cancelled` through
    `report`, and `SpatialARError` if the loss stops being finite.
    """
    channels = training_tokens[0].shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = AutoregressiveModel(autoregressive, channels).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    run = Fit(model)
    if checkpoint is not None and checkpoint.exists():
        _load_checkpoint(checkpoint, fingerprint, run, optimizer)
    images = [(tokens, index) for tokens in training_tokens for index in range(len(tokens))]
    batches = -(-len(images) // training.batch_size)
    for epoch in range(len(run.curve) + 1, training.epochs + 1):
        # Every epoch has its own stream, so a resumed run draws what an
        # uninterrupted one would have drawn.
        generator = torch.Generator().manual_seed(training.seed * 1_000_003 + epoch)
        order = torch.randperm(len(images), generator=generator).tolist()
        squared_error = 0.0
        for batch in range(batches):
            report.check_cancelled()
            chosen = order[batch * training.batch_size : (batch + 1) * training.batch_size]
            target = _gather([images[index] for index in chosen], device)
            tokens = target
            if float(torch.rand((), generator=generator)) < training.noise_probability:
                tokens = add_feature_noise(target, training.noise_scale, generator)
            optimizer.zero_grad(set_to_none=True)
            loss = F.mse_loss(model(tokens), target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            squared_error += float(loss.detach()) * len(chosen)
            if batch + 1 < batches:
                report.progress(
                    (epoch - 1) * batches + batch + 1, training.epochs * batches, "batch"
                )
        variance = _held_out_variance(model, held_out_tokens, training.batch_size, report)
        if autoregressive.variance is Variance.FIXED:
            variance = variance.mean().expand_as(variance).clone()
        variance = variance.clamp_min(MIN_VARIANCE)
        # The mean of ½·(ln 2πσ² + e²/σ²) with σ² = mean e², its own best value.
        nll = 0.5 * float((2 * torch.pi * variance).log().mean() + 1.0)
        figures = EpochFigures(epoch=epoch, train_mse=squared_error / len(images), held_out_nll=nll)
        if not np.isfinite([figures.train_mse, figures.held_out_nll]).all():
            raise SpatialARError(
                "training-diverged",
                f"The loss must stay finite; it was not in epoch {epoch}.",
                "Lower the learning rate.",
            )
        previous_best = run.best_nll
        run.curve.append(figures)
        if nll < previous_best:
            run.best_epoch = epoch
            model.variance.copy_(variance.to(torch.float32))
            run.best_weights = {
                name: value.detach().cpu().clone() for name, value in model.state_dict().items()
            }
        report.epoch(figures)
        if checkpoint is not None:
            _save_checkpoint(checkpoint, fingerprint, run, optimizer)
        report.progress(epoch * batches, training.epochs * batches, "batch")
    model.load_state_dict(run.best_weights)
    return run


def _gather(
    images: Sequence[tuple[TokenArray, int]], device: torch.device | str
) -> Float[Tensor, "b c h w"]:
    stacked = np.stack([tokens[index] for tokens, index in images]).astype(np.float32)
    return torch.from_numpy(stacked).to(device)


@torch.inference_mode()
def _held_out_variance(
    model: AutoregressiveModel,
    volumes: Sequence[TokenArray],
    batch_size: int,
    report: Reporter,
) -> Float[Tensor, " c"]:
    """Mean squared error per channel, on the CPU in float64, each volume weighing the same."""
    device = model.variance.device
    per_volume = []
    for tokens in volumes:
        total = torch.zeros(tokens.shape[1], dtype=torch.float64)
        for start in range(0, len(tokens), batch_size):
            report.check_cancelled()
            stop = min(start + batch_size, len(tokens))
            target = _gather([(tokens, index) for index in range(start, stop)], device)
            error = (model(target) - target).square().mean(dim=(2, 3)).sum(dim=0)
            total += error.double().cpu()
        per_volume.append(total / len(tokens))
    return torch.stack(per_volume).mean(dim=0)


def _save_checkpoint(
    path: Path, fingerprint: str, run: Fit, optimizer: torch.optim.Optimizer
) -> None:
    tensors = {f"best.{name}": value for name, value in run.best_weights.items()}
    tensors |= {f"last.{name}": value.cpu() for name, value in run.model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adamw.{index}.{name}": value.cpu() for name, value in state.items()}
    about = {
        "fingerprint": fingerprint,
        "best_epoch": run.best_epoch,
        "curve": [figures.to_dict() for figures in run.curve],
    }
    partial = path.with_suffix(".partial")
    save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        partial,
        metadata={"fit": json.dumps(about)},
    )
    os.replace(partial, path)


def check_checkpoint(path: Path, fingerprint: str) -> None:
    """Raise `SpatialARError` where a checkpoint is there and of another training."""
    if path.exists():
        _read_checkpoint(path, fingerprint, with_tensors=False)


def _read_checkpoint(
    path: Path, fingerprint: str, *, with_tensors: bool = True
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads(file.metadata()["fit"])
            names = list(file.keys()) if with_tensors else []
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise SpatialARError(
            "checkpoint-damaged",
            "The checkpoint of the unfinished training cannot be read.",
            "Start again with --restart.",
        ) from None
    if about["fingerprint"] != fingerprint:
        raise SpatialARError(
            "checkpoint-other",
            "The unfinished training found here has other volumes or settings.",
            "Repeat its command to resume it, or discard it with --restart.",
        )
    return about, tensors


def _load_checkpoint(
    path: Path, fingerprint: str, run: Fit, optimizer: torch.optim.Optimizer
) -> None:
    about, tensors = _read_checkpoint(path, fingerprint)
    groups: dict[str, dict[str, Tensor]] = {"best": {}, "last": {}, "adamw": {}}
    for name, value in tensors.items():
        group, rest = name.split(".", 1)
        groups[group][rest] = value
    run.curve = [EpochFigures.from_dict(figures) for figures in about["curve"]]
    run.best_epoch = about["best_epoch"]
    run.best_weights = groups["best"]
    run.model.load_state_dict(groups["last"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in groups["adamw"].items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
