"""Volumes as patients: slices at one field of view, truth on the voxels."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from Benchmark.real.patients import Compared, Patient, Patients
from Benchmark.real.png import code_sha256, joint_sha256
from jaxtyping import Bool, Float
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.files import file_sha256
from SpatialARAnomalyLib.engine.slices.intensity import scale_intensity
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import IntensitySpec, Plane, Region, SliceSpec
from SpatialARAnomalyLib.engine.volumes.files import has_volume_suffix, volume_name
from SpatialARAnomalyLib.engine.volumes.geometry import PlaneOrientation
from SpatialARAnomalyLib.engine.volumes.volume import Volume, infer_modality
from SpatialARAnomalyLib.service.evaluation.cases import Case, find_cases
from SpatialARAnomalyLib.service.training.survey import default_fov_mm

PART = re.compile(r"_s\d+-\d+$")
"""End of the name of a part of a scan; what is before it names the patient."""


def thinned(volume: Volume, every: int, plane: Plane) -> Volume:
    """Keep every n-th slice of a plane; slices become thicker."""
    if every == 1:
        return volume
    axis = PlaneOrientation.of(volume.ras_from_voxel, plane).axes[0]
    kept = [slice(None)] * 3
    kept[axis] = slice(every // 2, None, every)
    affine = volume.ras_from_voxel.astype(np.float64)
    column = 2 - axis  # voxels are [k, j, i], columns of the affine i, j, k
    affine[:3, 3] += affine[:3, column] * (every // 2)
    affine[:3, column] *= every
    return Volume(np.ascontiguousarray(volume.voxels[tuple(kept)]), affine, volume.modality)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Settings of the slices of volumes."""

    slices: SliceSpec
    patch_px: int
    every: int
    """Every n-th slice is taken."""
    region: Region

    def stack(self, volume: Volume) -> SliceStack:
        """Cut a volume whose slices are already thinned."""
        modality = infer_modality(volume)
        plane_volume = PlaneVolume(volume, self.slices.plane, modality, self.region)
        intensity = IntensitySpec.for_modality(modality)
        return SliceStack(plane_volume, self.slices, intensity, self.patch_px)


Scan = tuple[SliceStack, Bool[np.ndarray, "n r c"]]
"""Slices of a scan, and the lesion on its voxels [slice, row, column]."""


@dataclass(frozen=True, eq=False)
class ScanPatient(Patient):
    """The scans of one patient."""

    name: str
    cases: Sequence[Case]
    cut: Cut

    def slices(self) -> Iterator[tuple[SliceStack, int, Bool[np.ndarray, "r c"]]]:
        """Yield every slice, as its stack and its index there, with the lesion on it."""
        for stack, lesion in _scans(self):
            for index in stack.indices:
                yield stack, index, lesion[index]

    def __len__(self) -> int:
        """Return the number of images."""
        return sum(stack.tiles for stack, _, _ in self.slices())

    @cached_property
    def sha256(self) -> str:
        """Hash of the files of the scans."""
        return joint_sha256([file_sha256(Path(str(case.scan))) for case in self.cases])

    @cached_property
    def truth_sha256(self) -> str:
        """Hash of the files of the truths."""
        truths = [case.truth for case in self.cases]
        return joint_sha256([file_sha256(Path(str(one))) if one else "" for one in truths])

    def images(self) -> Iterator[Float[np.ndarray, "b 1 s s"]]:
        """Yield the images for the encoder, slice by slice."""
        for stack, index, _ in self.slices():
            yield stack.images(index)

    def inside(self) -> Bool[np.ndarray, "n h w"]:
        """Return the mask of the tokens in the region."""
        return np.concatenate([stack.tokens_inside(index) for stack, index, _ in self.slices()])

    def compared(self, scores: Float[np.ndarray, "n h w"] | None) -> Iterator[Compared]:
        """Yield token scores on the voxels of every slice; without scores, the brightness."""
        start = 0
        for stack, index, lesion in self.slices():
            if scores is None:
                voxels = stack.voxels[index]
                values = scale_intensity(voxels, stack.value_range, stack.intensity)
            else:
                values = stack.slice_from_tokens(scores[start : start + stack.tiles])
                start += stack.tiles
            yield Compared(values, stack.inside(index), lesion)

    def read(self) -> list[tuple[Volume, Bool[np.ndarray, "k j i"]]]:
        """Read every scan and the truth on it, without thinning."""
        return [case.read() for case in self.cases]


@lru_cache(maxsize=128)
def _scans(patient: ScanPatient) -> list[Scan]:
    found = []
    every, plane = patient.cut.every, patient.cut.slices.plane
    for volume, lesion in patient.read():
        stack = patient.cut.stack(thinned(volume, every, plane))
        truth = thinned(Volume(lesion.astype(np.uint8), volume.ras_from_voxel), every, plane)
        found.append((stack, stack.plane_volume.orientation.apply(truth.voxels > 0)))
    return found


def normal_scans(folder: Path) -> dict[str, list[Case]]:
    """Return the volumes of a folder by patient; parts of a scan are `<patient>_s<a>-<b>`."""
    by_patient: dict[str, list[Case]] = {}
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    for file in files:
        if has_volume_suffix(file) and not file.name.startswith("."):
            name = PART.sub("", volume_name(file))
            by_patient.setdefault(name, []).append(Case(file))
    if len(by_patient) < 2:
        raise InputError(
            "too-few-normals",
            f"The normal scans must be of at least 2 patients; {folder.name!r} holds those of "
            f"{len(by_patient)}.",
        )
    return by_patient


def cut_for(
    normals: dict[str, list[Case]], size_px: int, patch_px: int, every: int, region: Region
) -> Cut:
    """Choose the field of view that `train` would."""
    extents, plane = [], Plane.AXIAL
    for cases in normals.values():
        for case in cases:
            volume, _ = case.read()
            extents.append(PlaneVolume(volume, plane, infer_modality(volume), region).extent_mm)
    slices = SliceSpec(plane=plane, fov_mm=default_fov_mm(extents), size_px=size_px)
    return Cut(slices=slices, patch_px=patch_px, every=every, region=region)


def preparation_of(cut: Cut) -> str:
    """Return what decides on the images of scans (`Patients.preparation`)."""
    return f"scans 1, {cut}, {code_sha256('slices')}"


def scan_patients(
    cases: Path, normals: Path, size_px: int, patch_px: int, every: int, region: Region
) -> Patients:
    """Find the patients of a table of cases (`find_cases`) and of a folder of normal scans."""
    training = normal_scans(normals)
    test: dict[str, list[Case]] = {}
    for case in find_cases(cases):
        test.setdefault(case.patient or str(case.scan), []).append(case)
    cut = cut_for(training, size_px, patch_px, every, region)
    return Patients(
        [ScanPatient(name, some, cut) for name, some in training.items()],
        [ScanPatient(name, some, cut) for name, some in test.items()],
        preparation_of(cut),
        {
            "pixels": "the scan's voxels",
            "field_of_view": f"{cut.slices.fov_mm:g} mm",
            "slices": f"every {every}" if every > 1 else "all",
        },
    )
