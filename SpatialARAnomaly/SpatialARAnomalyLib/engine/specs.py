"""The settings of every stage: frozen, checked, and the same on disk as in memory."""

import dataclasses
import math
import sys
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from SpatialARAnomalyLib.engine.errors import SpecError

FREQUENCIES = (1, 2, 4)
"""Of the sines and cosines, in half-periods per half field of view, that tell a position."""

POSITION_FEATURES = 2 + 3 * (1 + 2 * len(FREQUENCIES))
"""What a network is told: two signs for the corner that its scan begins at, and for
each coordinate itself and its waves."""

MAP_SHAPE = (7, 13, 13)
"""Nodes of a map over the body, along slices, rows and columns, from −1 to 1."""


class Plane(StrEnum):
    """The anatomical plane in which slices are cut."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


class Modality(StrEnum):
    """What made the image (DICOM attribute Modality, 0008,0060)."""

    MR = "MR"
    CT = "CT"


class IntensityMethod(StrEnum):
    """How voxel values become [0, 1]."""

    PERCENTILE = "percentile"
    """Two percentiles of the body's voxels (MR has no absolute scale)."""
    WINDOW = "window"
    """Two values of the volume's own unit (CT: Hounsfield units)."""


class Precision(StrEnum):
    """How the encoder multiplies."""

    FLOAT32 = "float32"
    """On every device; the default on every CPU."""
    BFLOAT16 = "bfloat16"
    """Factors of 8 bits, sums in float32 (autocast): faster where there are units for it."""


class Variance(StrEnum):
    """The variance of the Gaussian that the autoregressive model predicts."""

    FIXED = "fixed"
    """One variance for all channels: ranks tokens as the paper's squared error does."""
    CHANNEL = "channel"
    """One variance per channel."""
    FULL = "full"
    """The covariance of all channels: also an unusual combination of usual values counts."""


class Preset(StrEnum):
    """The paper's two networks, and ours by purpose (`Resources/Docs/method.md`)."""

    STANDARD = "standard"
    """The paper's: dilation 1 in all five layers."""
    DILATED = "dilated"
    """The paper's: dilation 4 in all five layers."""
    FAST = "fast"
    """For a look while the patient is still there, and for machines without a GPU."""
    BALANCED = "balanced"
    """The default."""
    THOROUGH = "thorough"
    """Where a few times the computation does not matter."""


SpecT = TypeVar("SpecT", bound="Spec")


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as parsed from JSON, turned into the annotated type `kind`."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (option for option in typing.get_args(kind) if option is not type(None))
        return _read(kind, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise SpecError("spec-type", f"{where} must be a list; found {value!r}.")
        items = typing.get_args(kind)
        if items[-1] is not Ellipsis and len(items) != len(value):
            raise SpecError("spec-type", f"{where} must hold {len(items)} values; found {value!r}.")
        # Figures by the hundred, as a card has them, take a fraction of the time so.
        if items[0] is float and {*map(type, value)} == {float} and all(map(math.isfinite, value)):
            return tuple(value)
        return tuple(_read(items[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise SpecError("spec-type", f"{where} must be an object; found {value!r}.")
        return dict(value)
    if isinstance(kind, type) and issubclass(kind, Spec):
        if not isinstance(value, Mapping):
            raise SpecError("spec-type", f"{where} must be an object; found {value!r}.")
        return kind.from_dict(value)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        try:
            return kind(value)
        except ValueError:
            known = ", ".join(kind)
            raise SpecError(
                "spec-value", f"{where} must be one of {known}; found {value!r}."
            ) from None
    if kind is float and type(value) in (int, float):
        # Also false for NaN, which JSON in Python can carry.
        if not abs(value) <= sys.float_info.max:
            raise SpecError("spec-value", f"{where} must be finite; found {value!r}.")
        return float(value)
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if type(value) is not kind:
        raise SpecError("spec-type", f"{where} must be {kind.__name__}; found {value!r}.")
    return value


def _plain(value: Any) -> Any:
    """`value` in the types JSON knows."""
    if isinstance(value, Spec):
        return value.to_dict()
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


_hints: dict[type, dict[str, Any]] = {}


def _type_hints(kind: type) -> dict[str, Any]:
    """The fields' types, kept: finding them takes longer than reading a card."""
    if kind not in _hints:
        _hints[kind] = typing.get_type_hints(kind)
    return _hints[kind]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Settings that travel: checked when made, read back strictly."""

    @classmethod
    def from_dict(cls: type[SpecT], values: Mapping[str, Any]) -> SpecT:
        """The spec that `to_dict` wrote.

        Raises `SpecError` for a key it does not know (naming the known ones),
        a missing key, or a value of the wrong type or out of range.
        """
        hints = _type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise SpecError(
                "spec-unknown-key",
                f"{cls.__name__} does not know {', '.join(unknown)}; "
                f"it knows: {', '.join(fields)}.",
            )
        missing = [
            name
            for name, field in fields.items()
            if name not in values
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise SpecError("spec-missing-key", f"{cls.__name__} lacks {', '.join(missing)}.")
        return cls(
            **{
                name: _read(hints[name], value, f"{cls.__name__}.{name}")
                for name, value in values.items()
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings in the types JSON knows."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def _require(self, holds: bool, rule: str) -> None:
        if not holds:
            named = [field.name for field in dataclasses.fields(self) if field.name in rule]
            told = ", ".join(f"{name} = {getattr(self, name)!r}" for name in named) or str(self)
            found = textwrap.shorten(told, 300, placeholder=" …")
            raise SpecError("spec-value", f"{rule}; found {found}.")


@dataclass(frozen=True, kw_only=True)
class IntensitySpec(Spec):
    """How voxel values become [0, 1]; the same in training and detection."""

    method: IntensityMethod
    low: float
    """Percentile of the body's voxels, or a value in the volume's unit: becomes 0."""
    high: float
    """Likewise: becomes 1 − `headroom`."""
    headroom: float = 0.0
    """Share of the range kept for what is brighter than `high`, so that a bright
    lesion does not drown in the clip."""

    def __post_init__(self) -> None:
        self._require(
            math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high,
            "low must lie below high",
        )
        self._require(0 <= self.headroom < 1, "headroom must lie in [0, 1)")
        if self.method is IntensityMethod.PERCENTILE:
            self._require(self.low >= 0 and self.high <= 100, "percentiles must lie in [0, 100]")

    @classmethod
    def for_modality(
        cls, modality: Modality, window_hu: tuple[float, float] | None = None
    ) -> "IntensitySpec":
        """The default for a modality: robust percentiles for MR, a soft-tissue window for CT."""
        if modality is Modality.CT:
            low, high = window_hu or (-160.0, 240.0)
            return cls(method=IntensityMethod.WINDOW, low=low, high=high)
        return cls(method=IntensityMethod.PERCENTILE, low=1.0, high=99.0, headroom=0.4)


@dataclass(frozen=True, kw_only=True)
class SliceSpec(Spec):
    """How a volume becomes square images: one field of view and pixel size per model."""

    plane: Plane = Plane.AXIAL
    fov_mm: float
    """Side of the square field of view."""
    size_px: int = 448
    """Side of the image in pixels; a multiple of the encoder's patch."""

    def __post_init__(self) -> None:
        self._require(math.isfinite(self.fov_mm) and self.fov_mm > 0, "fov_mm must be positive")
        self._require(self.size_px > 0, "size_px must be positive")

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel in mm, the same along rows and columns."""
        return self.fov_mm / self.size_px


@dataclass(frozen=True, kw_only=True)
class AutoregressiveSpec(Spec):
    """The masked CNN and its likelihood; the defaults are the paper's.

    What the others are worth is measured in `Resources/Docs/method.md`.
    """

    hidden_channels: int = 256
    dilations: tuple[int, ...] = (1, 1, 1, 1, 1)
    """One 3×3 layer each."""
    variance: Variance = Variance.FIXED
    whitened: bool = False
    """Tokens enter centered, uncorrelated and of unit variance in the body of the
    training scans; loss and variance then count the body only."""
    position: bool = False
    """The network is also told where in the body a token lies."""
    position_variance: bool = False
    """The variance is larger where normal scans differ more."""
    directions: int = 1
    """Raster scans from as many corners of the grid: 1, 2 (opposite ones) or 4."""

    def __post_init__(self) -> None:
        self._require(self.hidden_channels > 0, "hidden_channels must be positive")
        self._require(
            len(self.dilations) >= 2 and min(self.dilations) >= 1,
            "dilations must be two or more positive numbers",
        )
        self._require(self.directions in (1, 2, 4), "directions must be 1, 2 or 4")
        self._require(
            self.position or self.directions == 1,
            "directions other than 1 need position, which tells the network its direction",
        )

    @property
    def uses_places(self) -> bool:
        """Whether it asks where tokens lie (`token_place`)."""
        return self.whitened or self.position or self.position_variance

    @property
    def rich_variance(self) -> bool:
        """Whether its variance has a shape, which training volumes give: a covariance, a map."""
        return self.variance is Variance.FULL or self.position_variance

    @classmethod
    def from_preset(cls, preset: Preset, variance: Variance | None = None) -> "AutoregressiveSpec":
        """The preset's network; `variance` replaces its own.

        `standard` and `dilated` are the paper's (arXiv 2603.02974, its results table).
        """
        spec = {
            Preset.STANDARD: cls(),
            Preset.DILATED: cls(dilations=(4, 4, 4, 4, 4)),
            Preset.FAST: _ours(hidden_channels=96, dilations=(2, 2)),
            Preset.BALANCED: _ours(hidden_channels=192, dilations=(2, 2), directions=2),
            Preset.THOROUGH: _ours(hidden_channels=256, dilations=(2, 2, 2), directions=4),
        }[preset]
        return spec if variance is None else dataclasses.replace(spec, variance=variance)


def _ours(**network: Any) -> AutoregressiveSpec:
    """What our own presets have in common."""
    return AutoregressiveSpec(
        variance=Variance.FULL, whitened=True, position=True, position_variance=True, **network
    )


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(Spec):
    """One training run; the defaults are the paper's."""

    epochs: int = 40
    """Passes over the slices."""
    batch_size: int = 64
    """Slices per step."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW, constant."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    noise_probability: float = 0.2
    """Share of the batches whose input tokens get noise; the target stays clean."""
    noise_scale: float = 0.03
    """Noise as a share of each slice's and channel's spatial standard deviation."""
    held_out_share: float = 0.2
    """Share of the normal volumes (at least one) kept for selection and calibration."""
    seed: int = 42
    """Seed of everything random."""

    def __post_init__(self) -> None:
        self._require(self.epochs >= 1, "epochs must be at least 1")
        self._require(self.batch_size >= 1, "batch_size must be at least 1")
        self._require(0 < self.learning_rate < math.inf, "learning_rate must be positive")
        self._require(0 <= self.weight_decay < math.inf, "weight_decay must not be negative")
        self._require(0 <= self.noise_probability <= 1, "noise_probability must lie in [0, 1]")
        self._require(0 <= self.noise_scale < math.inf, "noise_scale must not be negative")
        self._require(0 < self.held_out_share < 1, "held_out_share must lie in (0, 1)")
        self._require(0 <= self.seed < 2**32, "seed must lie in [0, 2³²)")


@dataclass(frozen=True, kw_only=True)
class FindingsSpec(Spec):
    """Which voxels make a finding."""

    false_positive_rate: float = 0.001
    """Share of the body voxels of held-out normal scans above the threshold."""
    min_volume_ml: float = 0.5
    """Smaller connected regions are not findings."""

    def __post_init__(self) -> None:
        self._require(0 < self.false_positive_rate < 1, "false_positive_rate must lie in (0, 1)")
        self._require(0 <= self.min_volume_ml < math.inf, "min_volume_ml must not be negative")
