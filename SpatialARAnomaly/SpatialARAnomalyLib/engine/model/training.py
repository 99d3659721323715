"""Fit the autoregressive model on normal volumes; select it on held-out normal volumes.

The training of Erdil et al., arXiv 2603.02974 (squared error, feature noise, AdamW), except
that the epoch is chosen by the NLL of whole held-out *normal* volumes: no anomaly and no
slice of a training volume takes part. The covariance of every branch's errors comes from the
held-out volumes, too.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor
from torch.nn import functional as F

from SpatialARAnomalyLib.engine.device import exact_float32
from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.engine.model.autoregressive import MIN_VARIANCE, AutoregressiveModel
from SpatialARAnomalyLib.engine.model.checkpoint import Fit, load_checkpoint, save_checkpoint
from SpatialARAnomalyLib.engine.model.feature_store import release_pages
from SpatialARAnomalyLib.engine.progress import EpochFigures, Reporter
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, TrainingSpec

TokenArray = Float16[np.ndarray, "_ c h w"]

Image = tuple[TokenArray, int]
"""An image: the tokens of its volume, and its index there."""


def split_held_out(
    volume_sha256: Sequence[str],
    training: TrainingSpec,
    patients: Sequence[object] | None = None,
) -> tuple[list[int], list[int]]:
    """Split volumes by patient into training and held-out ones, at least one patient each.

    Depends on contents and seed, not on the order of the volumes or the names of the patients;
    both lists of indices are in the order of the hashes.

    Args:
        volume_sha256: Hash of every volume.
        training: The share of the patients to hold out, and the seed.
        patients: Patient of every volume; by default each is of another one.
    """
    by_hash = sorted(range(len(volume_sha256)), key=lambda index: volume_sha256[index])
    names = [index if patients is None else patients[index] for index in by_hash]
    ordered = list(dict.fromkeys(names))  # by the lowest hash of each patient
    held = min(len(ordered) - 1, max(1, round(training.held_out_share * len(ordered))))
    shuffled = np.random.RandomState(training.seed).permutation(len(ordered))
    chosen = {ordered[place] for place in shuffled[:held].tolist()}
    of_patient = list(zip(by_hash, names, strict=True))
    return (
        [index for index, name in of_patient if name not in chosen],
        [index for index, name in of_patient if name in chosen],
    )


def add_feature_noise(
    tokens: Float[Tensor, "b c h w"], scale: float, generator: torch.Generator
) -> Float[Tensor, "b c h w"]:
    """Add Gaussian noise of `scale` × the spatial spread of each slice and channel."""
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
    """Train a model; return that of the epoch with the lowest held-out NLL, its covariance set.

    Args:
        training_tokens: One array [image, c, h, w] per volume.
        held_out_tokens: Likewise.
        autoregressive: The network.
        training: Epochs, learning rate and noise.
        report: Receives progress and epochs.
        device: The device to compute on.
        checkpoint: File to save every epoch to. A later call with the same `fingerprint`
            reports the saved epochs and resumes; the result is that of an uninterrupted run.
        fingerprint: Identifies volumes and settings.

    Raises:
        SpatialARError: `training-diverged`, or those of a checkpoint.
        Cancelled: Through `report`.
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
        squared_error = torch.zeros(len(model.branches), dtype=torch.float64)
        done = (epoch - 1) * batches
        for batch_error in _train_epoch(model, optimizer, images, training, epoch, report):
            squared_error += batch_error
            done += 1
            if done < epoch * batches:  # the last is reported when the epoch is saved
                report.progress(done, training.epochs * batches, "batch")
        covariance = _held_out_covariance(model, held_out_tokens, training.batch_size, report)
        _check_finite(epoch, model, squared_error, covariance)
        model.fit_covariance(covariance)
        error = covariance.diagonal(dim1=1, dim2=2).mean(dim=1)
        figures = _note_epoch(run, epoch, squared_error / len(images), error)
        report.epoch(figures)
        if checkpoint is not None:
            save_checkpoint(checkpoint, fingerprint, run, optimizer)
        report.progress(done, training.epochs * batches, "batch")
    model.load_state_dict(run.best_weights)
    return run


def _epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return a separate stream for every epoch, so that a resumed run draws the same numbers."""
    state = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) & (2**63 - 1))


def _train_epoch(
    model: AutoregressiveModel,
    optimizer: torch.optim.Optimizer,
    images: Sequence[Image],
    training: TrainingSpec,
    epoch: int,
    report: Reporter,
) -> Iterator[Float[Tensor, " n"]]:
    """Train one epoch; yield every branch's squared error of a batch, summed over its images."""
    generator = _epoch_generator(training.seed, epoch)
    order = torch.randperm(len(images), generator=generator).tolist()
    for start in range(0, len(images), training.batch_size):
        report.check_cancelled()
        chosen = order[start : start + training.batch_size]
        target = _gather([images[index] for index in chosen], model.device)
        seen = target
        if float(torch.rand((), generator=generator)) < training.noise_probability:
            seen = add_feature_noise(target, training.noise_scale, generator)
        optimizer.zero_grad(set_to_none=True)
        errors = torch.stack([F.mse_loss(one, target) for one in model(seen)])
        # Branches share no weights, so the sum trains each as if it were alone.
        errors.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield errors.detach().cpu().double() * len(chosen)


def _check_finite(
    epoch: int,
    model: AutoregressiveModel,
    squared_error: Float[Tensor, " n"],
    covariance: Float[Tensor, "n c c"],
) -> None:
    """Raise `SpatialARError` that says where values overflowed or became NaN."""
    if bool(squared_error.isfinite().all() and covariance.isfinite().all()):
        return
    bad = [name for name, value in model.named_parameters() if not bool(value.isfinite().all())]
    kind = "NaN" if bool(squared_error.isnan().any()) else "infinite"
    where = f"weights are not finite from {bad[0]} on" if bad else "the weights are finite"
    raise SpatialARError(
        "training-diverged",
        f"The loss must stay finite; it was {kind} in epoch {epoch} ({where}).",
    )


def _note_epoch(
    run: Fit, epoch: int, train_error: Float[Tensor, " n"], held_out_error: Float[Tensor, " n"]
) -> EpochFigures:
    """Add the epoch's figures to `run`, with its weights if it is the best so far."""
    train_mse, held_out_mse = (
        float(error.clamp_min(MIN_VARIANCE).log().mean().exp())
        for error in (train_error, held_out_error)
    )
    nll = 0.5 * (math.log(2 * math.pi * held_out_mse) + 1)
    figures = EpochFigures(epoch=epoch, train_mse=train_mse, held_out_nll=nll)
    is_best = nll < run.best_nll
    run.curve.append(figures)
    if is_best:
        run.best_epoch = epoch
        run.best_weights = {
            name: value.detach().cpu().clone() for name, value in run.model.state_dict().items()
        }
    return figures


def _gather(images: Sequence[Image], device: torch.device | str) -> Float[Tensor, "b c h w"]:
    """Return the tokens of images, on the model's device."""
    tokens = np.stack([volume[index] for volume, index in images]).astype(np.float32)
    for mapped in {id(volume): volume for volume, _ in images}.values():
        release_pages(mapped)
    return torch.from_numpy(tokens).to(device)


@torch.inference_mode()
def _held_out_covariance(
    model: AutoregressiveModel, volumes: Sequence[TokenArray], batch_size: int, report: Reporter
) -> Float[Tensor, "n c c"]:
    """Return the covariance of every branch's errors about 0, each volume with the same weight.

    In float64 on the CPU.
    """
    channels = model.channels
    covariances = []
    for tokens in volumes:
        total = torch.zeros(len(model.branches), channels, channels, dtype=torch.float64)
        for start in range(0, len(tokens), batch_size):
            report.check_cancelled()
            chosen = range(start, min(start + batch_size, len(tokens)))
            batch = _gather([(tokens, index) for index in chosen], model.device)
            with exact_float32():
                errors = model.errors(batch)
                products = torch.einsum("nbchw,nbdhw->ncd", errors, errors)
            # First to the CPU: MPS has no float64.
            total += products.cpu().double() / errors[0, 0, 0].numel()
        covariances.append(total / len(tokens))
    return torch.stack(covariances).mean(dim=0)
