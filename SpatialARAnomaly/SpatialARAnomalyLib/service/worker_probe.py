"""What this machine has: Python, packages and devices. Nothing of it need be there."""

import importlib
import importlib.util
import os
import platform
import re
from collections.abc import Callable, Iterator
from typing import Any

from .packages import REQUIREMENTS, installed_version
from .redaction import without_folders

PACKAGES = (
    *(re.split("[<>=!~; ]", requirement)[0] for requirement in REQUIREMENTS),
    *("numpy", "scipy", "SimpleITK", "pydicom"),
)
"""What is needed, and what comes with it or with Slicer and matters as much."""

_MODULES = {
    "huggingface-hub": "huggingface_hub",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
"""Packages whose modules are called otherwise."""


def probe() -> dict[str, Any]:
    """What the result of a probe says.

    `import_errors` has the packages that are there, in whole or in part, and
    cannot be used: metadata alone do not tell an installation that was interrupted.
    """
    devices = [_device("cpu", platform.processor() or platform.machine(), *_memory())]
    import_errors = {}
    for package in PACKAGES:
        error = _import_error(package)
        if error is not None:
            import_errors[package] = error
    if _is_there("torch") and "torch" not in import_errors:
        devices += _accelerators()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {package: installed_version(package) for package in PACKAGES},
        "devices": devices,
        "import_errors": import_errors,
    }


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _import_error(package: str) -> str | None:
    """Why a package cannot be used although it is there; None if it can, or is not there."""
    module = _MODULES.get(package, package)
    if not _is_there(module):
        return None if installed_version(package) is None else "its files are missing"
    try:
        _TRIALS.get(package, importlib.import_module)(module)
    except Exception as error:  # a broken installation raises what it likes
        return without_folders(f"{type(error).__name__}: {error}")
    return None


def _try_torch(module: str) -> None:
    """Compute something, and exchange it with numpy: a build for another numpy cannot."""
    import torch

    if not (torch.zeros(2) + 1).numpy().all():
        raise ValueError("1 is not 1")
    list(_accelerators())


def _try_transformers(module: str) -> None:
    """Load the network that embeds slices; what torch lacks is not transformers' fault."""
    importlib.import_module(module)
    if _import_error("torch") is None and _is_there("torch"):
        from transformers import DINOv3ViTModel

        if not callable(DINOv3ViTModel):
            raise TypeError("DINOv3ViTModel is no class")


_TRIALS: dict[str, Callable[[str], object]] = {
    "torch": _try_torch,
    "transformers": _try_transformers,
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
