"""Fit the autoregressive model on normal volumes; select it on held-out normal volumes.

The loop of Erdil et al., arXiv 2603.02974 (squared error, feature noise,
AdamW), except that the epoch is chosen by the NLL of whole held-out *normal*
volumes: no anomaly is ever seen, and no slice of a training volume judges it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor
from torch.nn import functional as F

from .autoregressive import AutoregressiveModel
from .checkpoint import Fit, load_checkpoint, save_checkpoint
from .device import exact_float32
from .errors import SpatialARError
from .progress import EpochFigures, Reporter
from .specs import AutoregressiveSpec, TrainingSpec, Variance

MIN_VARIANCE = 1e-12
"""Keeps the NLL finite where a channel never varies."""

TokenArray = Float16[np.ndarray, "_ c h w"]

Image = tuple[TokenArray, int]
"""One image's tokens: those of its volume, and its place there."""


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
    shuffled = np.random.RandomState(training.seed).permutation(count)
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
    saved there and a later call with the same `fingerprint` tells of those that
    are done and goes on; the result is that of an uninterrupted run. Raises
    `Cancelled` through `report`, and `SpatialARError` if the loss stops being finite or the
    checkpoint cannot be read or written.
    """
    with torch.random.fork_rng(devices=[]):
        # Weights are drawn on the CPU; `torch.manual_seed` would reseed every GPU too.
        torch.default_generator.manual_seed(training.seed)
        model = AutoregressiveModel(autoregressive, training_tokens[0].shape[1]).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    run = Fit(model)
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(checkpoint, fingerprint, run, optimizer)
        for figures in run.curve:
            report.epoch(figures)
    images = [(tokens, index) for tokens in training_tokens for index in range(len(tokens))]
    batches = -(-len(images) // training.batch_size)
    for epoch in range(len(run.curve) + 1, training.epochs + 1):
        squared_error, done = 0.0, (epoch - 1) * batches
        for batch_error in _train_epoch(model, optimizer, images, training, epoch, report):
            squared_error += batch_error
            done += 1
            if done < epoch * batches:  # the last one is done when the epoch is judged and saved
                report.progress(done, training.epochs * batches, "batch")
        variance = _held_out_variance(model, held_out_tokens, training.batch_size, report)
        if autoregressive.variance is Variance.FIXED:
            variance = variance.mean().expand_as(variance).clone()
        figures = _note_epoch(
            run, epoch, squared_error / len(images), variance.clamp_min(MIN_VARIANCE)
        )
        report.epoch(figures)
        if checkpoint is not None:
            save_checkpoint(checkpoint, fingerprint, run, optimizer)
        report.progress(done, training.epochs * batches, "batch")
    model.load_state_dict(run.best_weights)
    return run


def _epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A stream of its own for every epoch: a resumed run draws what an uninterrupted one would."""
    state = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) & (2**63 - 1))


def _train_epoch(
    model: AutoregressiveModel,
    optimizer: torch.optim.Optimizer,
    images: Sequence[Image],
    training: TrainingSpec,
    epoch: int,
    report: Reporter,
) -> Iterator[float]:
    """A step of the optimizer per batch; each gives its squared error, summed over its images."""
    generator = _epoch_generator(training.seed, epoch)
    order = torch.randperm(len(images), generator=generator).tolist()
    for start in range(0, len(images), training.batch_size):
        report.check_cancelled()
        chosen = order[start : start + training.batch_size]
        target = _gather([images[index] for index in chosen], model.variance.device)
        tokens = target
        if float(torch.rand((), generator=generator)) < training.noise_probability:
            tokens = add_feature_noise(target, training.noise_scale, generator)
        optimizer.zero_grad(set_to_none=True)
        loss = F.mse_loss(model(tokens), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield float(loss.detach()) * len(chosen)


def _note_epoch(
    run: Fit, epoch: int, train_mse: float, variance: Float[Tensor, " c"]
) -> EpochFigures:
    """The epoch's figures, noted in `run` with its weights where it is the best so far."""
    # The mean of ½·(ln 2πσ² + e²/σ²) with σ² = mean e², its own best value.
    nll = 0.5 * float((2 * torch.pi * variance).log().mean() + 1.0)
    if not np.isfinite([train_mse, nll]).all():
        raise SpatialARError(
            "training-diverged",
            f"The loss must stay finite; it was not in epoch {epoch}.",
            "Lower the learning rate.",
        )
    figures = EpochFigures(epoch=epoch, train_mse=train_mse, held_out_nll=nll)
    is_best = nll < run.best_nll
    run.curve.append(figures)
    if is_best:
        run.best_epoch = epoch
        run.model.variance.copy_(variance.to(torch.float32))
        run.best_weights = {
            name: value.detach().cpu().clone() for name, value in run.model.state_dict().items()
        }
    return figures


def _gather(images: Sequence[Image], device: torch.device | str) -> Float[Tensor, "b c h w"]:
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
            with exact_float32():
                error = (model(target) - target).square().mean(dim=(2, 3)).sum(dim=0)
            total += error.cpu().double()  # in this order: MPS has no float64
        per_volume.append(total / len(tokens))
    return torch.stack(per_volume).mean(dim=0)
