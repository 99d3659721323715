"""The worker's jobs of the set-up: probe this machine, verify and use an offline kit.

The probe needs no package: it reports Python, packages and devices as they are.
"""

import importlib
import importlib.util
import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import Spec
from SpatialARAnomalyLib.service.redaction import redact_folders
from SpatialARAnomalyLib.service.setup.kit_manifest import check_fits, verify_kit
from SpatialARAnomalyLib.service.setup.packages import REQUIREMENTS, installed_version

PACKAGES = (
    *(re.split("[<>=!~; ]", requirement)[0] for requirement in REQUIREMENTS),
    *("numpy", "scipy", "SimpleITK", "pydicom"),
)
"""Packages to report: the required ones, and those that come with them or with Slicer."""

_MODULES = {
    "huggingface-hub": "huggingface_hub",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
"""Module by package, where the names differ."""


@dataclass(frozen=True, kw_only=True)
class KitInputs(Spec):
    """An offline kit."""

    kit: str
    """Its folder."""


def verify_kit_files(inputs: KitInputs, report: Reporter) -> dict[str, Any]:
    """Check every file of a kit, and that it is for this Python; return its contents.

    Raises `SetupError`, and `Cancelled` through `report`.
    """
    manifest = verify_kit(Path(inputs.kit), report)
    check_fits(manifest)
    return {
        "requirements": list(manifest.requirements),
        "encoders": [encoder.hub_id for encoder in manifest.encoders],
        "size_bytes": manifest.size_bytes,
    }


def install_kit_weights(inputs: KitInputs, report: Reporter) -> dict[str, Any]:
    """Verify a kit, copy its weights into the hub's cache, and return their hub ids.

    Raises `SetupError`, `EncoderError`, `OutputError`, and `Cancelled` through `report`.
    """
    from SpatialARAnomalyLib.service.setup.kit import install_weights

    kit = Path(inputs.kit)
    return {"encoders": list(install_weights(kit, verify_kit(kit, report), report))}


def probe() -> dict[str, Any]:
    """Return the versions of Python and the packages, the devices, and what cannot be imported.

    `import_errors` has the packages that are installed, in whole or in part, and cannot be used:
    metadata alone do not reveal an interrupted installation.
    """
    devices = [_device("cpu", platform.processor() or platform.machine(), *_memory())]
    errors = {package: _import_error(package) for package in PACKAGES}
    import_errors = {package: error for package, error in errors.items() if error is not None}
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
    """Return why a package that is present cannot be used; None if it can, or is absent."""
    module = _MODULES.get(package, package)
    if not _is_there(module):
        return None if installed_version(package) is None else "its files are missing"
    try:
        _TRIALS.get(package, importlib.import_module)(module)
    except Exception as error:  # a broken installation can raise anything
        return redact_folders(f"{type(error).__name__}: {error}")
    return None


def _try_torch(module: str) -> None:
    """Compute, and pass the result to numpy, which a build for another numpy cannot."""
    import torch

    if not (torch.zeros(2) + 1).numpy().all():
        raise ValueError("0 + 1 is not 1")
    list(_accelerators())


def _try_transformers(module: str) -> None:
    """Load the encoder's network, if torch works: its faults are not those of transformers."""
    importlib.import_module(module)
    if _import_error("torch") is None and _is_there("torch"):
        from transformers import DINOv3ViTModel  # noqa: F401


_TRIALS: dict[str, Callable[[str], object]] = {
    "torch": _try_torch,
    "transformers": _try_transformers,
}
"""Function that tries a package, by package; others are imported."""


def _device(device: str, name: str, memory: int | None, free: int | None) -> dict[str, Any]:
    return {"device": device, "name": name, "memory_bytes": memory, "free_bytes": free}


def _memory() -> tuple[int | None, int | None]:
    """Return the machine's memory and the free part of it in bytes, where known."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None, None


def _accelerators() -> Iterator[dict[str, Any]]:
    """Yield the devices other than the CPU on which torch can compute."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, memory = torch.cuda.mem_get_info(index)
            name = "cuda" if index == 0 else f"cuda:{index}"
            yield _device(name, torch.cuda.get_device_name(index), memory, free)
    if torch.backends.mps.is_available():
        yield _device("mps", "Apple GPU", None, None)
