"""The settings of every stage: frozen, checked, and the same in code, JSON and model cards."""

import dataclasses
import functools
import math
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from SpatialARAnomalyLib.engine.errors import SpecError


class Plane(StrEnum):
    """Anatomical plane in which slices are cut."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


class Modality(StrEnum):
    """Supported values of the DICOM attribute Modality (0008,0060)."""

    MR = "MR"
    CT = "CT"


class Orientation(StrEnum):
    """The matrices by which a NIfTI header places voxels."""

    SFORM = "sform"
    QFORM = "qform"


class Region(StrEnum):
    """Part of a scan that a model looks at; whatever else is there has no score."""

    BODY = "body"
    """The whole body."""
    HEAD_INTERIOR = "head-interior"
    """A head without scalp and skull; the whole body where there are none."""
    MASK = "mask"
    """A mask that every scan comes with."""


class IntensityMethod(StrEnum):
    """Method that scales voxel values to [0, 1]."""

    PERCENTILE = "percentile"
    """Between two percentiles of the body's voxels (MR has no absolute scale)."""
    WINDOW = "window"
    """Between two values in the volume's own unit (CT: Hounsfield units)."""


class Precision(StrEnum):
    """Arithmetic of the encoder."""

    FLOAT32 = "float32"
    """Available on every device; the default on CPUs."""
    BFLOAT16 = "bfloat16"
    """Products of 8-bit factors, sums in float32 (autocast): faster on suitable hardware."""


class Preset(StrEnum):
    """The default network and the paper's two (`Resources/Docs/method.md`)."""

    COMPOSITE = "composite"
    """The default: two networks of the paper's form, one with near and one with far context."""
    STANDARD = "standard"
    """The paper's network with dilation 1 in all five layers."""
    DILATED = "dilated"
    """The paper's network with dilation 4 in all five layers."""


SpecT = TypeVar("SpecT", bound="Spec")


def _parse(kind: Any, value: Any, where: str) -> Any:
    """Convert `value`, as parsed from JSON, to the annotated type `kind`."""

    def error(code: str, expected: str) -> SpecError:
        return SpecError(code, f"{where} must {expected}; found {value!r}.")

    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (option for option in typing.get_args(kind) if option is not type(None))
        return _parse(kind, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise error("spec-type", "be a list")
        items = typing.get_args(kind)
        if items[-1] is not Ellipsis and len(items) != len(value):
            raise error("spec-type", f"hold {len(items)} values")
        # Much faster for the hundreds of numbers of a card.
        if items[0] is float and {*map(type, value)} == {float} and all(map(math.isfinite, value)):
            return tuple(value)
        return tuple(_parse(items[0], item, where) for item in value)
    is_spec = isinstance(kind, type) and issubclass(kind, Spec)
    if is_spec or origin is dict:
        if not isinstance(value, Mapping):
            raise error("spec-type", "be an object")
        return kind.from_dict(value) if is_spec else dict(value)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        try:
            return kind(value)
        except ValueError:
            raise error("spec-value", f"be one of {', '.join(kind)}") from None
    if kind is float and type(value) in (int, float):
        # NaN, which Python's JSON can hold, fails every comparison.
        if not abs(value) <= sys.float_info.max:
            raise error("spec-value", "be finite")
        return float(value)
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    if type(value) is not kind:
        raise error("spec-type", f"be {kind.__name__}")
    return value


def _to_json(value: Any) -> Any:
    """Convert `value` to the types of JSON."""
    if isinstance(value, Spec):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return str(value) if isinstance(value, (StrEnum, Path)) else value


_type_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)
"""Cached, because finding the types takes longer than reading a card."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base of all settings: checked when made, read back strictly."""

    @classmethod
    def from_dict(cls: type[SpecT], values: Any) -> SpecT:
        """Read what `to_dict` wrote.

        Raises `SpecError` for an unknown or missing key, or a value of the wrong type or out
        of range.
        """
        if not isinstance(values, Mapping):
            raise SpecError("spec-type", f"{cls.__name__} must be an object.")
        hints = _type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise SpecError(
                "spec-unknown-key",
                f"{cls.__name__} has no key {', '.join(unknown)}; "
                f"its keys are: {', '.join(fields)}.",
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
        parsed = {
            name: _parse(hints[name], value, f"{cls.__name__}.{name}")
            for name, value in values.items()
        }
        return cls(**parsed)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings in the types of JSON."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name: _to_json(getattr(self, name)) for name in names}

    def _require(self, holds: bool, rule: str) -> None:
        """Raise `SpecError` with the rule and the fields it names, unless it holds."""
        if not holds:
            named = [field.name for field in dataclasses.fields(self) if field.name in rule]
            values = ", ".join(f"{name} = {getattr(self, name)!r}" for name in named)
            found = textwrap.shorten(values or str(self), 300, placeholder=" …")
            raise SpecError("spec-value", f"{rule}; found {found}.")


@dataclass(frozen=True, kw_only=True)
class IntensitySpec(Spec):
    """Scaling of voxel values to [0, 1], the same in training and detection."""

    method: IntensityMethod
    low: float
    """Scaled to 0: a percentile of the body's voxels, or a value in the volume's unit."""
    high: float
    """Scaled to 1 − `headroom`; otherwise as `low`."""
    headroom: float = 0.0
    """Share of the range reserved above `high`, so that bright lesions are not clipped."""

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
        """Return the default: robust percentiles for MR, a soft-tissue window for CT."""
        if modality is Modality.CT:
            low, high = window_hu or (-160.0, 240.0)
            return cls(method=IntensityMethod.WINDOW, low=low, high=high)
        return cls(method=IntensityMethod.PERCENTILE, low=1.0, high=99.0, headroom=0.4)


MAX_SIZE_PX = 8192
"""Largest side of a slice in pixels."""


@dataclass(frozen=True, kw_only=True)
class SliceSpec(Spec):
    """Slicing of volumes into square images: one field of view and pixel size per model."""

    plane: Plane = Plane.AXIAL
    fov_mm: float
    """Side of the square field of view in mm."""
    size_px: int = 448
    """Side of a slice image in pixels; a multiple of the encoder's patch."""

    def __post_init__(self) -> None:
        self._require(math.isfinite(self.fov_mm) and self.fov_mm > 0, "fov_mm must be positive")
        self._require(self.size_px > 0, "size_px must be positive")
        self._require(self.size_px <= MAX_SIZE_PX, f"size_px must be at most {MAX_SIZE_PX}")

    @property
    def pixel_mm(self) -> float:
        """Side of a square pixel in mm."""
        return self.fov_mm / self.size_px


@dataclass(frozen=True, kw_only=True)
class AutoregressiveSpec(Spec):
    """The masked CNN, in one or several branches.

    The defaults are the paper's `standard`; `Resources/Docs/method.md` compares the presets.
    """

    hidden_channels: int = 256
    """Channels of the hidden layers of every branch."""
    layers: int = 5
    """Number of 3×3 layers of every branch."""
    dilations: tuple[int, ...] = (1,)
    """Dilation of all layers of a branch, one value per branch."""
    shrinkage: float = 1.0
    """Share of the prediction errors' covariance that equal variances replace, in (0, 1]."""

    def __post_init__(self) -> None:
        # Upper limits, because a model of a stranger may state anything.
        self._require(self.hidden_channels > 0, "hidden_channels must be positive")
        self._require(self.layers >= 2, "layers must be at least 2")
        self._require(self.layers <= 64, "layers must be at most 64")
        self._require(len(self.dilations) <= 16, "there must be at most 16 dilations")
        self._require(
            len(self.dilations) >= 1 and min(self.dilations) >= 1,
            "dilations must be one or more positive numbers",
        )
        self._require(0 < self.shrinkage <= 1, "shrinkage must lie in (0, 1]")

    @classmethod
    def from_preset(cls, preset: Preset) -> "AutoregressiveSpec":
        """Return the preset's network.

        `standard` and `dilated` are in the results table of arXiv 2603.02974.
        """
        return {
            Preset.COMPOSITE: cls(hidden_channels=128, dilations=(2, 4), shrinkage=0.97),
            Preset.STANDARD: cls(),
            Preset.DILATED: cls(dilations=(4,)),
        }[preset]


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(Spec):
    """Optimization of a training run; the defaults are the paper's."""

    epochs: int = 40
    """Passes over the slices."""
    batch_size: int = 64
    """Slices per step."""
    learning_rate: float = 1e-3
    """Constant learning rate of AdamW."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    noise_probability: float = 0.2
    """Share of the batches whose input tokens get noise; the target stays clean."""
    noise_scale: float = 0.03
    """Noise as a share of each slice's and channel's spatial standard deviation."""
    held_out_share: float = 0.2
    """Share of the patients (at least one) kept for selection and calibration."""
    seed: int = 42
    """Seed of all random numbers."""

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
    """Settings of findings."""

    false_positive_rate: float = 0.001
    """Share of the body voxels of held-out normal scans above the threshold."""
    min_volume_ml: float = 0.5
    """Volume of the smallest finding in milliliters."""
    refine_outlines: bool = False
    """Move the outlines of findings to edges of the image, by at most one token."""

    def __post_init__(self) -> None:
        self._require(0 < self.false_positive_rate < 1, "false_positive_rate must lie in (0, 1)")
        self._require(0 <= self.min_volume_ml < math.inf, "min_volume_ml must not be negative")


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec(FindingsSpec):
    """Settings of an evaluation: those of findings, and of bootstrap intervals."""

    resamples: int = 1000
    """Bootstrap samples of the patients for the intervals; 0 for no intervals."""
    seed: int = 0
    """Seed of the bootstrap samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0 <= self.resamples <= 100_000, "resamples must lie in [0, 100000]")
        self._require(self.seed >= 0, "seed must not be negative")
