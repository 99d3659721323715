"""What a training is asked to do and what a survey answers; imports no package but the engine's.

`TrainSpec` is the request of the command line and of Python, the `spec` of the worker's
jobs `survey` and `train`, and what decides whether an unfinished training may be resumed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    Plane,
    Precision,
    Preset,
    SliceSpec,
    Spec,
    TrainingSpec,
    Variance,
)

_INDIFFERENT = {
    "name", "encoder", "device", "allow_download", "overwrite", "restart", "skip_unusable"
}  # fmt: skip
"""Fields that do not change the model; for the encoder, the hash of its weights counts."""


@dataclass(frozen=True, kw_only=True)
class TrainSpec(TrainingSpec):
    """What a training is asked to do, apart from its scans and its folder.

    Raises `SpecError` for values that are impossible whatever the scans are.
    """

    name: str | None = None
    """Name of the model; by default that of its file, without the suffix."""
    modality: Modality | None = None
    """Modality of the scans; by default what they look like."""
    plane: Plane = SliceSpec.plane
    """Plane of the slices."""
    fov_mm: float | None = None
    """Side of a slice in mm; by default 1.1 × the largest body."""
    size_px: int = SliceSpec.size_px
    """Side of a slice in pixels."""
    window_hu: tuple[float, float] | None = None
    """CT window in Hounsfield units, low and high; by default a soft-tissue window."""
    encoder: str = DEMONSTRATION
    """'demonstration', a transformers folder, a .safetensors file (timm's or Meta's layout), or
    a hub id such as timm/vit_small_patch16_dinov3.lvd1689m."""
    precision: Precision | None = None
    """How the encoder multiplies, in training and detection; by default what the device is
    fastest in."""
    preset: Preset = Preset.BALANCED
    """Network by purpose (fast, balanced, thorough), or the paper's (standard, dilated)."""
    variance: Variance | None = None
    """One variance for all channels, one each, or their full covariance; by default the
    preset's."""
    hidden_channels: int | None = None
    """Channels of the network's hidden layers; by default the preset's."""
    device: Device = Device.AUTO
    """Where to compute; 'auto' takes the fastest there is."""
    allow_download: bool = False
    """Allow fetching encoder weights from the hub."""
    overwrite: bool = False
    """Replace an existing model of the same name."""
    restart: bool = False
    """Discard an unfinished training instead of resuming it."""
    skip_unusable: bool = False
    """Search folders with all that is below them, exclude scans that do not fit the others, and
    say why."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slices(1.0 if self.fov_mm is None else self.fov_mm)
        if self.window_hu is not None:
            self.intensity(Modality.CT)
        _ = self.autoregressive

    @property
    def training(self) -> TrainingSpec:
        """The settings of the fit alone."""
        names = (field.name for field in dataclasses.fields(TrainingSpec))
        return TrainingSpec(**{name: getattr(self, name) for name in names})

    @property
    def autoregressive(self) -> AutoregressiveSpec:
        """The preset's network with the variance and width that were asked for."""
        network = AutoregressiveSpec.from_preset(self.preset, self.variance)
        if self.hidden_channels is None:
            return network
        return dataclasses.replace(network, hidden_channels=self.hidden_channels)

    def slices(self, fov_mm: float) -> SliceSpec:
        """The slices at a field of view."""
        return SliceSpec(plane=self.plane, fov_mm=fov_mm, size_px=self.size_px)

    def intensity(self, modality: Modality) -> IntensitySpec:
        """How voxel values of that modality become [0, 1]."""
        return IntensitySpec.for_modality(modality, self.window_hu)

    def resolve(self, modality: Modality, fov_mm: float) -> "TrainSpec":
        """The spec with the scans' modality and field of view, and the network written out."""
        network = self.autoregressive
        return dataclasses.replace(
            self,
            modality=modality,
            fov_mm=fov_mm,
            variance=network.variance,
            hidden_channels=network.hidden_channels,
        )

    def fingerprint(self, normals_sha256: Iterable[str], **identity: Any) -> str:
        """Hash of a resolved spec and its scans: equal only where the models would be equal.

        Args:
            normals_sha256: hashes of the scans' contents, in any order.
            identity: what else decides the model, in the types JSON knows: the encoder's
                weights, versions.

        """
        values = self.to_dict().items()
        decisive = {name: value for name, value in values if name not in _INDIFFERENT}
        decisive["network"] = self.autoregressive.to_dict()
        content = {"spec": decisive, "normals": sorted(normals_sha256), **identity}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate(Spec):
    """What a training will take on this machine."""

    embed_s: float
    """Seconds of the stages `read` and `embed`."""
    fit_s: float
    """Seconds of the stages `fit` and `calibrate`."""
    memory_bytes: int
    """Largest amount held at once, on the device that computes."""
    disk_bytes: int
    """Largest amount at once: tokens, arrays of the scene, and the checkpoint twice while it is
    replaced (the model is smaller and comes last). Only the model stays."""
    model_bytes: int
    free_disk_bytes: int
    """Free where the model will lie."""


@dataclass(frozen=True, kw_only=True)
class ScanRow(Spec):
    """One scan that a survey found, as the command line and the panel show it."""

    name: str
    source: dict[str, Any]
    """Where it is (`inputs.ScanSource`), to be handed back to `train`."""
    kind: str = ""
    """`NIfTI`, `NRRD`, `MetaImage`, `DICOM`, `scene` or `folder`."""
    modality: Modality | None = None
    shape_kji: tuple[int, ...] | None = None
    """Voxels along k, j and i; None, like what follows, where the scan was not read."""
    spacing_mm: tuple[float, ...] | None = None
    """Voxel spacing along i, j and k."""
    slices: int | None = None
    """Slices that hold some of the body."""
    status: str = "used"
    """`used` or `excluded`."""
    code: str | None = None
    """Why it is excluded: `unreadable`, `duplicate`, `other-modality`, `other-spacing`,
    `too-small` or `too-many`."""
    reason: str | None = None
    """The same in a sentence."""

    @property
    def used(self) -> bool:
        """Whether a training may use it."""
        return self.status == "used"


@dataclass(frozen=True, kw_only=True)
class SurveyResult(Spec):
    """All scans that a survey found, and what a training on the usable ones would take."""

    rows: tuple[ScanRow, ...]
    modality: Modality | None = None
    fov_mm: float | None = None
    """Field of view of the training in mm; None where no scan can be used."""
    estimate: TrainingEstimate | None = None
    estimate_problem: str | None = None
    """Why there is no estimate."""

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The usable scans, as the job `train` takes them."""
        return [row.source for row in self.rows if row.used]
