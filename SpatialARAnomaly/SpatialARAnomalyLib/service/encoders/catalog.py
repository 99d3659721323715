"""The encoders there are: those of the hub that are known to fit, and those on this machine.

Looks at the disk only; needs no package of others.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from SpatialARAnomalyLib.engine.cards.encoder_card import (
    DEMONSTRATION,
    EncoderCard,
)
from SpatialARAnomalyLib.service.encoders import registry
from SpatialARAnomalyLib.service.encoders.hub import (
    cached_bytes,
    cached_folder,
    cached_ids,
    is_hub_id,
)
from SpatialARAnomalyLib.service.encoders.hub_errors import UNGATED_ID

DEFAULT_ID = UNGATED_ID
"""The paper's ViT-S/16, without a gate."""

LICENSE = "DINOv3 License"

_SOFTWARE_BYTES = 1_000_000_000
"""About what torch and transformers take themselves."""


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
    """The size follows from the number of parameters; it was not read on the hub's page."""
    gated: bool
    """The hub gives it only to accounts that were granted access."""
    license: str = LICENSE

    @property
    def memory_bytes(self) -> int:
        """About the memory needed to load it and embed slices one by one, in tenths of a GB."""
        return round((_SOFTWARE_BYTES + 2 * self.download_bytes) / 1e8) * 100_000_000

    @property
    def page(self) -> str:
        """The address where the hub shows it, and where access is asked for."""
        return f"https://huggingface.co/{self.hub_id}"


def _timm(name: str, title: str, parameters: int, download_bytes: int, about: bool) -> KnownEncoder:
    return KnownEncoder(
        hub_id=f"timm/{name}.lvd1689m",
        title=title,
        architecture="DINOv3ViT",
        parameters=parameters,
        download_bytes=download_bytes,
        approximate=about,
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
    _timm("vit_small_patch16_dinov3", "ViT-S/16", 21_600_000, 86_400_000, False),
    _timm("vit_small_plus_patch16_dinov3", "ViT-S+/16", 28_700_000, 115_000_000, False),
    _timm("vit_base_patch16_dinov3", "ViT-B/16", 85_700_000, 343_000_000, True),
    _timm("vit_large_patch16_dinov3", "ViT-L/16", 303_000_000, 1_210_000_000, True),
    _timm("vit_huge_plus_patch16_dinov3", "ViT-H+/16", 840_000_000, 3_360_000_000, False),
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
"""Sizes as the hub's pages say, those of Meta's copies from Meta's table of parameters."""


def known_encoder(hub_id: str) -> KnownEncoder | None:
    """What is known of a hub id."""
    return next((known for known in KNOWN if known.hub_id == hub_id), None)


@dataclass(frozen=True, kw_only=True)
class LocalEncoder:
    """An encoder on this machine."""

    source: str
    """The hub id, or the path of the user's own folder or file."""
    title: str
    """The hub id, or the folder's or file's own name."""
    disk_bytes: int
    from_hub: bool
    """It lies in the hub's cache and can be removed from there; else it is the user's own."""


def is_local(source: str) -> bool:
    """Whether an encoder can be loaded here without a network."""
    if source == DEMONSTRATION:
        return True
    if os.path.exists(Path(source).expanduser()):  # `Path.exists` may raise
        return True
    return is_hub_id(source) and cached_folder(source) is not None


def local_encoders(also: Iterable[str] = ()) -> list[LocalEncoder]:
    """The DINOv3 in the hub's cache, and all encoders that were used or added here before.

    `also` are hub ids whose names do not tell that they are DINOv3.
    """
    used = registry.sources()
    own = [source for source in used if _is_path(source)]
    others = [source for source in used if source not in own and is_hub_id(source)]
    others += [hub_id for hub_id in cached_ids() if "dinov3" in hub_id and is_hub_id(hub_id)]
    ids = dict.fromkeys([*(known.hub_id for known in KNOWN), *others, *also])
    found = [_in_cache(hub_id) for hub_id in ids]
    return [one for one in found if one] + [_own(Path(source)) for source in own]


def _is_path(source: str) -> bool:
    return Path(source).is_absolute() and os.path.exists(source)


def _in_cache(hub_id: str) -> LocalEncoder | None:
    if cached_folder(hub_id) is None:
        return None
    return LocalEncoder(
        source=hub_id,
        title=hub_id,
        disk_bytes=cached_bytes(hub_id),
        from_hub=True,
    )


def _own(path: Path) -> LocalEncoder:
    size = 0
    with suppress(OSError):  # it is another's, who may change it meanwhile
        files = path.glob("*") if os.path.isdir(path) else [path]
        size = sum(file.stat().st_size for file in files if file.suffix == ".safetensors")
    return LocalEncoder(source=os.fspath(path), title=path.name, disk_bytes=size, from_hub=False)


class EncoderState(StrEnum):
    """Where an encoder is."""

    EMBEDDED = "embedded"
    """Part of this program."""
    PRESENT = "present"
    """On this machine."""
    OBTAINABLE = "obtainable"
    """Not on this machine; its name is a hub id."""
    MISSING = "missing"
    """Not on this machine, and its name does not tell where it can be had."""


@dataclass(frozen=True)
class EncoderPresence:
    """Where an encoder is, and its hub id if it has one."""

    state: EncoderState
    hub_id: str | None = None

    @property
    def here(self) -> bool:
        """Whether nothing must be fetched before a model can be used."""
        return self.state in (EncoderState.EMBEDDED, EncoderState.PRESENT)


def encoder_presence(card: EncoderCard) -> EncoderPresence:
    """Where the encoder of a model is: as `load_model_encoder` would find it."""
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
