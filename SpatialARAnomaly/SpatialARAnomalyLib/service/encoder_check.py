"""Whether an encoder loads and embeds here, and how fast."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.device import Device, resolve_device
from ..engine.encoder_card import EncoderCard
from ..engine.errors import EncoderError, SpecError
from ..engine.progress import Reporter
from . import encoder_registry
from .encoder_loading import load_encoder


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
    encoder_registry.remember(encoder.card.weights_sha256, source)
    return EncoderCheck(
        card=encoder.card,
        device=str(torch_device),
        size_px=size_px,
        seconds_per_slice=round(seconds, 4),
    )
