"""A model in the few words of a list."""

from dataclasses import dataclass

from ..engine.specs import Spec
from .encoder_presence import EncoderPresence, EncoderState, encoder_presence
from .model_list import ModelEntry


@dataclass(frozen=True, kw_only=True)
class ModelRow(Spec):
    """What a list says of a model; of one that cannot be read, only name, size and problem."""

    name: str
    folder: str
    """Its name, without its place."""
    modality: str | None = None
    plane: str | None = None
    fov_mm: float | None = None
    encoder: str | None = None
    encoder_state: EncoderState | None = None
    encoder_hub_id: str | None = None
    """Where an encoder that is not here can be had."""
    normals: int | None = None
    """Scans trained on and held out."""
    created: str | None = None
    bytes: int
    problem: str | None = None
    """Why the model cannot be used as it is; its weights are not looked at here."""
    hint: str | None = None

    @property
    def presence(self) -> EncoderPresence | None:
        """Where the encoder is."""
        if self.encoder_state is None:
            return None
        return EncoderPresence(self.encoder_state, self.encoder_hub_id)


def as_row(entry: ModelEntry) -> ModelRow:
    """What a list says of a model."""
    card, error = entry.card, entry.error
    if card is None:
        return ModelRow(
            name=entry.name,
            folder=entry.folder.name,
            bytes=entry.bytes,
            problem=error.message if error is not None else None,
            hint=error.hint if error is not None else None,
        )
    presence = encoder_presence(card.encoder)
    return ModelRow(
        name=card.name,
        folder=entry.folder.name,
        modality=card.modality.value,
        plane=card.slices.plane.value,
        fov_mm=card.slices.fov_mm,
        encoder=card.encoder.name,
        encoder_state=presence.state,
        encoder_hub_id=presence.hub_id,
        normals=len(card.normals.training_sha256) + len(card.normals.held_out_sha256),
        created=card.created,
        bytes=entry.bytes,
    )
