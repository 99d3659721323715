"""Volumes of a series: frames of one grid, one per position, told apart by what differs."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes.dicom_frames import TRAITS, Frame, Trait

SAME_POSITION_MM = 1e-3
"""Largest distance of images at one position."""

ROUNDED_MM = 0.1
"""Largest distance of images at one position whose places were rounded or drifted, if no other
distance between slices is less than `ROUNDED_PARTS` times as large."""

ROUNDED_PARTS = 10

UNEVEN = 0.1
"""Difference of slice distances, as a share of them, from which frames are not one stack."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of direction cosines, and share of the spacing, within one volume."""

UNIT_TOLERANCE = 1e-2
"""Largest error of the length and angle of direction cosines (some devices round them)."""

MAX_NAMED = 12
"""Number of volumes that a message lists."""


@dataclass(frozen=True, eq=False)
class FrameStack:
    """Frames of one size, orientation and spacing, one per position: a volume to be placed."""

    label: str
    """The difference from the other volumes of the series; "" where it is the only one."""
    frames: tuple[Frame, ...]

    def __str__(self) -> str:
        count = len(self.frames)
        slices = f"{count} slice{'' if count == 1 else 's'}"
        return f"{self.label}, {slices}" if self.label else slices


def split_volumes(frames: Sequence[Frame]) -> tuple[list[FrameStack], list[str]]:
    """Return the volumes of a series, and the names of what sets them apart.

    Frames of another size, orientation or pixel spacing make another volume, and so do those at
    the same position. Raises `InputError` for frames without a place.
    """
    grids = _split_grids(frames)
    pieces = [piece for grid in grids for piece in _split_stacks(*grid)]
    found: list[FrameStack] = []
    differing: list[str] = ["orientation, size or pixel spacing"] if len(grids) > 1 else []
    differing += ["stack"] if len(pieces) > len(grids) else []
    for label, grid in pieces:
        parts, traits = _split_repeats(
            list(zip(_position_numbers(grid), grid, strict=True)), TRAITS
        )
        differing += [one for one in traits if one not in differing]
        for labels, stack in parts:
            name = ", ".join(filter(None, [label, *labels]))
            found.append(FrameStack(name, tuple(stack)))
    return found, differing


def choose_volume(frames: Sequence[Frame], number: int | None) -> FrameStack:
    """Return the volume of that number (from 1), or the only one if None.

    Raises `InputError` that lists the volumes where the choice is open or does not exist.
    """
    stacks, differing = split_volumes(frames)
    if len(stacks) == 1 and number in (None, 1):
        return stacks[0]
    named = [f"{place}: {one}" for place, one in enumerate(stacks[:MAX_NAMED], start=1)]
    listing = "; ".join(named + ["…"] * (len(stacks) > MAX_NAMED))
    if number is not None:
        if 1 <= number <= len(stacks):
            return stacks[number - 1]
        raise InputError(
            "volume-number",
            f"No volume has the number {number}; there are {len(stacks)} ({listing}).",
        )
    if len(_split_grids(frames)) > 1:
        raise InputError(
            "dicom-mixed",
            "All images of a volume must have one size, orientation and pixel spacing; the series "
            f"(a localizer?) holds {len(stacks)} volumes: {listing}.",
            volumes=len(stacks),
        )
    counts = sorted(Counter(_position_numbers(frames)).values())
    what = " and ".join(differing)
    if counts[-1] == 1:
        found = "each has one, but they make no even stack"
    elif len(counts) == 1:
        found = f"all {counts[0]} images lie at one, without extent across the slices"
    elif counts[0] == counts[-1]:
        found = f"each of the {len(counts)} positions has {counts[0]}"
    else:
        found = f"the {len(counts)} positions have {counts[0]} to {counts[-1]}"
    raise InputError(
        "dicom-4d",
        f"Expected one image per position; {found}. They differ in {what} and make "
        f"{len(stacks)} volumes: {listing}.",
        volumes=len(stacks),
    )


def stack_numbers(
    frames: Sequence[Frame], name: str, read: Callable[[Frame], Any], count: int
) -> Float64[np.ndarray, "n m"]:
    """Return an attribute of every frame, one row each; raises `InputError` if one lacks it."""
    found = [values for frame in frames if (values := read(frame)) is not None]
    if len(found) < len(frames):
        raise InputError(
            "dicom-geometry",
            f"Every image of a series must have {name} ({count} numbers); "
            f"{len(frames) - len(found)} of {len(frames)} do not.",
        )
    return np.stack(found)


def _split_grids(frames: Sequence[Frame]) -> list[tuple[str, list[Frame]]]:
    """Split frames by size, orientation and spacing; the largest group first."""
    orientations = stack_numbers(frames, "ImageOrientationPatient", lambda one: one.orientation, 6)
    spacings = stack_numbers(frames, "PixelSpacing", lambda one: one.spacing, 2)
    groups: list[tuple[tuple[int, int], Any, Any, list[Frame]]] = []
    for frame, orientation, spacing in zip(frames, orientations, spacings, strict=True):
        for size, first_orientation, first_spacing, members in groups:
            if (
                size == frame.file.size
                and np.abs(orientation - first_orientation).max() <= ORIENTATION_TOLERANCE
                and np.abs(spacing - first_spacing).max()
                <= ORIENTATION_TOLERANCE * first_spacing.max()
            ):
                members.append(frame)
                break
        else:
            groups.append((frame.file.size, orientation, spacing, [frame]))
    groups.sort(key=lambda group: -len(group[-1]))  # stable
    if len(groups) == 1:
        return [("", list(frames))]
    return [
        (f"{_plane(orientation)} {size[0]} × {size[1]}", members)
        for size, orientation, _, members in groups
    ]


def _split_stacks(label: str, frames: list[Frame]) -> list[tuple[str, list[Frame]]]:
    """Split frames of one grid by their Stack ID, unless they make one even stack together."""
    by_stack: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        by_stack[frame.stack].append(frame)
    if len(by_stack) == 1 or min(map(len, by_stack.values())) < 2:
        return [(label, frames)]
    numbers, heights = _position_numbers(frames), _heights(frames)
    distances = np.diff([heights[numbers.index(one)] for one in range(max(numbers) + 1)])
    if len(distances) == 0 or np.ptp(distances) <= UNEVEN * distances.min():
        return [(label, frames)]
    named = sorted(by_stack.items(), key=lambda one: (len(one[0]), one[0]))  # 2 before 10
    return [(", ".join(filter(None, [label, f"stack {name}"])), part) for name, part in named]


def _plane(orientation: Float64[np.ndarray, " 6"]) -> str:
    normal = np.cross(orientation[:3], orientation[3:])
    return ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]


def _position_numbers(frames: Sequence[Frame]) -> list[int]:
    """Number the positions of frames of one grid along the slice normal, from 0."""
    positions = stack_numbers(frames, "ImagePositionPatient", lambda one: one.position, 3)
    heights = _heights(frames)
    apart_mm = _same_position_mm(heights)
    numbers = [0] * len(frames)
    places: list[Float64[np.ndarray, " 3"]] = []
    place_heights: list[float] = []
    for index in np.argsort(heights, kind="stable").tolist():
        number = len(places)
        # Images at one height may lie beside one another.
        while number and heights[index] - place_heights[number - 1] <= apart_mm:
            number -= 1
            if np.linalg.norm(positions[index] - places[number]) <= ROUNDED_MM:
                break
        else:
            number = len(places)
            places.append(positions[index])
            place_heights.append(heights[index])
        numbers[index] = number
    return numbers


def _heights(frames: Sequence[Frame]) -> Float64[np.ndarray, " n"]:
    """Return the places of frames of one grid along their normal."""
    positions = stack_numbers(frames, "ImagePositionPatient", lambda one: one.position, 3)
    orientation = frames[0].orientation
    assert orientation is not None
    return np.asarray(positions @ np.cross(orientation[:3], orientation[3:]))


def _same_position_mm(heights: Float64[np.ndarray, " n"]) -> float:
    """Return the largest distance of images at one position, by the distances that there are."""
    distances = np.diff(np.sort(heights))
    near = distances <= ROUNDED_MM
    if near.all() or not near.any() or near.sum() < len(distances) / 2:
        return SAME_POSITION_MM
    # Images of one position may be apart by the sum of what separates neighbors.
    spread, start = 0.0, 0.0
    for place, distance in enumerate(distances):
        start = start + distance if near[place] else 0.0
        spread = max(spread, start)
    if distances[~near].min() < ROUNDED_PARTS * spread:
        return SAME_POSITION_MM
    return float(spread) + SAME_POSITION_MM


_Placed = list[tuple[int, Frame]]
"""Frames of one grid, with the numbers of their positions."""


def _repeats(placed: _Placed) -> int:
    """Return the largest number of frames at one position."""
    return max(Counter(position for position, _ in placed).values())


def _split_repeats(
    placed: _Placed, traits: Sequence[Trait]
) -> tuple[list[tuple[list[str], list[Frame]]], list[str]]:
    """Split frames until no position repeats; return labels and frames, and the traits used."""
    repeats = _repeats(placed)
    if repeats == 1:
        return [([], [frame for _, frame in placed])], []
    for number, trait in enumerate(traits):
        by_value: dict[Any, _Placed] = defaultdict(list)
        for position, frame in placed:
            by_value[trait.read(frame)].append((position, frame))
        if not 1 < len(by_value) <= repeats:
            continue
        if max(map(_repeats, by_value.values())) == repeats:
            continue  # it differs between positions, not at one
        labels = _labels(trait, by_value)
        found, used = [], [trait.name]
        ordered = list(by_value)
        if all(map(_is_words, ordered)):  # in the order of the images, after the magnitude
            ordered.sort(key=lambda one: "magnitude" not in (one or ()))
        else:
            ordered.sort(key=lambda one: (one is None, one or 0))
        for value in ordered:
            parts, more = _split_repeats(by_value[value], traits[number + 1 :])
            found += [([labels[value], *deeper], frames) for deeper, frames in parts]
            used += [one for one in more if one not in used]
        return found, used
    by_order: list[list[Frame]] = [[] for _ in range(repeats)]
    at: Counter[int] = Counter()
    for position, frame in sorted(placed, key=lambda one: one[1].order):
        by_order[at[position]].append(frame)
        at[position] += 1
    found = [([f"repeat {place}"], frames) for place, frames in enumerate(by_order, start=1)]
    return found, ["the order of their numbers or times only"]


def _labels(trait: Trait, values: Iterable[Any]) -> dict[Any, str]:
    """Return a label for each value; of several words, only those that not all values share."""
    values = list(values)
    if not all(map(_is_words, values)):
        return {
            value: f"without {trait.name}" if value is None else trait.label(value)
            for value in values
        }
    shared = set.intersection(*(set(value or ()) for value in values))
    return {
        value: trait.label([word for word in value or () if word not in shared])
        or f"other {trait.name}"
        for value in values
    }


def _is_words(value: Any) -> bool:
    return value is None or (
        isinstance(value, tuple) and all(isinstance(one, str) for one in value)
    )
