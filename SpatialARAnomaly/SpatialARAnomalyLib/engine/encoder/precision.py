"""Precision of the encoder's matrix products: float32, or bfloat16 by PyTorch's autocast.

Tokens in bfloat16 differ from those in float32 by about 1 %, so a model records the
precision its normal scans were embedded in, and every scan is embedded in the same.
DINOv3's authors advise autocast; float16 overflows (facebookresearch/dinov3 issue 181).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from SpatialARAnomalyLib.engine.device import exact_float32
from SpatialARAnomalyLib.engine.specs import Precision


def best_precision(device: torch.device) -> Precision:
    """Return the precision of a new model's encoder where the user does not choose.

    bfloat16 on NVIDIA GPUs with units for it (compute capability 8.0, Ampere), float32
    everywhere else: every CPU computes alike, whatever its instruction set.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return Precision.BFLOAT16
    return Precision.FLOAT32


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run PyTorch's autocast on `device` for bfloat16; compute in full float32 otherwise."""
    rounded = precision is Precision.BFLOAT16
    with exact_float32(), torch.autocast(device.type, torch.bfloat16, enabled=rounded):
        yield
