"""A volume's tokens, and their NLL on the volume's own voxels."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from SpatialARAnomalyLib.engine.device import exact_float32
from SpatialARAnomalyLib.engine.encoder.batching import (
    embed_batches,
    groups,
    images_at_once,
    prefetch,
)
from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaceArray, SliceStack

SCORED_AT_ONCE = 8
"""Images scored together: what a layer prepares of its weights is then done for all."""


def embed_slices(
    stack: SliceStack, encoder: Encoder, report: Reporter
) -> Iterator[Float[Tensor, "t c h w"]]:
    """The tokens of every slice that holds some of the body, slice by slice, on the device.

    Asks `report` between batches whether to stop; counting is the caller's. The first
    batch is one slice, so that progress is seen early. A GPU embeds while the next images
    are made; on the CPU both would want the same cores.
    """
    at_once = images_at_once(encoder, stack.rows.spec.size_px)

    def batches() -> Iterator[Float[np.ndarray, "n 1 s s"]]:
        rest = groups(stack.indices[1:], max(1, at_once // stack.tiles))
        for chosen in (stack.indices[:1], *rest):
            yield np.concatenate([stack.images(index) for index in chosen])

    made = batches() if encoder.device.type == "cpu" else prefetch(batches())
    for images in made:
        tokens, at_once = embed_batches(torch.from_numpy(images), encoder, report, at_once)
        yield from torch.split(tokens, stack.tiles)


@torch.inference_mode()
def slice_nll(
    tokens: Float[Tensor, "t c h w"] | Float[np.ndarray, "t c h w"],
    model: AutoregressiveModel,
    places: PlaceArray | None = None,
) -> Float[np.ndarray, "t h w"]:
    """The NLL of every token of one slice's tiles (or of several), in nats per channel.

    Without places the tiles are images that stand for themselves.
    """
    where = None if places is None else torch.from_numpy(places).to(model.device)
    with exact_float32():
        return model.nll(_tensor(tokens).to(model.device), where).cpu().numpy()


def _tensor(tokens: Float[Tensor, "t c h w"] | Float[np.ndarray, "t c h w"]) -> Tensor:
    """The tokens in float32; a store's are half as long."""
    if isinstance(tokens, Tensor):
        return tokens
    return torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.float32))


def score_slices(
    stack: SliceStack,
    tokens: Iterable[Float[Tensor, "t c h w"] | Float[np.ndarray, "t c h w"]],
    model: AutoregressiveModel,
) -> Iterator[Float[np.ndarray, "t h w"]]:
    """The NLL of the tokens of every slice of `stack.indices`, some slices at a time."""
    waiting: list[Float[Tensor, "t c h w"]] = []
    at_once = max(1, SCORED_AT_ONCE // stack.tiles)
    for count, one in enumerate(tokens, start=1):
        waiting.append(_tensor(one))
        if len(waiting) == at_once or count == len(stack.indices):
            where = stack.indices[count - len(waiting) : count]
            places = np.concatenate([stack.places(index) for index in where])
            yield from np.split(slice_nll(torch.cat(waiting), model, places), len(waiting))
            waiting = []


def nll_volume(
    stack: SliceStack, encoder: Encoder, model: AutoregressiveModel, report: Reporter
) -> Float[np.ndarray, "k j i"]:
    """The NLL of every voxel on the volume's own grid, in nats per channel.

    Outside the body or the field of view it is the lowest value the model can
    give (`AutoregressiveModel.lowest_nll`), so that an overlay is clear there.
    """

    def counted() -> Iterator[Float[Tensor, "t c h w"]]:
        for done, one in enumerate(embed_slices(stack, encoder, report), start=1):
            yield one
            report.progress(done, len(stack.indices), "slice")

    nll = list(score_slices(stack, counted(), model))
    return stack.volume_from_tokens(nll, outside=model.lowest_nll)
