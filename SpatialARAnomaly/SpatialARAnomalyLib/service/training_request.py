"""What a training is asked to do, as code has it and as JSON carries it; needs no package."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.device import Device
from ..engine.encoder_card import DEMONSTRATION
from ..engine.specs import (
    AutoregressiveSpec,
    Modality,
    Plane,
    Precision,
    Preset,
    Spec,
    TrainingSpec,
    Variance,
)

if TYPE_CHECKING:
    from .sources import Source


DEFAULT_PRESET = Preset.BALANCED
"""Of a training whose user chooses none."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What the user asks a training to do."""

    normals: "tuple[Path | Source, ...]"
    """Paths as a user names them (a folder stands for its scans), or single scans."""
    out: Path
    name: str | None = None
    """Of the model; by default the name of its file, without the suffix."""
    modality: Modality | None = None
    """By default what the scans are."""
    plane: Plane = Plane.AXIAL
    fov_mm: float | None = None
    """By default 1.1 × the largest body in the plane."""
    size_px: int = 448
    window_hu: tuple[float, float] | None = None
    encoder: str = DEMONSTRATION
    precision: Precision | None = None
    """Of the encoder; by default what the device is fastest in (`engine.precision`)."""
    autoregressive: AutoregressiveSpec = field(
        default_factory=lambda: AutoregressiveSpec.from_preset(DEFAULT_PRESET)
    )
    training: TrainingSpec = field(default_factory=TrainingSpec)
    device: Device = Device.AUTO
    allow_download: bool = False
    overwrite: bool = False
    restart: bool = False
    """Discard the checkpoint of an unfinished training of this name instead of resuming it."""


@dataclass(frozen=True, kw_only=True)
class TrainSpec(Spec):
    """A `TrainRequest` without its scans and its folder, in the types that JSON knows."""

    name: str | None = None
    modality: Modality | None = None
    plane: Plane = Plane.AXIAL
    fov_mm: float | None = None
    size_px: int = 448
    window_hu: tuple[float, float] | None = None
    encoder: str = DEMONSTRATION
    precision: Precision | None = None
    preset: Preset = DEFAULT_PRESET
    variance: Variance | None = None
    """By default the preset's."""
    hidden_channels: int | None = None
    """Likewise."""
    epochs: int = TrainingSpec.epochs
    batch_size: int = TrainingSpec.batch_size
    learning_rate: float = TrainingSpec.learning_rate
    weight_decay: float = TrainingSpec.weight_decay
    noise_probability: float = TrainingSpec.noise_probability
    noise_scale: float = TrainingSpec.noise_scale
    held_out_share: float = TrainingSpec.held_out_share
    seed: int = TrainingSpec.seed
    device: Device = Device.AUTO
    allow_download: bool = False
    overwrite: bool = False
    restart: bool = False

    def request(self, normals: "Sequence[Path | Source]", out: Path) -> TrainRequest:
        """The request for these scans and that folder; raises `SpecError` for impossible values."""
        network = AutoregressiveSpec.from_preset(self.preset, self.variance)
        if self.hidden_channels is not None:
            network = dataclasses.replace(network, hidden_channels=self.hidden_channels)
        return TrainRequest(
            normals=tuple(normals),
            out=out,
            autoregressive=network,
            training=TrainingSpec(**_values(self, TrainingSpec)),
            **_values(self, TrainRequest),
        )

    @classmethod
    def of(cls, request: TrainRequest) -> "TrainSpec | None":
        """The spec that gives the request; None for a network that is none of the presets."""
        network = request.autoregressive
        for preset in Preset:
            own = AutoregressiveSpec.from_preset(preset)
            variance, hidden_channels = network.variance, network.hidden_channels
            if network == dataclasses.replace(
                own, variance=variance, hidden_channels=hidden_channels
            ):
                return cls(
                    preset=preset,
                    variance=variance,
                    hidden_channels=hidden_channels,
                    **_values(request.training, cls),
                    **_values(request, cls),
                )
        return None


def _values(of: Any, kind: Any) -> dict[str, Any]:
    """The fields of an object that `kind` has, too."""
    known = {field.name for field in dataclasses.fields(kind)}
    names = (field.name for field in dataclasses.fields(of))
    return {name: getattr(of, name) for name in names if name in known}
