"""Where a model's encoder is: embedded, on this machine, to be had from the hub, or missing.

Only looks at the disk, and needs none of the packages that load an encoder.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..engine.encoder_card import DEMONSTRATION, EncoderCard
from . import encoder_registry
from .encoder_hub import cached_folder, is_hub_id


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
    known = encoder_registry.recall(card.weights_sha256)
    hub_id = next((one for one in (known, card.name) if one and is_hub_id(one)), None)
    if known is not None and Path(known).is_absolute():
        return EncoderPresence(EncoderState.PRESENT, hub_id)
    if hub_id is None:
        return EncoderPresence(EncoderState.MISSING)
    here = cached_folder(hub_id) is not None
    return EncoderPresence(EncoderState.PRESENT if here else EncoderState.OBTAINABLE, hub_id)
