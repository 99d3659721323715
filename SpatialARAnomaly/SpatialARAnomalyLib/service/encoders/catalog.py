"""The encoders of the hub that are known to fit, and whether an encoder is on this machine.

Needs no package but the standard library, and no network.
"""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION, EncoderCard
from SpatialARAnomalyLib.service.encoders import registry
from SpatialARAnomalyLib.service.encoders.hub import cached_folder, is_hub_id

DEFAULT_ID = "timm/vit_small_patch16_dinov3.lvd1689m"
"""Hub id of the paper's ViT-S/16, without a gate; the license is the same as for Meta's copies."""

LICENSE = "DINOv3 License"

_SOFTWARE_BYTES = 1_000_000_000
"""Memory that torch and transformers take themselves, about, in bytes."""


@dataclass(frozen=True, kw_only=True)
class KnownEncoder:
    """Weights on the hub."""

    hub_id: str
    title: str
    architecture: str
    """`DINOv3ViT` or `DINOv3ConvNext`."""
    parameters: int
    download_bytes: int
    approximate: bool
    """`download_bytes` follows from the number of parameters and was not read on the hub's page."""
    gated: bool
    """Only accounts that were granted access can download it."""
    license: str = LICENSE

    @property
    def memory_bytes(self) -> int:
        """Memory to load it and embed slices one by one, about, rounded to 0.1 GB."""
        return round((_SOFTWARE_BYTES + 2 * self.download_bytes) / 1e8) * 100_000_000

    @property
    def page(self) -> str:
        """Its page at the hub, where access is requested."""
        return f"https://huggingface.co/{self.hub_id}"


def _timm(
    name: str, title: str, parameters: int, download_bytes: int, approximate: bool = False
) -> KnownEncoder:
    return KnownEncoder(
        hub_id=f"timm/{name}.lvd1689m",
        title=title,
        architecture="DINOv3ViT",
        parameters=parameters,
        download_bytes=download_bytes,
        approximate=approximate,
        gated=False,
    )


def _meta(name: str, title: str, parameters: int) -> KnownEncoder:
    return KnownEncoder(
        hub_id=f"facebook/dinov3-{name}-pretrain-lvd1689m",
        title=f"{title} (Meta)",
        architecture="DINOv3ConvNext" if name.startswith("convnext") else "DINOv3ViT",
        parameters=parameters,
        download_bytes=4 * parameters,
        approximate=True,
        gated=True,
    )


KNOWN: tuple[KnownEncoder, ...] = (
    _timm("vit_small_patch16_dinov3", "ViT-S/16", 21_600_000, 86_400_000),
    _timm("vit_small_plus_patch16_dinov3", "ViT-S+/16", 28_700_000, 115_000_000),
    _timm("vit_base_patch16_dinov3", "ViT-B/16", 85_700_000, 343_000_000, True),
    _timm("vit_large_patch16_dinov3", "ViT-L/16", 303_000_000, 1_210_000_000, True),
    _timm("vit_huge_plus_patch16_dinov3", "ViT-H+/16", 840_000_000, 3_360_000_000),
    _meta("vits16", "ViT-S/16", 21_600_000),
    _meta("vits16plus", "ViT-S+/16", 28_700_000),
    _meta("vitb16", "ViT-B/16", 85_700_000),
    _meta("vitl16", "ViT-L/16", 303_000_000),
    _meta("vith16plus", "ViT-H+/16", 840_000_000),
    _meta("convnext-tiny", "ConvNeXt-T", 29_000_000),
    _meta("convnext-small", "ConvNeXt-S", 50_000_000),
    _meta("convnext-base", "ConvNeXt-B", 89_000_000),
    _meta("convnext-large", "ConvNeXt-L", 198_000_000),
)
"""Sizes of timm's copies from their pages, of Meta's copies from Meta's table of parameters."""


def is_local(source: str) -> bool:
    """Return whether an encoder can be loaded without a network."""
    if source == DEMONSTRATION:
        return True
    if os.path.exists(Path(source).expanduser()):  # `Path.exists` may raise
        return True
    return is_hub_id(source) and cached_folder(source) is not None


class EncoderState(StrEnum):
    """Where an encoder is."""

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
    """Where an encoder is, and its hub id if it has one."""

    state: EncoderState
    hub_id: str | None = None

    @property
    def here(self) -> bool:
        """Whether a model can be used without a download."""
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
