"""What the user chose for a training."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The choices of the section *Train*, but for the scans."""

    name: str
    modality: str | None
    """None for what the scans are."""
    plane: str
    sizePx: int
    encoder: str
    preset: str
    epochs: int
    device: str
