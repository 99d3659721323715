"""The encoder a model was trained with: the same weights, wherever they lie now."""

from typing import TYPE_CHECKING

from ..engine.encoder_card import DEMONSTRATION
from ..engine.errors import EncoderError
from ..engine.model_store import ModelCard
from . import encoder_registry
from .encoder_loading import load_encoder

if TYPE_CHECKING:
    import torch

    from ..engine.encoder import Encoder


def load_model_encoder(
    card: ModelCard, source: str | None, device: "torch.device", allow_download: bool
) -> "Encoder":
    """The model's encoder on `device`, from `source` or else from where it was last found.

    Raises `EncoderError` where it is not found, or has other weights than the
    model was trained on.
    """
    known = encoder_registry.recall(card.encoder.weights_sha256)
    named = card.encoder.name
    if source is None and known is None and not _can_be_found(named):
        raise EncoderError(
            "encoder-not-found",
            f"Model {card.name!r} needs the encoder {named!r}, which was not found on this "
            "machine.",
            "Say where it is with --encoder (a folder, a .safetensors file or a hub id).",
        )
    source = source or known or named
    encoder = load_encoder(
        source, device=device, precision=card.encoder.precision, allow_download=allow_download
    )
    if encoder.card.weights_sha256 != card.encoder.weights_sha256:
        raise EncoderError(
            "encoder-other",
            f"Model {card.name!r} was trained on the encoder {named!r} "
            f"(weights {card.encoder.weights_sha256[:12]}…); the one given is "
            f"{encoder.card.name!r} ({encoder.card.weights_sha256[:12]}…).",
            "Give the very encoder the model was trained on.",
        )
    encoder_registry.remember(encoder.card.weights_sha256, source)
    return encoder


def _can_be_found(name: str) -> bool:
    """Whether an encoder's name alone tells where it is: the embedded one, or a hub id."""
    return name == DEMONSTRATION or "/" in name
