"""Choosing the torch device, exact float32 arithmetic, and memory that runs out."""

import errno
import mmap
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING

from SpatialARAnomalyLib.engine.errors import DeviceError

if TYPE_CHECKING:
    import torch


THREAD_BYTES = 32 << 20
"""Memory that must be free where a thread is started: its stack, and room for its first steps."""


def choose_threads(count: int | None = None) -> None:
    """Set how PyTorch's threads wait, and how many there are; call it before torch is imported.

    By default OpenMP's threads spin where they wait for each other. On a machine that others load,
    two such threads were slower than one; threads that give their core away were faster. What the
    user's environment says stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if count is not None:
        os.environ["OMP_NUM_THREADS"] = str(count)


class Device(StrEnum):
    """Device that the user can choose."""

    AUTO = "auto"
    """The fastest available: CUDA, then Apple's MPS, then the CPU."""
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


def require_torch() -> None:
    """Raise `DeviceError` if torch is not installed, without importing it."""
    if find_spec("torch") is None:
        raise _torch_missing()


def _torch_missing() -> DeviceError:
    return DeviceError(
        "torch-missing",
        "Training and detection need torch and transformers; they are not installed.",
    )


def require_thread_memory() -> None:
    """Raise an error of too little memory (`is_out_of_memory`) where a thread could not start.

    Python waits for ever for the start of a thread that itself finds no memory for it.
    """
    mmap.mmap(-1, THREAD_BYTES).close()


_imports: threading.Thread | None = None
_no_memory: Exception | None = None
"""Why torch could not be imported; it cannot be again in this process, for odd reasons."""


def start_imports() -> None:
    """Import torch and transformers' DINOv3 in a thread, while the caller reads files.

    The imports take seconds. `resolve_device` waits for them; until then the caller must
    import neither. A failed import is repeated, and reported, at its first use.
    """
    global _imports
    require_thread_memory()
    _imports = threading.Thread(target=_import_all, name="imports of torch and transformers")
    _imports.start()


def _import_all() -> None:
    global _no_memory
    try:
        import torch  # noqa: F401
        from transformers import DINOv3ViTModel  # noqa: F401
    except Exception as error:
        if _no_memory is None and is_out_of_memory(error):
            _no_memory = error


def resolve_device(device: Device) -> "torch.device":
    """Return the torch device; raise `DeviceError` if it is not available.

    Raises an error of too little memory (`is_out_of_memory`) where torch cannot be loaded into it.
    """
    if _imports is not None:
        _imports.join()
    try:
        import torch
    except Exception as error:
        if _no_memory is not None:
            raise _no_memory from None
        if is_out_of_memory(error) or not isinstance(error, ImportError):
            raise
        raise _torch_missing() from None

    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device is Device.AUTO:
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    if (device is Device.CUDA and not has_cuda) or (device is Device.MPS and not has_mps):
        raise DeviceError(
            "device-missing",
            f"Device {device} is not available; torch {torch.__version__} does not find it.",
        )
    return torch.device(device.value)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 products in full precision, so that all devices share one calibration.

    By default cuDNN rounds the inputs of convolutions to 10 bits (TF32). A lowered
    `float32_matmul_precision` means TF32 on GPUs and bfloat16 on CPUs that support it;
    the caller's setting is restored afterwards.
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


_OUT_OF_MEMORY = (
    "DefaultCPUAllocator", "can't allocate memory", "out of memory", "Cannot allocate memory",
    "Failed to allocate memory", "bad allocation", "bad_alloc", "can't start new thread",
    "failed to map segment from shared object\0", "could not create a primitive\0",
    "could not execute a primitive\0", "could not create a memory",
)  # fmt: skip
"""Words of other errors of too little memory: PyTorch's on the CPU and on MPS, oneDNN's, ITK's, and
those of threads and libraries that cannot be loaded. Where \0, the message must end: on a disk from
which nothing may be run it goes on."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if the machine or the GPU ran out of memory; works without torch."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (
            isinstance(error, RuntimeError | ImportError)
            and any(one in f"{error}\0" for one in _OUT_OF_MEMORY)
        )
        or (error.__cause__ is not None and is_out_of_memory(error.__cause__))
    )


def release_gpu_memory() -> None:
    """Release PyTorch's cached GPU memory (`torch.cuda.empty_cache`)."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
