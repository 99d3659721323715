"""A volume's tokens, and their NLL on the volume's own voxels."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float

from .autoregressive import AutoregressiveModel
from .device import exact_float32
from .encoder import Encoder
from .progress import Reporter
from .slicing import SliceStack
from .token_place import PlaceArray

IMAGES_PER_BATCH = 8
"""Images embedded at once: enough to keep a CPU busy, small enough for its memory."""


def embed_slices(
    stack: SliceStack, encoder: Encoder, report: Reporter
) -> Iterator[Float[np.ndarray, "t c h w"]]:
    """The tokens of every slice that holds some of the body, slice by slice, float32.

    Asks `report` between batches whether to stop; counting is the caller's.
    """
    slices_per_batch = max(1, IMAGES_PER_BATCH // stack.tiles)
    indices = stack.indices
    for start in range(0, len(indices), slices_per_batch):
        report.check_cancelled()
        chosen = indices[start : start + slices_per_batch]
        images = np.concatenate([stack.images(index) for index in chosen])
        tokens = encoder.embed(torch.from_numpy(images)).cpu().numpy()
        yield from tokens.reshape(len(chosen), stack.tiles, *tokens.shape[1:])


@torch.inference_mode()
def slice_nll(
    tokens: Float[np.ndarray, "t c h w"],
    model: AutoregressiveModel,
    places: PlaceArray | None = None,
) -> Float[np.ndarray, "t h w"]:
    """The NLL of every token of one slice's tiles, in nats per channel.

    Without places the tiles are images that stand for themselves.
    """
    on_device = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.float32)).to(model.device)
    where = None if places is None else torch.from_numpy(places).to(model.device)
    with exact_float32():
        return model.nll(on_device, where).cpu().numpy()


def nll_volume(
    stack: SliceStack, encoder: Encoder, model: AutoregressiveModel, report: Reporter
) -> Float[np.ndarray, "k j i"]:
    """The NLL of every voxel on the volume's own grid, in nats per channel.

    Outside the body or the field of view it is the lowest value the model can
    give (`AutoregressiveModel.lowest_nll`), so that an overlay is clear there.
    """
    nll: list[Float[np.ndarray, "t h w"]] = []
    for index, tokens in zip(stack.indices, embed_slices(stack, encoder, report), strict=True):
        nll.append(slice_nll(tokens, model, stack.places(index)))
        report.progress(len(nll), len(stack.indices), "slice")
    return stack.put_back(nll, outside=model.lowest_nll)
