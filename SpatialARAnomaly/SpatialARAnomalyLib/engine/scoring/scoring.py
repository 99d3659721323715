"""Tokens of a volume, and their NLL on the volume's voxels."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from SpatialARAnomalyLib.engine.cards.rim import RimCorrection
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
from SpatialARAnomalyLib.engine.slices.slice_stack import SliceStack

Tokens = Float[Tensor, "t c h w"] | Float[np.ndarray, "t c h w"]
"""Tokens of the tiles of a slice: a tensor, or an array of a feature store."""

SCORED_AT_ONCE = 8
"""Number of images scored together, so that layers prepare their weights less often."""


def embed_slices(
    stack: SliceStack, encoder: Encoder, report: Reporter
) -> Iterator[Float[Tensor, "t c h w"]]:
    """Yield the tokens of every slice of `stack.indices`, on the encoder's device.

    Raises `Cancelled` through `report` between batches; the caller reports progress. The
    first batch is one slice, for early progress. A GPU embeds while the next images are
    made; on the CPU both would compete for the same cores.
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
def slice_nll(tokens: Tokens, model: AutoregressiveModel) -> Float[np.ndarray, "t h w"]:
    """Return the NLL of every token of tiles of one slice or several, in nats per channel."""
    with exact_float32():
        return model.nll(_tensor(tokens).to(model.device)).cpu().numpy()


def _tensor(tokens: Tokens) -> Tensor:
    """Return tokens as a tensor; those of a feature store are converted to float32."""
    if isinstance(tokens, Tensor):
        return tokens
    return torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.float32))


def score_slices(
    stack: SliceStack,
    tokens: Iterable[Tokens],
    model: AutoregressiveModel,
    rim: RimCorrection | None = None,
) -> Iterator[Float[np.ndarray, "t h w"]]:
    """Yield the NLL of the tokens of every slice of `stack.indices`, corrected near the edge."""
    rest = iter(tokens)
    for indices in groups(stack.indices, max(1, SCORED_AT_ONCE // stack.tiles)):
        batch = torch.cat([_tensor(one) for one in islice(rest, len(indices))])
        nll = slice_nll(batch, model)
        if rim is not None:
            distances = np.concatenate([stack.edge_distances(index) for index in indices])
            nll = rim.lower(nll, distances, model.lowest_nll)
        yield from np.split(nll, len(indices))


def mean_token(stack: SliceStack, index: int, tokens: Tokens) -> Float[np.ndarray, "m c"]:
    """Return the mean token in the body of one slice as a row; no row without such a token."""
    values = _tensor(tokens)
    inside = torch.from_numpy(stack.tokens_inside(index)).to(values.device)
    chosen = values.movedim(1, -1)[inside]
    return chosen.mean(dim=0, keepdim=True)[: len(chosen)].cpu().numpy()


def nll_volume(
    stack: SliceStack,
    encoder: Encoder,
    model: AutoregressiveModel,
    report: Reporter,
    rim: RimCorrection | None = None,
    on_tokens: Callable[[int, Tokens], None] = lambda index, tokens: None,
) -> Float[np.ndarray, "k j i"]:
    """Return the NLL of every voxel of the volume, in nats per channel.

    Outside the body or the field of view it is the lowest possible NLL
    (`AutoregressiveModel.lowest_nll`), so that an overlay is transparent there. `on_tokens`
    is called with the index of every slice and its tokens.
    """

    def report_progress() -> Iterator[Float[Tensor, "t c h w"]]:
        for done, one in enumerate(embed_slices(stack, encoder, report), start=1):
            on_tokens(stack.indices[done - 1], one)
            report.progress(done, len(stack.indices), "slice")
            yield one

    nll = list(score_slices(stack, report_progress(), model, rim))
    return stack.volume_from_tokens(nll, outside=model.lowest_nll)
