"""Whether a training has worked: dead channels, and a comparison with a trivial prediction."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor, nn

from SpatialARAnomalyLib.engine.model.autoregressive import MIN_VARIANCE, AutoregressiveModel
from SpatialARAnomalyLib.engine.model.feature_store import release_pages

DEAD_SHARE = 0.5
"""Share of hidden channels without any response from which a network counts as dead."""

IMAGES = 16
"""Images of each held-out volume that the responses are taken from."""

TokenArray = Float16[np.ndarray, "_ c h w"]


def find_problems(
    model: AutoregressiveModel,
    held_out_nll: float,
    training_tokens: Sequence[TokenArray],
    held_out_tokens: Sequence[TokenArray],
) -> Iterator[tuple[str, str]]:
    """Yield code and text of what is wrong with a trained network.

    Args:
        model: The network of the best epoch.
        held_out_nll: NLL of the held-out volumes in nats per channel (`EpochFigures`).
        training_tokens: One array [image, c, h, w] per volume.
        held_out_tokens: Likewise.
    """
    trivial = trivial_nll(training_tokens, held_out_tokens)
    if held_out_nll >= trivial:
        yield (
            "model-not-learned",
            f"The model has not learned: its NLL of held-out scans is {held_out_nll:.3f}, that of "
            f"predicting the mean token everywhere {trivial:.3f}. Train for more epochs, or with "
            "more scans that are alike; do not use this model.",
        )
    dead = dead_share(model, held_out_tokens)
    if dead > DEAD_SHARE:
        yield (
            "channels-dead",
            f"{dead:.0%} of the network's hidden channels are zero in all held-out scans. Train "
            "again with a lower learning rate.",
        )


def trivial_nll(
    training_tokens: Sequence[TokenArray], held_out_tokens: Sequence[TokenArray]
) -> float:
    """Return the held-out NLL of predicting the mean token of the training, nats per channel.

    As the NLL of an epoch: each volume has the same weight, and the variance is that of the errors.
    """
    means = [_mean(tokens, np.zeros(tokens.shape[1]), 1) for tokens in training_tokens]
    center = np.mean(means, axis=0)
    square = np.mean([_mean(tokens, center, 2).mean() for tokens in held_out_tokens])
    return 0.5 * (math.log(2 * math.pi * max(float(square), MIN_VARIANCE)) + 1)


def _mean(
    tokens: TokenArray, center: Float[np.ndarray, " c"], power: int
) -> Float[np.ndarray, " c"]:
    """Return the mean of (tokens − center)^power by channel, reading an image at a time."""
    sums = [
        ((image.astype(np.float64) - center[:, None, None]) ** power).mean(axis=(1, 2))
        for image in tokens
    ]
    release_pages(tokens)
    return np.asarray(np.mean(sums, axis=0))


@torch.inference_mode()
def dead_share(model: AutoregressiveModel, volumes: Sequence[TokenArray]) -> float:
    """Return the share of hidden channels that are zero at every token of the volumes."""
    alive: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, _: object, output: Tensor) -> None:
        found = output.amax(dim=(0, 2, 3)) > 0
        alive[layer] = found | alive.get(layer, found)

    layers = [layer for layer in model.modules() if isinstance(layer, nn.ReLU)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    for tokens in volumes:
        few = np.linspace(0, len(tokens) - 1, min(IMAGES, len(tokens))).round().astype(int)
        for index in few:
            image = torch.from_numpy(tokens[index][None].astype(np.float32))
            model(image.to(model.device))
        release_pages(tokens)
    for hook in hooks:
        hook.remove()
    return 1.0 - float(torch.cat(list(alive.values())).float().mean()) if alive else 0.0
