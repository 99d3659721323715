"""Where a benchmark ran: commit, hardware and versions, without names and paths."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SpatialARAnomalyLib

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "transformers", "numpy")

INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")
"""Instruction sets that matter for matrix products, named as Linux names them."""


def machine_facts(device: "torch.device") -> dict[str, Any]:
    """Collect what is needed to compare figures."""
    import torch

    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "instructions": instructions(),
        "torch_instructions": torch.backends.cpu.get_cpu_capability(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
            "SpatialARAnomalyLib": SpatialARAnomalyLib.__version__,
        },
    }


def commit() -> str:
    """Return the commit, with a `+` if files differ from it; `unknown` outside a repository."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return head + "+" * bool(_git("status", "--porcelain", "--untracked-files=no"))


def processor() -> str:
    """Return the CPU's model."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instructions() -> list[str]:
    """List those of `INSTRUCTIONS` that the CPU has; empty where the system reports none."""
    flags = set((_cpuinfo("flags") or "").split())
    return [name for name in INSTRUCTIONS if name in flags]


def _cpuinfo(key: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(key))
    return next(found, None)


def _memory_gb() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return round(size / 1e9, 1)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()
