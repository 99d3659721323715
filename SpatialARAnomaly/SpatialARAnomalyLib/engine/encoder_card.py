"""What an encoder is, in words and numbers; readable without torch."""

from dataclasses import dataclass

from .specs import Precision, Spec

DEMONSTRATION = "demonstration"
"""The name of the embedded encoder (`demonstration.py`)."""

DINOV3_NOTICE = (
    "DINOv3 weights are Meta's, under the DINOv3 License: pass its agreement on with them and "
    "with what is derived from them, acknowledge DINOv3 in publications, and mind its "
    "trade-control rules."
)


@dataclass(frozen=True, kw_only=True)
class EncoderCard(Spec):
    """What an encoder is; stored in every model."""

    name: str
    """`demonstration`, the hub id, or the folder's or file's own base name (never a path)."""
    architecture: str
    """`DINOv3ViT` or `DINOv3ConvNext`."""
    channels: int
    """Channels of a token."""
    patch_px: int
    """Side of a token in pixels."""
    parameters: int
    """How many numbers its tokens depend on."""
    weights_sha256: str
    """Over tensors and settings: the same for the same weights in any layout."""
    revision: str | None = None
    """The hub's commit, if known."""
    notice: str
    """What it is, and its license."""
    precision: Precision = Precision.FLOAT32
    """How it multiplies: tokens of another precision are not quite the same."""

    def __post_init__(self) -> None:
        self._require(self.channels > 0, "channels must be positive")
        self._require(self.patch_px > 0, "patch_px must be positive")
