"""About how large an installation is, and what room there is for it."""

import shutil
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_MEGABYTE = 10**6

# Megabytes to download and on the disk, with what each brings along; wheels of
# autumn 2026 for Python 3.12 (torch of the CPU build; see `TORCH_CUDA`).
_SIZES = {
    "torch": (220, 900),
    "transformers": (25, 150),
    "scikit-image": (20, 60),
    "scikit-learn": (10, 40),
    "matplotlib": (20, 60),
    "nibabel": (4, 12),
    "rich": (1, 6),
    "typer": (1, 2),
}
TORCH_CUDA = (3000, 7500)
"""torch with the libraries of CUDA: what the PyTorch extension takes where a driver is."""
_OTHER = (1, 3)


@dataclass(frozen=True, kw_only=True)
class InstallSize:
    """Bytes of an installation, estimated."""

    download_bytes: int
    disk_bytes: int
    """On the disk while it is installed: pip unpacks what it downloaded."""


def has_nvidia_driver() -> bool:
    """Whether an NVIDIA driver is there; asks no torch."""
    return Path("/proc/driver/nvidia/gpus").exists() or shutil.which("nvidia-smi") is not None


def estimate(packages: Iterable[str], *, cuda: bool) -> InstallSize:
    """About how large these packages are, with what they bring along."""
    sizes = [
        TORCH_CUDA if cuda and package == "torch" else _SIZES.get(package, _OTHER)
        for package in packages
    ]
    download, disk = (sum(column) for column in zip((0, 0), *sizes, strict=True))
    return InstallSize(
        download_bytes=download * _MEGABYTE, disk_bytes=(download + disk) * _MEGABYTE
    )


def free_bytes(folder: Path | None = None) -> int | None:
    """Bytes free on the disk of a folder (of this Python's packages); None if unknown."""
    try:
        return shutil.disk_usage(folder or sysconfig.get_paths()["purelib"]).free
    except OSError:
        return None
