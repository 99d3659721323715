"""Where torch computes: as asked, or an error; never something else in silence."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING

from SpatialARAnomalyLib.engine.errors import DeviceError

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
    """Raise `DeviceError` with the way out where torch is not installed; imports nothing."""
    if find_spec("torch") is None:
        raise _torch_missing()


def _torch_missing() -> DeviceError:
    return DeviceError(
        "torch-missing",
        "Training and detection need torch and transformers; they are not installed.",
    )


_imports: threading.Thread | None = None


def start_imports() -> None:
    """Import torch and transformers' DINOv3 in a thread, while the caller reads files.

    The imports take seconds. `resolve_device` waits for them; until then the caller must
    import neither. An import that fails is tried again, and reported, where it is needed.
    """
    global _imports
    _imports = threading.Thread(target=_import_all, name="imports of torch and transformers")
    _imports.start()


def _import_all() -> None:
    with suppress(Exception):
        import torch  # noqa: F401
        from transformers import DINOv3ViTModel  # noqa: F401


def resolve_device(asked: Device) -> "torch.device":
    """The torch device; raises `DeviceError` where the one asked for is not there."""
    if _imports is not None:
        _imports.join()
    try:
        import torch
    except ImportError:
        raise _torch_missing() from None

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
    """Compute float32 products in full, so that all devices share one calibration.

    By default cuDNN rounds the inputs of convolutions to 10 bits (TF32). A program that
    lowered PyTorch's `float32_matmul_precision` would get TF32 on GPUs, and bfloat16 on
    CPUs with units for it; its setting is restored afterwards.
    """
    import torch
    from torch.backends import cudnn

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


OUT_OF_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "out of memory")
"""Words of torch's out-of-memory errors."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the machine or of the GPU."""
    # Told by name and words: torch need not be loaded to know its out-of-memory
    # errors, which are plain RuntimeErrors on the CPU and on MPS.
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or told


def return_memory() -> None:
    """Give what torch holds of a GPU's memory for later back to the GPU."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
