"""Batch sizes that fit a device, embedding in batches, and prefetching of images."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from SpatialARAnomalyLib.engine.device import (
    is_out_of_memory,
    release_gpu_memory,
    require_thread_memory,
)
from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
from SpatialARAnomalyLib.engine.encoder.key_layouts import CONVNEXT, VIT
from SpatialARAnomalyLib.engine.progress import Reporter

ItemT = TypeVar("ItemT")

CACHED_BYTES = 10_000_000
"""CPU: upper bound of the widest layer of a batch, in bytes. Measured with a ViT-S/16 at 448²
on two cores with 32 MB of cache: one or two images (4.8 MB each) reach 0.80 of the rate of
matrix products, four 0.73, eight 0.64."""

WIDEST = {VIT: 4, CONVNEXT: 32}
"""Values of the widest layer per channel of a token: in the MLP, or in the first stage."""

LIVE_LAYERS = 4
"""GPU: number of such layers in memory at once: residual, queries, keys, values, MLP."""

MEMORY_SHARE = 0.5
"""GPU: share of the free memory for a batch; fragmentation and scoring need the rest."""

MOST_IMAGES = 64
"""Largest batch; no device is faster with more images."""


def images_at_once(encoder: Encoder, size_px: int) -> int:
    """Return the number of square images of this side to embed together on the encoder's device."""
    card = encoder.card
    values = card.channels * (size_px // card.patch_px) ** 2
    layer_bytes = 4 * WIDEST.get(card.architecture, WIDEST[VIT]) * values
    free = free_bytes(encoder.device)
    if free is None:
        fitting = CACHED_BYTES // layer_bytes
    else:
        pixel_bytes = 4 * 4 * size_px**2
        fitting = int(MEMORY_SHARE * free) // (LIVE_LAYERS * layer_bytes + pixel_bytes)
    return max(1, min(fitting, MOST_IMAGES))


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU in bytes; None for the CPU."""
    if device.type == "cuda":
        # Memory that torch has cached is free, too.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return None


def embed_batches(
    images: Float[Tensor, "n 1 s t"], encoder: Encoder, report: Reporter, at_once: int
) -> tuple[Float[Tensor, "n c h w"], int]:
    """Embed all images; return their tokens and the batch size at the end.

    When the device runs out of memory, the batch size is halved, with a notice. Raises the
    device's error when a single image is too large, and `Cancelled` through `report`.
    """
    done: list[Float[Tensor, "b c h w"]] = []
    start = 0
    while start < len(images):
        report.check_cancelled()
        try:
            done.append(encoder.embed(images[start : start + at_once]))
        except Exception as error:
            if at_once == 1 or not is_out_of_memory(error):
                raise
            at_once = max(1, min(at_once, len(images) - start) // 2)
        else:
            start += at_once
            continue
        # Outside of `except`, whose traceback keeps tensors in memory.
        release_gpu_memory()
        report.notice(
            "batch-halved",
            f"The device has too little free memory; {at_once} "
            f"{'image is' if at_once == 1 else 'images are'} embedded at once from here on.",
        )
    return torch.cat(done), at_once


def groups(indices: list[int], size: int) -> Iterator[list[int]]:
    """Yield the indices in order, `size` at a time."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def prefetch(items: Iterable[ItemT], depth: int = 2) -> Iterator[ItemT]:
    """Yield the items in order while a thread makes up to `depth` of them in advance.

    The CPU prepares images while a GPU embeds. An error of `items` is raised after the items
    before it. The thread ends when this generator is closed.
    """
    source, end = iter(items), object()
    require_thread_memory()
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        waiting = deque(pool.submit(next, source, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, source, end))
            yield cast(ItemT, item)
    finally:
        pool.shutdown(cancel_futures=True)
