"""Frames of DICOM files: single images and those of multi-frame objects, each in its place.

A frame's attributes are those of its functional groups (DICOM PS3.3 C.7.6.16), its own before
the shared ones, or else those of the file.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes.dicom_headers import DicomFile, as_numbers, read_value


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a series."""

    file: DicomFile
    index: int = 0
    """Index of the frame in its file."""
    groups: tuple[Any, ...] = ()
    """Functional groups of the frame, and those that all frames share."""

    def find(self, keyword: str, sequence: str | None = None) -> Any:
        """Return an attribute from a sequence of the functional groups, else from the file."""
        for group in self.groups if sequence else ():
            items = read_value(group, sequence or "")
            if items and (value := read_value(items[0], keyword)) is not None:
                return value
        return self.file.value(keyword)

    @cached_property
    def position(self) -> Float64[np.ndarray, " 3"] | None:
        """Center of the first pixel in LPS mm; None if it is not stated."""
        return as_numbers(self.find("ImagePositionPatient", "PlanePositionSequence"), 3)

    @cached_property
    def orientation(self) -> Float64[np.ndarray, " 6"] | None:
        """Directions of a row and a column; None if they are not stated."""
        return as_numbers(self.find("ImageOrientationPatient", "PlaneOrientationSequence"), 6)

    @cached_property
    def spacing(self) -> Float64[np.ndarray, " 2"] | None:
        """Distance of rows, then of columns in mm; None if it is not stated."""
        return as_numbers(self.find("PixelSpacing", "PixelMeasuresSequence"), 2)

    @property
    def order(self) -> tuple[int, tuple[float, ...], str, int]:
        """The order of repeats: number of the image, dimension indices, time, place."""
        number = self.file.integer("InstanceNumber") or 0
        return number, self._dimensions, _time(self) or "", self.index

    @property
    def _dimensions(self) -> tuple[float, ...]:
        """Dimension Index Values (0020,9157): its numbers in the dimensions of its object."""
        found = self.find("DimensionIndexValues", "FrameContentSequence")
        listed = found if hasattr(found, "__iter__") else [found]
        return tuple(number for one in listed if (number := _number_of(one)) is not None)

    @property
    def stack(self) -> str:
        """Stack ID (0020,9056): frames of one volume share it."""
        return str(self.find("StackID", "FrameContentSequence") or "")

    @property
    def thickness_mm(self) -> float | None:
        """Distance from one slice to the next that the header states; None if it states none."""
        for keyword in ("SpacingBetweenSlices", "SliceThickness"):
            thickness = as_numbers(self.find(keyword, "PixelMeasuresSequence"))
            if thickness:
                return abs(float(thickness))  # nuclear medicine allows negative spacing
        return None

    @property
    def rescale(self) -> tuple[float, float]:
        """Slope and intercept (0028,1053 and 1052)."""
        sequence = "PixelValueTransformationSequence"
        slope = as_numbers(self.find("RescaleSlope", sequence))
        intercept = as_numbers(self.find("RescaleIntercept", sequence))
        return float(1.0 if slope is None else slope), float(intercept or 0.0)


def list_frames(files: Iterable[DicomFile]) -> list[Frame]:
    """Return the frames of files in their order.

    Raises `InputError` for a multi-frame object without functional groups, which do the placing.
    """
    frames: list[Frame] = []
    for file in files:
        if file.frames == 1 and not file.value("PerFrameFunctionalGroupsSequence"):
            frames.append(Frame(file))
            continue
        own = file.value("PerFrameFunctionalGroupsSequence") or ()
        if len(own) != file.frames:
            raise InputError(
                "dicom-multiframe",
                f"Expected functional groups that place each of the {file.frames} frames of a "
                f"multi-frame image; found {len(own)}.",
            )
        shared = tuple(file.value("SharedFunctionalGroupsSequence") or ())[:1]
        frames += [Frame(file, index, (group, *shared)) for index, group in enumerate(own)]
    return frames


@dataclass(frozen=True)
class Trait:
    """An attribute by which images at one position may differ."""

    name: str
    read: Callable[[Frame], Any]
    """Return a value that can be compared and sorted with its kind; None if there is none."""
    label: Callable[[Any], str]


_COMPONENTS = {"M": "magnitude", "P": "phase", "R": "real", "I": "imaginary"}
_DIXON = {"W": "water", "F": "fat", "IP": "in phase", "OP": "opposed phase"}


def _image_type(frame: Frame) -> tuple[str, ...] | None:
    sequences = "MRImageFrameTypeSequence", "CTImageFrameTypeSequence"
    for sequence in sequences if frame.groups else ():
        kind = frame.find("FrameType", sequence)
        component = frame.find("ComplexImageComponent", sequence)
        if kind is not None or component is not None:
            found = (*([kind] if isinstance(kind, str) else kind or ()), component or "")
            return tuple(dict.fromkeys(_word(str(one)) for one in found if one))
    return tuple(dict.fromkeys(_word(one) for one in frame.file.image_type)) or None


def _word(value: str) -> str:
    """Return a value of Image Type in plain words: P, PHASE MAP and SW_P_FFE are phase."""
    parts = value.strip().upper().replace(" ", "_").split("_")
    for part in parts:
        for letter, word in _COMPONENTS.items():
            if part in (letter, word.upper()):
                return word
    return _DIXON.get(value.strip().upper(), " ".join(parts).lower())


def _number_of(value: Any) -> float | None:
    """Return a number, also the first of a list and of the bytes of a private attribute."""
    if isinstance(value, bytes):
        try:
            value = float(value.decode("ascii").split("\\")[0])
        except (UnicodeDecodeError, ValueError):
            kind = {4: "<f4", 8: "<f8"}.get(len(value))
            value = np.frombuffer(value, kind)[0] if kind else None
    elif not isinstance(value, (str, int, float)) and hasattr(value, "__iter__"):
        value = next(iter(value), None)
    number = as_numbers(value)
    return None if number is None else round(float(number), 6)


def _b_value(frame: Frame) -> float | None:
    found = _number_of(frame.find("DiffusionBValue", "MRDiffusionSequence"))
    for tag in (0x0019100C, 0x20011003, 0x00431039):
        if found is None:
            found = _number_of(frame.file.value(tag))
    # GE adds 10⁹ to mark b-values of a new kind.
    return None if found is None else found % 1e9


def _gradient(frame: Frame) -> tuple[float, ...] | None:
    found = frame.find("DiffusionGradientOrientation")
    for group in frame.groups:
        for item in (read_value(group, "MRDiffusionSequence") or ())[:1]:
            for inner in (read_value(item, "DiffusionGradientDirectionSequence") or ())[:1]:
                found = read_value(inner, "DiffusionGradientOrientation")
    if found is None:
        found = frame.file.value(0x0019100E)
        if isinstance(found, bytes) and len(found) == 24:
            found = np.frombuffer(found, "<f8")
    if found is None:
        for tags in (
            (0x001910BB, 0x001910BC, 0x001910BD),
            (0x200510B0, 0x200510B1, 0x200510B2),
        ):
            parts = [_number_of(frame.file.value(tag)) for tag in tags]
            found = parts if found is None and None not in parts else found
    vector = as_numbers(found, 3)
    return None if vector is None else tuple(round(float(one), 4) for one in vector)


def _number(keyword: str, sequence: str | None = None, other: str | None = None) -> Any:
    """Return the reader of a numeric attribute, in functional groups under another keyword."""

    def read(frame: Frame) -> float | None:
        found = frame.find(other or keyword, sequence) if frame.groups else None
        return _number_of(frame.file.value(keyword) if found is None else found)

    return read


def _time(frame: Frame) -> str | None:
    found = None
    for keyword in ("FrameAcquisitionDateTime", "FrameReferenceDateTime"):
        found = found or frame.find(keyword, "FrameContentSequence")
    for keyword in ("AcquisitionDateTime", "AcquisitionTime", "ContentTime"):
        found = found or frame.file.value(keyword)
    return str(found) if found else None


def _unit(name: str, unit: str = "") -> Callable[[Any], str]:
    return lambda value: f"{name} {value:g}{unit}"


TRAITS = (
    Trait("series number", _number("SeriesNumber"), _unit("series")),
    Trait("image type", _image_type, ", ".join),
    Trait(
        "echo time",
        _number("EchoTime", "MREchoSequence", "EffectiveEchoTime"),
        _unit("echo time", " ms"),
    ),
    Trait("echo", _number("EchoNumbers"), _unit("echo")),
    Trait(
        "inversion time",
        _number("InversionTime", "MRModifierSequence", "InversionTimes"),
        _unit("inversion time", " ms"),
    ),
    Trait(
        "flip angle",
        _number("FlipAngle", "MRTimingAndRelatedParametersSequence"),
        _unit("flip angle", "°"),
    ),
    Trait("kernel", lambda frame: frame.file.text("ConvolutionKernel") or None, "kernel {}".format),
    Trait("b-value", _b_value, _unit("b-value")),
    Trait(
        "gradient direction",
        _gradient,
        lambda value: "gradient " + " ".join(f"{one:.2f}" for one in value),
    ),
    Trait(
        "time point",
        _number("TemporalPositionIdentifier", "FrameContentSequence", "TemporalPositionIndex"),
        _unit("time point"),
    ),
    Trait(
        "trigger time",
        _number("TriggerTime", "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
        _unit("trigger time", " ms"),
    ),
    Trait("acquisition", _number("AcquisitionNumber"), _unit("acquisition")),
    Trait("time", _time, "time {}".format),
    Trait("image number", _number("InstanceNumber"), _unit("image")),
)
"""Attributes by which images at one position are told apart, in the order of preference."""
