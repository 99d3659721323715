"""How the encoder multiplies: in float32, or in bfloat16 where the hardware gains by it.

The tokens of one and the other differ by rounding, so a model keeps what its normals
were embedded with, and scans are embedded likewise, on any device (DINOv3's authors
advise autocast; float16 overflows: facebookresearch/dinov3 #181).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .device import exact_float32
from .specs import Precision


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32: GPUs since Ampere, some CPUs."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, lambda: False)() for name in names)
    return False


def best_precision(device: torch.device) -> Precision:
    """What a new model's encoder multiplies in where the user does not say."""
    return Precision.BFLOAT16 if has_bfloat16_units(device) else Precision.FLOAT32


@contextmanager
def multiplying(precision: Precision, device: torch.device) -> Iterator[None]:
    """Inside, products are taken in this precision, all else in float32.

    Without units for bfloat16 its rounding is imitated: factors and results are
    rounded, the product itself is taken in float32 as the units do. Not faster, but
    what was calibrated on a GPU holds on any CPU.
    """
    with exact_float32():
        if precision is Precision.FLOAT32:
            yield
        elif has_bfloat16_units(device):
            with torch.autocast(device.type, torch.bfloat16):
                yield
        else:
            with _RoundedProducts():
                yield


_PRODUCTS: tuple[Callable[..., Any], ...] = (
    F.linear,
    F.conv2d,
    F.scaled_dot_product_attention,
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
)
"""Those of the encoders that autocast takes in bfloat16."""


class _RoundedProducts(TorchFunctionMode):
    """Rounds to bfloat16 what goes into products and what comes out."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS:
            return func(*args, **kwargs)
        rounded = {name: _rounded(value) for name, value in kwargs.items()}
        return _rounded(func(*map(_rounded, args), **rounded))


def _rounded(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.bfloat16().float()
    return value
