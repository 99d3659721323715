"""The encoders of the hub that are known to fit, and whether an encoder is on this machine.

Needs no package but the standard library, and no network.
"""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION, EncoderCard
from SpatialARAnomalyLib.service.encoders import registry
from SpatialARAnomalyLib.service.encoders.dinov3_license import LICENSE
from SpatialARAnomalyLib.service.encoders.hub import cached_folder, is_hub_id

DEFAULT_ID = "timm/vit_small_patch16_dinov3.lvd1689m"
"""Hub id of the paper's ViT-S/16, without a gate; the license is the same as for Meta's copies."""

_SOFTWARE_BYTES = 1_000_000_000
"""Memory that torch and transformers take themselves, about, in bytes."""


@dataclass(frozen=True)
class KnownEncoder:
    """Weights on the hub."""

    hub_id: str
    title: str
    parameters: int
    stated_bytes: int | None = None
    """Size of the weights on the hub's page, if it is stated there."""
    license: str = LICENSE

    @property
    def architecture(self) -> str:
        """`DINOv3ViT` or `DINOv3ConvNext`."""
        return "DINOv3ConvNext" if "convnext" in self.hub_id else "DINOv3ViT"

    @property
    def gated(self) -> bool:
        """True if only accounts that were granted access can download it."""
        return self.hub_id.startswith("facebook/")

    @property
    def approximate(self) -> bool:
        """True if `download_bytes` follows from the number of parameters."""
        return self.stated_bytes is None

    @property
    def download_bytes(self) -> int:
        """Size of the weights."""
        return self.stated_bytes or 4 * self.parameters

    @property
    def memory_bytes(self) -> int:
        """Approximate memory to load it and embed slices one by one, rounded to 0.1 GB."""
        return round((_SOFTWARE_BYTES + 2 * self.download_bytes) / 1e8) * 100_000_000

    @property
    def page(self) -> str:
        """Its page at the hub, where access is requested."""
        return f"https://huggingface.co/{self.hub_id}"


_META, _DATA = "facebook/dinov3-", "-pretrain-lvd1689m"

KNOWN = (
    KnownEncoder(DEFAULT_ID, "ViT-S/16", 21_600_000, 86_400_000),
    KnownEncoder(
        "timm/vit_small_plus_patch16_dinov3.lvd1689m", "ViT-S+/16", 28_700_000, 115_000_000
    ),
    KnownEncoder("timm/vit_base_patch16_dinov3.lvd1689m", "ViT-B/16", 85_700_000),
    KnownEncoder("timm/vit_large_patch16_dinov3.lvd1689m", "ViT-L/16", 303_000_000),
    KnownEncoder(
        "timm/vit_huge_plus_patch16_dinov3.lvd1689m", "ViT-H+/16", 840_000_000, 3_360_000_000
    ),
    KnownEncoder(f"{_META}vits16{_DATA}", "ViT-S/16 (Meta)", 21_600_000),
    KnownEncoder(f"{_META}vits16plus{_DATA}", "ViT-S+/16 (Meta)", 28_700_000),
    KnownEncoder(f"{_META}vitb16{_DATA}", "ViT-B/16 (Meta)", 85_700_000),
    KnownEncoder(f"{_META}vitl16{_DATA}", "ViT-L/16 (Meta)", 303_000_000),
    KnownEncoder(f"{_META}vith16plus{_DATA}", "ViT-H+/16 (Meta)", 840_000_000),
    KnownEncoder(f"{_META}convnext-tiny{_DATA}", "ConvNeXt-T (Meta)", 29_000_000),
    KnownEncoder(f"{_META}convnext-small{_DATA}", "ConvNeXt-S (Meta)", 50_000_000),
    KnownEncoder(f"{_META}convnext-base{_DATA}", "ConvNeXt-B (Meta)", 89_000_000),
    KnownEncoder(f"{_META}convnext-large{_DATA}", "ConvNeXt-L (Meta)", 198_000_000),
)
"""Parameters as on timm's pages and in Meta's table."""


def is_local(source: str) -> bool:
    """Return whether an encoder can be loaded without a network."""
    if source == DEMONSTRATION:
        return True
    if os.path.exists(Path(source).expanduser()):  # `Path.exists` may raise
        return True
    return is_hub_id(source) and cached_folder(source) is not None


class EncoderState(StrEnum):
    """Place of an encoder: in this program, on this machine or elsewhere."""

    EMBEDDED = "embedded"
    """Part of this program."""
    PRESENT = "present"
    """On this machine."""
    OBTAINABLE = "obtainable"
    """Not on this machine; its name is a hub id."""
    MISSING = "missing"
    """Not on this machine; its name is not a hub id."""


@dataclass(frozen=True)
class EncoderPresence:
    """Place of an encoder, and its hub id if it has one."""

    state: EncoderState
    hub_id: str | None = None

    @property
    def here(self) -> bool:
        """True if a model can be used without a download."""
        return self.state in (EncoderState.EMBEDDED, EncoderState.PRESENT)


def encoder_presence(card: EncoderCard) -> EncoderPresence:
    """Return where the encoder of a model is, as `load_model_encoder` finds it."""
    if card.name == DEMONSTRATION:
        return EncoderPresence(EncoderState.EMBEDDED)
    known = registry.recall(card.weights_sha256)
    hub_id = next((one for one in (known, card.name) if one and is_hub_id(one)), None)
    if known is not None and Path(known).is_absolute():
        return EncoderPresence(EncoderState.PRESENT, hub_id)
    if hub_id is None:
        return EncoderPresence(EncoderState.MISSING)
    here = cached_folder(hub_id) is not None
    return EncoderPresence(EncoderState.PRESENT if here else EncoderState.OBTAINABLE, hub_id)
