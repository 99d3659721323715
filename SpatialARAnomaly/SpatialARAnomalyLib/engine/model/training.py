"""Fit the autoregressive model on normal volumes; select it on held-out normal volumes.

The training of Erdil et al., arXiv 2603.02974 (squared error, feature noise, AdamW), except
that the epoch is chosen by the NLL of whole held-out *normal* volumes: no anomaly and no
slice of a training volume takes part. The variance comes from the held-out volumes, too. Of
a covariance or a map, which have many numbers, they give only the level, the training volumes
the shape: thresholds rest on the held-out volumes, which must stay like unseen scans.
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
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel, Corner
from SpatialARAnomalyLib.engine.model.checkpoint import Fit, load_checkpoint, save_checkpoint
from SpatialARAnomalyLib.engine.model.feature_store import release_pages
from SpatialARAnomalyLib.engine.model.gaussian import (
    fit_variance_map,
    second_moment,
    variance_at,
    whitener,
)
from SpatialARAnomalyLib.engine.progress import EpochFigures, Reporter
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaceArray, image_places
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, TrainingSpec, Variance

MIN_VARIANCE = 1e-12
"""Least variance, which keeps the NLL finite where a channel never varies."""

TokenArray = Float16[np.ndarray, "_ c h w"]

Grids = tuple[TokenArray, PlaceArray]
"""Tokens and positions of a volume's images."""

Image = tuple[Grids, int]
"""An image: the grids of its volume, and its index there."""

Batch = tuple[Float[Tensor, "b c h w"], Float[Tensor, "b p h w"]]
"""Tokens and their positions, on the model's device."""


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
    training_places: Sequence[PlaceArray] | None = None,
    held_out_places: Sequence[PlaceArray] | None = None,
) -> Fit:
    """Train a model; return that of the epoch with the lowest held-out NLL, its variance set.

    Args:
        training_tokens: One array [image, c, h, w] per volume.
        held_out_tokens: Likewise.
        autoregressive: The network and its variance.
        training: Epochs, learning rate and noise.
        report: Receives progress and epochs.
        device: The device to compute on.
        checkpoint: File to save every epoch to. A later call with the same `fingerprint`
            reports the saved epochs and resumes; the result is that of an uninterrupted run.
        fingerprint: Identifies volumes and settings.
        training_places: One array [image, 4, h, w] of positions per volume
            (`slice_stack`); by default images are taken as single ones.
        held_out_places: Likewise.

    Raises:
        SpatialARError: `training-diverged`, `tokens-not-finite`, or those of a checkpoint.
        Cancelled: Through `report`.
    """
    training_grids = _with_places(training_tokens, training_places)
    held_out_grids = _with_places(held_out_tokens, held_out_places)
    with torch.random.fork_rng(devices=[]):
        # Weights are drawn on the CPU; `torch.manual_seed` would reseed every GPU too.
        torch.default_generator.manual_seed(training.seed)
        model = AutoregressiveModel(autoregressive, training_tokens[0].shape[1]).to(device)
    if autoregressive.whitened:
        _fit_token_scale(model, training_grids, training.batch_size, report)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    run = Fit(model)
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(checkpoint, fingerprint, run, optimizer)
        for figures in run.curve:
            report.epoch(figures)
    images = [(grids, index) for grids in training_grids for index in range(len(grids[0]))]
    batches = -(-len(images) // training.batch_size)
    for epoch in range(len(run.curve) + 1, training.epochs + 1):
        squared_error, done = 0.0, (epoch - 1) * batches
        for batch_error in _train_epoch(model, optimizer, images, training, epoch, report):
            squared_error += batch_error
            done += 1
            if done < epoch * batches:  # the last is reported when the epoch is saved
                report.progress(done, training.epochs * batches, "batch")
        moment = _mean_moment(model, held_out_grids, training.batch_size, report)
        _check_finite(epoch, squared_error, moment)
        _set_variance(model, moment)
        figures = _note_epoch(run, epoch, squared_error / len(images))
        report.epoch(figures)
        if checkpoint is not None:
            save_checkpoint(checkpoint, fingerprint, run, optimizer)
        report.progress(done, training.epochs * batches, "batch")
    model.load_state_dict(run.best_weights)
    if autoregressive.rich_variance:
        _fit_rich_variance(model, training_grids, held_out_grids, training.batch_size, report)
    return run


def _with_places(tokens: Sequence[TokenArray], places: Sequence[PlaceArray] | None) -> list[Grids]:
    if places is None:
        places = []
        for one in tokens:
            place = image_places(1, *one.shape[2:])
            # Without copies, as they are the same for every image.
            places.append(np.broadcast_to(place, (len(one), *place.shape[1:])))
    return list(zip(tokens, places, strict=True))


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
) -> Iterator[float]:
    """Train one epoch; yield the squared error of every batch, summed over its images."""
    generator = _epoch_generator(training.seed, epoch)
    order = torch.randperm(len(images), generator=generator).tolist()
    for start in range(0, len(images), training.batch_size):
        report.check_cancelled()
        chosen = order[start : start + training.batch_size]
        tokens, places = _gather([images[index] for index in chosen], model.device)
        target = model.scaled(tokens)
        corner = model.corners[0]
        if len(model.corners) > 1:
            corner = model.corners[int(torch.randint(len(model.corners), (), generator=generator))]
        seen = target
        if float(torch.rand((), generator=generator)) < training.noise_probability:
            seen = add_feature_noise(target, training.noise_scale, generator)
        optimizer.zero_grad(set_to_none=True)
        loss = _loss(model.predict(seen, places, corner), target, model.weights(places))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield float(loss.detach()) * len(chosen)


def _loss(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    weights: Float[Tensor, "b h w"],
) -> Float[Tensor, ""]:
    """Return the mean squared error over the tokens with weight."""
    if bool((weights == 1).all()):
        return F.mse_loss(prediction, target)
    error = (prediction - target).square().mean(dim=1)
    return (error * weights).sum() / weights.sum().clamp_min(1.0)


def _check_finite(epoch: int, squared_error: float, moment: Float[Tensor, "*c"]) -> None:
    # Before the variance is set: only finite moments have a whitener.
    if not (math.isfinite(squared_error) and bool(moment.isfinite().all())):
        raise SpatialARError(
            "training-diverged", f"The loss must stay finite; it was not in epoch {epoch}."
        )


def _note_epoch(run: Fit, epoch: int, train_mse: float) -> EpochFigures:
    """Add the epoch's figures to `run`, with its weights if it is the best so far."""
    # The mean square is 1, as the variance is that of the same residuals.
    nll = 0.5 * (math.log(2 * math.pi) + run.model.log_variance + 1.0)
    figures = EpochFigures(epoch=epoch, train_mse=train_mse, held_out_nll=nll)
    is_best = nll < run.best_nll
    run.curve.append(figures)
    if is_best:
        run.best_epoch = epoch
        run.best_weights = {
            name: value.detach().cpu().clone() for name, value in run.model.state_dict().items()
        }
    return figures


def _gather(images: Sequence[Image], device: torch.device | str) -> Batch:
    tokens = np.stack([grids[0][index] for grids, index in images]).astype(np.float32)
    places = np.stack([grids[1][index] for grids, index in images]).astype(np.float32)
    for mapped in {id(one): one for grids, _ in images for one in grids}.values():
        release_pages(mapped)
    return torch.from_numpy(tokens).to(device), torch.from_numpy(places).to(device)


def _batches(
    grids: Grids, batch_size: int, device: torch.device | str, report: Reporter
) -> Iterator[Batch]:
    """Yield a volume's images in order."""
    for start in range(0, len(grids[0]), batch_size):
        report.check_cancelled()
        stop = min(start + batch_size, len(grids[0]))
        yield _gather([(grids, index) for index in range(start, stop)], device)


def _rows(values: Float[Tensor, "b c h w"], weights: Float[Tensor, "b h w"]) -> Tensor:
    """Return the values [n, c] of the tokens with weight."""
    return values.movedim(1, -1)[weights > 0]


@torch.inference_mode()
def _fit_token_scale(
    model: AutoregressiveModel, volumes: Sequence[Grids], batch_size: int, report: Reporter
) -> None:
    """Set mean and whitener from the tokens in the body of the training volumes."""
    count, channels = 0, model.channels
    total = torch.zeros(channels, dtype=torch.float64)
    products = torch.zeros(channels, channels, dtype=torch.float64)
    for grids in volumes:
        for tokens, places in _batches(grids, batch_size, "cpu", report):
            inside = _rows(tokens, model.weights(places))
            count += len(inside)
            total += inside.double().sum(dim=0)
            products += second_moment(inside, Variance.FULL)
    mean = total / max(1, count)
    covariance = products / max(1, count) - torch.outer(mean, mean)
    if not bool(covariance.isfinite().all()):
        raise SpatialARError(
            "tokens-not-finite",
            "The encoder gave tokens of the training scans that are not finite.",
        )
    covariance += MIN_VARIANCE * torch.eye(channels)
    model.token_mean.copy_(mean.float())
    model.token_whitener.copy_(whitener(covariance).float())


@torch.inference_mode()
def _mean_moment(
    model: AutoregressiveModel, volumes: Sequence[Grids], batch_size: int, report: Reporter
) -> Float[Tensor, "*c"]:
    """Return the mean of eᵢ² per channel, or of eᵢeⱼ, each volume with the same weight.

    Over all directions; in float64 on the CPU.
    """
    moments = []
    for grids in volumes:
        total, count = torch.zeros((), dtype=torch.float64), 0
        for tokens, places in _batches(grids, batch_size, model.device, report):
            weights = model.weights(places)
            for corner in model.corners:
                inside = _rows(_residuals(model, tokens, places, corner), weights)
                total = total + second_moment(inside, model.spec.variance)
                count += len(inside)
        if count:
            moments.append(total / count)
    return torch.stack(moments).mean(dim=0)


def _residuals(
    model: AutoregressiveModel,
    tokens: Float[Tensor, "b c h w"],
    places: Float[Tensor, "b p h w"],
    corner: Corner,
) -> Float[Tensor, "b c h w"]:
    with exact_float32():
        scaled = model.scaled(tokens)
        return scaled - model.predict(scaled, places, corner)


def _set_variance(model: AutoregressiveModel, moment: Float[Tensor, "*c"]) -> None:
    """Set the variance from the second moments of held-out residuals."""
    if model.spec.variance is Variance.FULL:
        regularized = moment + MIN_VARIANCE * torch.eye(len(moment))
        model.residual_whitener.copy_(whitener(regularized).float())
        return
    if model.spec.variance is Variance.FIXED:
        moment = moment.mean().expand_as(moment)
    model.variance.copy_(moment.clamp_min(MIN_VARIANCE).float())


@torch.inference_mode()
def _fit_rich_variance(
    model: AutoregressiveModel,
    training: Sequence[Grids],
    held_out: Sequence[Grids],
    batch_size: int,
    report: Reporter,
) -> None:
    """Set covariance and variance map: their shape from the training volumes.

    Their level makes the mean square of held-out residuals 1.
    """

    def squares(volumes: Sequence[Grids]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for grids in volumes:
            for tokens, places in _batches(grids, batch_size, model.device, report):
                for corner in model.corners:
                    residuals = _residuals(model, tokens, places, corner)
                    yield model.squares(residuals), places, model.weights(places)

    if model.spec.variance is Variance.FULL:
        _set_variance(model, _mean_moment(model, training, batch_size, report))
    variance_map = None
    if model.spec.position_variance:
        variance_map = fit_variance_map(squares(training)).to(model.device)
    total = count = 0.0
    for found, places, weights in squares(held_out):
        if variance_map is not None:
            found = found / variance_at(variance_map, places)
        total += float((found * weights).sum())
        count += float(weights.sum())
    level = max(total / max(count, 1.0), MIN_VARIANCE)
    if model.spec.variance is Variance.FULL:
        model.residual_whitener.div_(math.sqrt(level))
    else:
        model.variance.mul_(level)
    if variance_map is not None:
        model.variance_map.copy_(variance_map)
