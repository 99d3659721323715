"""Where torch computes: as asked, or an error; never something else in silence."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

from .errors import DeviceError

if TYPE_CHECKING:
    import torch


class Device(StrEnum):
    """What the user may ask for."""

    AUTO = "auto"
    """The fastest there is: CUDA, then Apple's MPS, then the CPU."""
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


def require_torch() -> None:
    """Raise `DeviceError` with the way out where torch is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise DeviceError(
            "torch-missing",
            "Training and detection need torch and transformers; they are not installed.",
        ) from None


def resolve_device(asked: Device) -> "torch.device":
    """The torch device; raises `DeviceError` where the one asked for is not there."""
    require_torch()
    import torch

    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if asked is Device.AUTO:
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    if (asked is Device.CUDA and not has_cuda) or (asked is Device.MPS and not has_mps):
        raise DeviceError(
            "device-missing",
            f"Device {asked} was asked for; torch {torch.__version__} finds none here.",
        )
    return torch.device(asked.value)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Convolutions in full float32 on CUDA too, so that all devices share one calibration.

    cuDNN would by default round their inputs to 10 bits (TF32).
    """
    from torch.backends import cudnn

    with cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=True, allow_tf32=False):
        yield
