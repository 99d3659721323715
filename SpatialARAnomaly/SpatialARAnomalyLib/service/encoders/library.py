"""What can be done with encoders: get, add one's own, remove."""

import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SpatialARAnomalyLib.engine.cards.encoder_card import (
    DEMONSTRATION,
    EncoderCard,
)
from SpatialARAnomalyLib.engine.device import (
    Device,
    resolve_device,
)
from SpatialARAnomalyLib.engine.errors import (
    EncoderError,
    SpecError,
)
from SpatialARAnomalyLib.engine.files import unwritable
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.service.encoders import registry
from SpatialARAnomalyLib.service.encoders.catalog import (
    DEFAULT_ID,
    KNOWN,
    KnownEncoder,
    local_encoders,
)
from SpatialARAnomalyLib.service.encoders.dinov3_license import require_accepted
from SpatialARAnomalyLib.service.encoders.hub import (
    cached_bytes,
    cached_folder,
    download,
    is_hub_id,
    lock_repository,
    repository_folder,
)
from SpatialARAnomalyLib.service.encoders.loading import load_encoder


@dataclass(frozen=True, kw_only=True)
class EncoderEntry:
    """An encoder that can be got, is here, or both."""

    source: str
    """The hub id, or the path of the user's own folder or file."""
    title: str
    known: KnownEncoder | None
    here: bool
    """It is on this machine."""
    disk_bytes: int
    own: bool
    """It is the user's own folder or file: forgotten, never deleted."""

    def to_dict(self) -> dict[str, Any]:
        """As one flat JSON object."""
        known = self.known
        figures = {
            "architecture": known.architecture if known else None,
            "parameters": known.parameters if known else None,
            "download_bytes": known.download_bytes if known else None,
            "memory_bytes": known.memory_bytes if known else None,
            "gated": known.gated if known else None,
            "license": known.license if known else None,
            "page": known.page if known else None,
        }
        return {
            "source": self.source,
            "title": self.title,
            "here": self.here,
            "disk_bytes": self.disk_bytes,
            "own": self.own,
            **figures,
        }


def list_encoders(also: Iterable[str] = ()) -> list[EncoderEntry]:
    """The known ones in their order, then others that are on this machine, and the ids `also`."""
    also = list(also)
    local = {one.source: one for one in local_encoders(also)}
    known = {one.hub_id: one for one in KNOWN}
    entries = []
    for source in dict.fromkeys([*known, *local, *also]):
        here, one = local.get(source), known.get(source)
        title = one.title if one else here.title if here else source
        entries.append(
            EncoderEntry(
                source=source,
                title=title,
                known=one,
                here=here is not None,
                disk_bytes=here.disk_bytes if here else 0,
                own=here is not None and not here.from_hub,
            )
        )
    return entries


def get_encoder(hub_id: str, report: Reporter, token: str | None = None) -> Path:
    """Return the folder with the weights, after a download if they are not on this machine.

    Raises:
        EncoderError: `license-not-accepted` before anything is requested, `encoder-missing` for
            a source that is not a hub id, and those of `encoder_hub.download`.
    """
    if not is_hub_id(hub_id):
        raise EncoderError(
            "encoder-missing",
            f"Expected a hub id 'owner/name'; found '{Path(hub_id).name}'.",
            f"The ungated DINOv3 ViT-S is '{DEFAULT_ID}'.",
        )
    folder = cached_folder(hub_id)
    if folder is not None:
        return folder
    require_accepted()
    return download(hub_id, report, token)


def add_encoder(path: Path) -> EncoderCard:
    """Verify a folder or file of weights by loading it, and remember where it lies.

    Raises `EncoderError` where it is none, or not a DINOv3.
    """
    from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder

    source = os.path.abspath(path.expanduser())
    if not os.path.exists(source):
        raise EncoderError(
            "encoder-missing",
            f"Expected a folder or a .safetensors file; there is no '{Path(source).name}' at "
            "the path given.",
            "Check the path, and that its drive is connected.",
        )
    card = load_encoder(source).card
    registry.remember(card.weights_sha256, source)
    return card


def remove_encoder(source: str) -> int:
    """Remove what the hub's cache has of an encoder, or forget the user's own; bytes set free.

    Raises `EncoderError` `encoder-not-here` and `encoder-busy`, `OutputError`.
    """
    own = os.path.abspath(Path(source).expanduser())
    try:
        for known in (source, own):
            if Path(known).is_absolute() and known in registry.sources():
                registry.forget(known)
                return 0
        if is_hub_id(source) and repository_folder(source).is_dir():
            return _remove_cached(source)
    except OSError as error:
        raise unwritable("The encoder cannot be removed", error) from error
    if source == DEMONSTRATION:
        raise EncoderError(
            "encoder-not-here", "The demonstration encoder is a part of this program.", ""
        )
    raise EncoderError(
        "encoder-not-here",
        f"There is no encoder '{Path(source).name if Path(source).is_absolute() else source}' in "
        "the hub's cache, and none was added from there.",
        "See 'spatial-ar-anomaly encoders list'.",
    )


def _remove_cached(hub_id: str) -> int:
    with lock_repository(hub_id):
        size = cached_bytes(hub_id)
        # First the reference by which it is found: half of it must not look whole.
        (repository_folder(hub_id) / "refs" / "main").unlink(missing_ok=True)
        shutil.rmtree(repository_folder(hub_id))
    return size


@dataclass(frozen=True, kw_only=True)
class EncoderCheck:
    """What an encoder is, and its speed on this machine."""

    card: EncoderCard
    device: str
    size_px: int
    seconds_per_slice: float

    def to_dict(self) -> dict[str, Any]:
        """Card and speed as one flat JSON object."""
        speed = {"size_px": self.size_px, "seconds_per_slice": self.seconds_per_slice}
        return self.card.to_dict() | {"device": self.device} | speed


def check_encoder(
    source: str,
    size_px: int,
    device: Device,
    allow_download: bool,
    report: Reporter | None = None,
) -> EncoderCheck:
    """Load the encoder and embed a test slice twice (the second time is told).

    Raises `EncoderError` where it cannot be loaded or its tokens are not finite.
    """
    if size_px < 1:
        raise SpecError("size-not-positive", f"The size must be positive; found {size_px} px.")
    torch_device = resolve_device(device)
    import torch

    encoder = load_encoder(
        source, device=torch_device, allow_download=allow_download, report=report
    )
    random = np.random.RandomState(0)
    image = torch.from_numpy(random.rand(1, 1, size_px, size_px).astype(np.float32))
    seconds = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        tokens = encoder.embed(image).cpu()  # the copy waits for the device
        seconds = time.perf_counter() - begin
    if not torch.isfinite(tokens).all():
        raise EncoderError(
            "encoder-not-finite",
            "The encoder's tokens must be finite; they are not.",
            "Get its weights again.",
        )
    registry.remember(encoder.card.weights_sha256, source)
    return EncoderCheck(
        card=encoder.card,
        device=str(torch_device),
        size_px=size_px,
        seconds_per_slice=round(seconds, 4),
    )
