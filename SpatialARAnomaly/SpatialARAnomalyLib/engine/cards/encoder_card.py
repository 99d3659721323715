"""Identity of an encoder, and the names of its weights' files; readable without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine import files
from SpatialARAnomalyLib.engine.errors import EncoderError
from SpatialARAnomalyLib.engine.specs import Precision, Spec

DEMONSTRATION = "demonstration"
"""Name of the demonstration encoder."""

DINOV3_NOTICE = (
    "DINOv3 weights are Meta's, under the DINOv3 License: pass its agreement on with them and "
    "with what is derived from them, acknowledge DINOv3 in publications, and mind its "
    "trade-control rules."
)


@dataclass(frozen=True, kw_only=True)
class EncoderCard(Spec):
    """Identity of an encoder; stored in every model."""

    name: str
    """`demonstration`, the hub id, or the folder's or file's own base name (never a path)."""
    architecture: str
    """`DINOv3ViT` or `DINOv3ConvNext`."""
    channels: int
    """Channels of a token."""
    patch_px: int
    """Side of a patch in pixels."""
    parameters: int
    """Number of parameters that its tokens depend on."""
    weights_sha256: str
    """Over tensors and settings: the same for the same weights in any layout."""
    revision: str | None = None
    """The hub's commit, if known."""
    notice: str
    """Origin and license, for the user."""
    precision: Precision = Precision.FLOAT32
    """Precision of the matrix products; tokens of another precision differ by about 1 %."""

    def __post_init__(self) -> None:
        self._require(self.channels > 0, "channels must be positive")
        self._require(self.patch_px > 0, "patch_px must be positive")


WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIGURATION = "config.json"
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
"""Endings of files that are never read: reading one can run any code."""


def weight_files(folder: Path) -> list[Path] | None:
    """Return the configuration and all files of weights; None if one is missing."""
    names = [CONFIGURATION, WEIGHTS]
    if not (folder / WEIGHTS).is_file():
        try:
            names = [CONFIGURATION, INDEX, *shard_names(folder / INDEX)]
        except (OSError, EncoderError):
            return None
    files = [folder / name for name in names]
    return files if all(file.is_file() for file in files) else None


def shard_names(index: Path) -> list[str]:
    """Return the files that an index spreads the weights over, sorted.

    Raises:
        EncoderError: `encoder-damaged` for an index that is invalid or leads out of its folder.
    """
    spread = read_json(index).get("weight_map")
    names = sorted({str(name) for name in spread.values()}) if isinstance(spread, dict) else []
    if not names or any(
        not name.endswith(".safetensors") or Path(name).name != name for name in names
    ):
        raise EncoderError(
            "encoder-damaged",
            f"{index.name} must map tensors to files beside it, under 'weight_map'.",
        )
    return names


def read_json(file: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        EncoderError: `encoder-damaged` for any other content.
        OSError: The file cannot be read.
    """
    try:
        values = files.read_json(file)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise EncoderError("encoder-damaged", f"'{file.name}' must hold a JSON object.")
    return values
