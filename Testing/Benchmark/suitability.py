"""How often the suitability check flags scans that are like a model's normal scans, or unlike.

PYTHONPATH=SpatialARAnomaly python Testing/Benchmark/suitability.py NORMALS --others T1=FOLDER
    --others tumor=FOLDER --vary 4 --encoder demonstration

Prints, in Markdown, of how many scans of each kind the check says that they are unlike: fresh
persons (each fold of persons in turn is left out), the folders given with --others, and variants of
every --vary-th scan: inverted, turned by 90° about each axis, PET-like (inverted, blurred to 7 mm,
noisy), without its outer 18 mm. With few normal scans: means over draws of persons.
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from SpatialARAnomalyLib.engine.cards.suitability import MEASURES, Look, verdicts
from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.scoring.scoring import embed_slices, mean_token
from SpatialARAnomalyLib.engine.scoring.suitability_fit import fit_suitability, measure_volume
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import IntensitySpec, Modality, Plane, SliceSpec
from SpatialARAnomalyLib.engine.volumes.files import has_volume_suffix
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom import normal_head
from SpatialARAnomalyLib.service.demo.phantom_anatomy import Tissue
from SpatialARAnomalyLib.service.encoders.loading import load_encoder
from SpatialARAnomalyLib.service.scans import read_volume
from SpatialARAnomalyLib.service.training.survey import default_fov_mm

HOUNSFIELD = {
    Tissue.AIR: -1000, Tissue.SKIN: 40, Tissue.FAT: -90, Tissue.MUSCLE: 55, Tissue.BONE: 900,
    Tissue.MARROW: 250, Tissue.EYE: 10, Tissue.OUTER_CSF: 8, Tissue.SULCUS: 10,
    Tissue.VENTRICLE: 6, Tissue.GRAY: 38, Tissue.DEEP_GRAY: 38, Tissue.WHITE: 29,
}  # fmt: skip

VARIED_MM = 1.5
"""Voxels of the turned variants, isotropic, so that only the content is turned."""

FEW = (3, 5, 10)
"""Numbers of persons of small models."""

DRAWS = 6


def variants(volume: Volume, random: np.random.Generator) -> dict[str, Volume]:
    """Make the scans of one scan that must be flagged."""
    voxels = volume.voxels.astype(np.float32)
    spacing = volume.spacing_mm[::-1]
    view = PlaneVolume(volume, Plane.AXIAL, Modality.MR)
    body = view.orientation.undo(view.region)
    top = np.percentile(voxels[body], 99.5)
    inverted = np.where(voxels > 0.02 * voxels.max(), top - np.minimum(voxels, top), 0)
    blurred = ndimage.gaussian_filter(inverted, [7 / 2.355 / mm for mm in spacing])
    noise = random.normal(size=voxels.shape) * 0.05 * np.sqrt(blurred * blurred.max())
    depth = ndimage.distance_transform_edt(np.pad(body, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    made = {
        "inverted": Volume(inverted, volume.ras_from_voxel),
        "PET-like": Volume(np.maximum(blurred + noise, 0), volume.ras_from_voxel),
        "outer 18 mm removed": Volume(np.where(depth > 18, voxels, 0), volume.ras_from_voxel),
    }
    even = ndimage.zoom(voxels, [mm / VARIED_MM for mm in spacing], order=1)
    step = max(1, round(spacing[0] / VARIED_MM))
    signs = np.sign(np.diag(volume.ras_from_voxel)[:3])
    affine = np.diag([*(signs * [VARIED_MM, VARIED_MM, VARIED_MM * step]), 1.0])
    for name, axes in {"S": (1, 2), "R": (0, 1), "A": (0, 2)}.items():
        turned = np.rot90(even, axes=axes)[::step]
        made[f"turned 90° about {name}"] = Volume(np.ascontiguousarray(turned), affine)
    return {name: one for name, one in made.items() if np.ptp(one.voxels) > 0}


def phantoms(seed: int) -> dict[str, Volume]:
    """Make heads of T1-weighted MR, with and without skull, and of CT, and a trunk."""
    head, random = normal_head(seed), np.random.default_rng(seed)
    hounsfield = np.zeros(head.voxels.shape, np.float32)
    for tissue, value in HOUNSFIELD.items():
        hounsfield[head.tissues == tissue] = value
    hounsfield = ndimage.gaussian_filter(hounsfield, (0, 0.6, 0.6))
    hounsfield += random.normal(size=hounsfield.shape) * 5
    z, y, x = np.mgrid[0:24, 0:192, 0:192].astype(np.float32)
    radius = ((x - 96) / 78) ** 2 + ((y - 96) / 58) ** 2
    trunk = np.select([radius < 0.8, radius < 1], [300.0, 900.0])
    for _ in range(60):
        middle, reach = random.uniform((0, 40, 30), (24, 150, 165)), random.uniform(6, 30, 3)
        away = sum(((a - b) / c) ** 2 for a, b, c in zip((z, y, x), middle, reach, strict=True))
        trunk[(away < 1) & (radius < 0.72)] = random.uniform(150, 800)
    trunk += random.normal(size=trunk.shape) * 15
    return {
        "drawn T1 head with skull": Volume(head.voxels, head.ras_from_voxel),
        "drawn T1 head without skull": Volume(
            np.where(head.brain, head.voxels, 0), head.ras_from_voxel
        ),
        "drawn CT head": Volume(np.maximum(hounsfield + 1000, 0), head.ras_from_voxel),
        "drawn trunk": Volume(np.maximum(trunk, 0), np.diag([-1.2, -1.2, 6.0, 1.0])),
    }


def look_of(volume: Volume, encoder: Encoder, slices: SliceSpec, most: int) -> Look:
    """Measure a scan, its tokens from at most so many slices."""
    plane_volume = PlaneVolume(volume, slices.plane, Modality.MR)
    intensity = IntensitySpec.for_modality(Modality.MR)
    stack = SliceStack(plane_volume, slices, intensity, encoder.card.patch_px)
    stack.indices = stack.indices[:: -(-len(stack.indices) // most)]
    tokens = embed_slices(stack, encoder, SilentReporter())
    means = [
        mean_token(stack, index, one) for index, one in zip(stack.indices, tokens, strict=True)
    ]
    return Look(*measure_volume(plane_volume, Modality.MR), np.concatenate(means))


def scans(folder: Path) -> dict[str, Path]:
    """Return the volume files of a folder by name; those of ground truth are left out."""
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if has_volume_suffix(path) and "_truth" not in path.name
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("normals", type=Path)
    parser.add_argument("--others", action="append", default=[], metavar="KIND=FOLDER")
    parser.add_argument("--vary", type=int, default=6, help="step between scans that are varied")
    parser.add_argument("--encoder", default="demonstration")
    parser.add_argument("--size-px", type=int, default=224)
    parser.add_argument("--slices", type=int, default=24, help="most slices embedded per scan")
    options = parser.parse_args()
    torch.set_num_threads(1)
    encoder = load_encoder(options.encoder, device="cpu", allow_download=False)

    files = scans(options.normals)
    extents = [
        PlaneVolume(read_volume(path), Plane.AXIAL, Modality.MR).extent_mm
        for path in files.values()
    ]
    slices = SliceSpec(fov_mm=default_fov_mm(extents), size_px=options.size_px)

    def look(volume: Volume) -> Look:
        return look_of(volume, encoder, slices, options.slices)

    normals: list[Look] = []
    others: dict[str, list[Look]] = defaultdict(list)
    random = np.random.default_rng(0)
    for number, path in enumerate(files.values()):
        volume = read_volume(path)
        normals.append(look(volume))
        if number % options.vary == 0:
            for kind, varied in variants(volume, random).items():
                others[kind].append(look(varied))
    for seed in range(3):
        for kind, volume in phantoms(seed).items():
            others[kind].append(look(volume))
    for given in options.others:
        kind, folder = given.split("=", 1)
        others[kind] += [look(read_volume(path)) for path in scans(Path(folder)).values()]

    # Parts of one stack are named by their slices.
    persons = [re.sub(r"_s\d.*|\..*", "", name) for name in files]
    fitted = fit_suitability(normals, persons)
    print(f"{len(normals)} normal scans of {len(set(persons))} persons, {slices.fov_mm:g} mm\n")
    print("| scans | flagged | contrast | shape | tokens |\n| --- | --- | --- | --- | --- |")
    usual = np.median(fitted.distances, axis=0)
    flagged = sum(one.unlike for one in verdicts(fitted.distances, MEASURES))
    print(f"| **normal, each left out** | {flagged} of {len(normals)} | 1 | 1 | 1 |")
    for kind, looks in others.items():
        flagged = sum(fitted.verdict(one).unlike for one in looks)
        factors = [
            np.median([getattr(fitted, name).distance(one.rows(name)) for one in looks]) / by
            for name, by in zip(MEASURES, usual, strict=True)
        ]
        cells = " | ".join(f"{one:.1f}" for one in factors)
        print(f"| {kind} | {flagged} of {len(looks)} | {cells} |")

    people = np.array(persons)
    print(f"\n| scans | {' | '.join(f'{n} persons' for n in FEW)} |\n| --- |{' --- |' * len(FEW)}")
    rows: dict[str, list[float]] = defaultdict(list)
    for count in FEW:
        found: dict[str, list[bool]] = defaultdict(list)
        for _ in range(DRAWS):
            inside = np.isin(people, random.permutation(np.unique(people))[:count])
            small = fit_suitability(
                [one for one, yes in zip(normals, inside, strict=True) if yes],
                people[inside].tolist(),
            )
            rest = [one for one, yes in zip(normals, inside, strict=True) if not yes]
            for kind, looks in {"**normal, fresh persons**": rest, **others}.items():
                found[kind] += [bool((v := small.verdict(one)) and v.unlike) for one in looks]
        for kind, one in found.items():
            rows[kind].append(float(np.mean(one)))
    for kind, shares in rows.items():
        print(f"| {kind} | {' | '.join(f'{share:.2f}' for share in shares)} |")


if __name__ == "__main__":
    main()
