"""List, add, check and remove encoders."""

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION, EncoderCard
from SpatialARAnomalyLib.engine.device import Device, resolve_device
from SpatialARAnomalyLib.engine.errors import EncoderError, SpecError
from SpatialARAnomalyLib.engine.files import unwritable
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.service.encoders import registry
from SpatialARAnomalyLib.service.encoders.catalog import KNOWN, KnownEncoder
from SpatialARAnomalyLib.service.encoders.hub import (
    cached_bytes,
    cached_folder,
    cached_ids,
    is_hub_id,
    lock_repository,
    repository_folder,
)
from SpatialARAnomalyLib.service.encoders.loading import load_encoder


@dataclass(frozen=True, kw_only=True)
class EncoderEntry:
    """An encoder of the hub, on this machine, or both."""

    source: str
    """The hub id, or the path of the user's own folder or file."""
    title: str
    known: KnownEncoder | None
    here: bool
    """True if it is on this machine."""
    disk_bytes: int
    own: bool
    """True for the user's own folder or file, which is removed from the list but never deleted."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as one flat JSON object."""
        figures = "architecture parameters download_bytes memory_bytes gated license page"
        return {
            "source": self.source,
            "title": self.title,
            "here": self.here,
            "disk_bytes": self.disk_bytes,
            "own": self.own,
            **{name: getattr(self.known, name, None) for name in figures.split()},
        }


def list_encoders(also: Iterable[str] = ()) -> list[EncoderEntry]:
    """List the known encoders in their order, then others that are on this machine.

    Those are the DINOv3 in the hub's cache, and all that were used or added here before.

    Args:
        also: Hub ids to list in any case; their names need not contain `dinov3`.
    """
    known, also = {one.hub_id: one for one in KNOWN}, set(also)
    used = registry.sources()
    own = [one for one in used if Path(one).is_absolute() and os.path.exists(one)]
    found = [one for one in used if one not in own]
    found += [hub_id for hub_id in cached_ids() if "dinov3" in hub_id]
    entries = []
    for hub_id in filter(is_hub_id, dict.fromkeys([*known, *found, *sorted(also)])):
        here = cached_folder(hub_id) is not None
        if here or hub_id in known or hub_id in also:
            entries.append(
                EncoderEntry(
                    source=hub_id,
                    title=known[hub_id].title if hub_id in known else hub_id,
                    known=known.get(hub_id),
                    here=here,
                    disk_bytes=cached_bytes(hub_id) if here else 0,
                    own=False,
                )
            )
    return entries + [_own_entry(Path(path)) for path in own]


def _own_entry(path: Path) -> EncoderEntry:
    size = 0
    with suppress(OSError):  # another program may change it meanwhile
        files = path.glob("*.safetensors") if os.path.isdir(path) else [path]
        size = sum(file.stat().st_size for file in files)
    return EncoderEntry(
        source=os.fspath(path), title=path.name, known=None, here=True, disk_bytes=size, own=True
    )


def add_encoder(path: Path) -> EncoderCard:
    """Verify a folder or file of weights by loading it, and remember where it lies.

    Raises:
        EncoderError: It does not exist, is damaged, or is not a DINOv3.
    """
    from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder

    source = os.path.abspath(path.expanduser())
    card = load_encoder(source).card
    registry.remember(card.weights_sha256, source)
    return card


def remove_encoder(source: str) -> int:
    """Remove an encoder from the hub's cache, or forget the user's own; return the bytes freed.

    Raises:
        EncoderError: `encoder-not-here` or `encoder-busy`.
        OutputError: The disk refuses.
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
        message = "The demonstration encoder is a part of this program and cannot be removed."
    else:
        name = Path(source).name if Path(source).is_absolute() else source
        message = f"There is no encoder '{name}' in the hub's cache or among those added."
    raise EncoderError("encoder-not-here", message)


def _remove_cached(hub_id: str) -> int:
    with lock_repository(hub_id):
        size = cached_bytes(hub_id)
        # First the reference by which it is found, so that a half-removed one is not.
        (repository_folder(hub_id) / "refs" / "main").unlink(missing_ok=True)
        shutil.rmtree(repository_folder(hub_id))
    return size


@dataclass(frozen=True, kw_only=True)
class EncoderCheck:
    """An encoder's card, and its speed on this machine."""

    card: EncoderCard
    device: str
    size_px: int
    seconds_per_slice: float

    def to_dict(self) -> dict[str, Any]:
        """Return card and speed as one flat JSON object."""
        speed = {"size_px": self.size_px, "seconds_per_slice": self.seconds_per_slice}
        return self.card.to_dict() | {"device": self.device} | speed


def check_encoder(
    source: str,
    size_px: int,
    device: Device,
    allow_download: bool,
    report: Reporter | None = None,
) -> EncoderCheck:
    """Load the encoder and measure the time to embed a random slice, after a first one.

    Raises:
        EncoderError: It cannot be loaded, or its tokens are not finite.
        SpecError: `size-not-positive`.
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
        raise EncoderError("encoder-not-finite", "The encoder gave tokens that are not finite.")
    registry.remember(encoder.card.weights_sha256, source)
    return EncoderCheck(
        card=encoder.card,
        device=str(torch_device),
        size_px=size_px,
        seconds_per_slice=round(seconds, 4),
    )
