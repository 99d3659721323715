"""The worker's part of an offline kit: hashing gigabytes, and loading weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.progress import Reporter
from ..engine.specs import Spec
from .kit_manifest import check_fits, verify_kit


@dataclass(frozen=True, kw_only=True)
class KitInputs(Spec):
    """Where the kit lies."""

    kit: str


def verify(inputs: KitInputs, report: Reporter) -> dict[str, Any]:
    """Check every file of a kit and that it is for this Python; what it holds.

    Raises `SetupError`, and `Cancelled` through `report`.
    """
    manifest = verify_kit(Path(inputs.kit), report)
    check_fits(manifest)
    return {
        "requirements": list(manifest.requirements),
        "encoders": [encoder.hub_id for encoder in manifest.encoders],
        "size_bytes": manifest.size_bytes,
    }


def install_weights(inputs: KitInputs, report: Reporter) -> dict[str, Any]:
    """Verify a kit and put its weights where the hub's are; their ids.

    Raises `SetupError`, `EncoderError`, `OutputError`, and `Cancelled` through `report`.
    """
    from .offline_kit import install_weights as install

    kit = Path(inputs.kit)
    return {"encoders": list(install(kit, verify_kit(kit, report), report))}
