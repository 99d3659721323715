"""The request of a training and the result of a survey; needs numpy alone.

`TrainSpec` is the request of the command line and of Python, the `spec` of the worker's jobs
`survey` and `train`, and the fingerprint by which an unfinished training may be resumed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    Orientation,
    Plane,
    Precision,
    Preset,
    Region,
    SliceSpec,
    Spec,
    TrainingSpec,
)

_WITHOUT_EFFECT = {
    "name", "encoder", "device", "allow_download", "overwrite", "restart", "skip_unusable",
    "orientation", "allow_unstated_orientation",
}  # fmt: skip
"""Fields that do not change the model; the encoder counts by the hash of its weights."""


@dataclass(frozen=True, kw_only=True)
class TrainSpec(TrainingSpec):
    """The settings of a training: everything but its scans and its folder.

    Raises `SpecError` for values that are impossible for any scans.
    """

    name: str | None = None
    """Name of the model; by default that of its file, without the suffix."""
    modality: Modality | None = None
    """Modality of the scans; by default inferred from their files and values."""
    plane: Plane = SliceSpec.plane
    """Plane of the slices."""
    region: Region = Region.BODY
    """Where the model looks: the body, a head without scalp and skull, or the masks that all scans
    come with."""
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
    """Arithmetic of the encoder, in training and detection; by default the device's fastest."""
    preset: Preset = Preset.COMPOSITE
    """The default network (composite), or one of the paper's (standard, dilated)."""
    hidden_channels: int | None = None
    """Channels of the network's hidden layers; by default the preset's."""
    device: Device = Device.AUTO
    """Device to compute on; 'auto' takes the fastest one."""
    allow_download: bool = False
    """Allow downloading encoder weights from the hub."""
    overwrite: bool = False
    """Replace an existing model of the same name."""
    restart: bool = False
    """Discard an unfinished training instead of resuming it."""
    orientation: Orientation | None = None
    """Which form of a NIfTI file counts, where its two disagree; by default neither."""
    allow_unstated_orientation: bool = False
    """Also use scans whose files do not state where left and right are."""
    skip_unusable: bool = False
    """Search folders with all that is below them; exclude unusable scans, with a notice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slices(1.0 if self.fov_mm is None else self.fov_mm)
        if self.window_hu is not None:
            self.intensity(Modality.CT)
        _ = self.autoregressive

    @property
    def training(self) -> TrainingSpec:
        """The settings of the fit."""
        names = (field.name for field in dataclasses.fields(TrainingSpec))
        return TrainingSpec(**{name: getattr(self, name) for name in names})

    @property
    def autoregressive(self) -> AutoregressiveSpec:
        """The preset's network, with `hidden_channels` where they are set."""
        network = AutoregressiveSpec.from_preset(self.preset)
        if self.hidden_channels is None:
            return network
        return dataclasses.replace(network, hidden_channels=self.hidden_channels)

    def slices(self, fov_mm: float) -> SliceSpec:
        """Return the slices at a field of view."""
        return SliceSpec(plane=self.plane, fov_mm=fov_mm, size_px=self.size_px)

    def intensity(self, modality: Modality) -> IntensitySpec:
        """Return how voxel values of that modality become [0, 1]."""
        return IntensitySpec.for_modality(modality, self.window_hu)

    def resolve(self, modality: Modality, fov_mm: float) -> "TrainSpec":
        """Return the spec with the scans' modality and field of view and an explicit network."""
        network = self.autoregressive
        return dataclasses.replace(
            self,
            modality=modality,
            fov_mm=fov_mm,
            hidden_channels=network.hidden_channels,
        )

    def fingerprint(self, normals_sha256: Iterable[str], **identity: Any) -> str:
        """Return a hash of a resolved spec and its scans; equal hashes mean equal models.

        Args:
            normals_sha256: Hashes of the scans' contents, in any order.
            identity: Other JSON values that decide the model: the encoder's weights, versions.
        """
        values = self.to_dict().items()
        decisive = {name: value for name, value in values if name not in _WITHOUT_EFFECT}
        decisive["network"] = self.autoregressive.to_dict()
        content = {"spec": decisive, "normals": sorted(normals_sha256), **identity}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate(Spec):
    """Time, memory and disk that a training takes on this machine."""

    embed_s: float
    """Seconds of the stages `read` and `embed`."""
    fit_s: float
    """Seconds of the stages `fit` and `calibrate`."""
    memory_bytes: int
    """Peak memory, on the device that computes."""
    disk_bytes: int
    """Peak disk space: tokens, arrays of the scene, and the checkpoint twice while it is
    replaced (the model is smaller and comes last). Only the model stays."""
    model_bytes: int
    free_disk_bytes: int
    """Free space on the disk of the model."""


@dataclass(frozen=True, kw_only=True)
class ScanRow(Spec):
    """A scan that a survey found, as the command line and the panel show it."""

    name: str
    source: dict[str, Any]
    """Its place (`ScanSource`), as the job `train` takes it."""
    kind: str = ""
    """`NIfTI`, `NRRD`, `MetaImage`, `DICOM`, `scene` or `folder`."""
    modality: Modality | None = None
    shape_kji: tuple[int, ...] | None = None
    """Voxels along k, j and i; None, as the next two, where the scan was not read."""
    spacing_mm: tuple[float, ...] | None = None
    """Voxel spacing along i, j and k."""
    slices: int | None = None
    """Number of slices that hold some of the body."""
    notes: tuple[str, ...] = ()
    """Notices about its region and mask, a sentence each."""
    status: str = "used"
    """`used` or `excluded`."""
    code: str | None = None
    """Why it is excluded: `unreadable`, `duplicate`, `other-modality`, `other-spacing`,
    `no-orientation` or `too-small`; `unlike` for a used scan that does not look like
    the others."""
    reason: str | None = None
    """The reason as a sentence."""

    @property
    def used(self) -> bool:
        """True where a training may use it."""
        return self.status == "used"

    @property
    def patient(self) -> str:
        """Rule that tells its patient, and the patient's number; empty for an excluded scan."""
        return str(self.source.get("patient", "")) if self.used else ""


@dataclass(frozen=True, kw_only=True)
class SurveyResult(Spec):
    """All scans that a survey found, and the estimate of a training on the usable ones."""

    rows: tuple[ScanRow, ...]
    modality: Modality | None = None
    fov_mm: float | None = None
    """Field of view of the training in mm; None where no scan can be used."""
    estimate: TrainingEstimate | None = None
    estimate_problem: dict[str, Any] | None = None
    """Why there is no estimate: `code`, `text` and `facts` as in the event `failed`."""

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The usable scans, as the job `train` takes them."""
        return [row.source for row in self.rows if row.used]

    @property
    def patients(self) -> int:
        """Number of patients of the usable scans."""
        used = [row.patient for row in self.rows if row.used]
        return len({patient or number for number, patient in enumerate(used)})

    @property
    def problem(self) -> SpatialARError | None:
        """The error that prevented an estimate."""
        found = self.estimate_problem
        if found is None:
            return None
        return SpatialARError(found["code"], found["text"], **found["facts"])
