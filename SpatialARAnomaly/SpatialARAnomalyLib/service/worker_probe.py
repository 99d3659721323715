"""What this machine has: Python, packages and devices. Nothing of it need be there."""

import os
import platform
from collections.abc import Iterator
from typing import Any

from .packages import installed_version
from .redaction import without_folders

PACKAGES = (
    "torch",
    "transformers",
    "huggingface-hub",
    "safetensors",
    "numpy",
    "scipy",
    "scikit-image",
    "SimpleITK",
    "nibabel",
    "pydicom",
    "slicerio",
    "matplotlib",
    "jaxtyping",
    "filelock",
    "rich",
    "typer",
)


def probe() -> dict[str, Any]:
    """What the result of a probe says."""
    devices = [_device("cpu", platform.processor() or platform.machine(), *_memory())]
    torch_error = None
    try:
        devices += _accelerators()
    except Exception as error:  # a broken installation raises what it likes
        torch_error = without_folders(f"{type(error).__name__}: {error}")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {package: installed_version(package) for package in PACKAGES},
        "devices": devices,
        "torch_error": torch_error,
    }


def _device(device: str, name: str, memory: int | None, free: int | None) -> dict[str, Any]:
    return {"device": device, "name": name, "memory_bytes": memory, "free_bytes": free}


def _memory() -> tuple[int | None, int | None]:
    """Bytes of the machine's memory, and how much of it is free, where Python can tell."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None, None


def _accelerators() -> Iterator[dict[str, Any]]:
    """The devices beside the CPU that torch can compute on."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, memory = torch.cuda.mem_get_info(index)
            name = "cuda" if index == 0 else f"cuda:{index}"
            yield _device(name, torch.cuda.get_device_name(index), memory, free)
    if torch.backends.mps.is_available():
        yield _device("mps", "Apple GPU", None, None)
