"""A head's slices and tokens: embedded once per encoder and kept on disk."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from Benchmark.suite.heads import Head, HeadScan, read_scan
from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
from SpatialARAnomalyLib.engine.files import file_sha256
from SpatialARAnomalyLib.engine.model.feature_store import (
    FeatureStore,
    feature_key,
)
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.scoring.scoring import embed_slices
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import (
    IntensitySpec,
    Modality,
    Plane,
    SliceSpec,
)


@dataclass(frozen=True, eq=False)
class Scan:
    """A method's view of a head: tokens [n, c, h, w] of n slices."""

    head: Head
    path: Path
    slices: SliceSpec
    patch_px: int
    tokens: np.ndarray
    """Tokens as float16, memory-mapped."""

    @cached_property
    def stored(self) -> HeadScan:
        """The voxels and what is known of them."""
        return read_scan(self.path)

    @cached_property
    def stack(self) -> SliceStack:
        """The slices as images, and the way back to voxels."""
        intensity = IntensitySpec.for_modality(Modality.MR)
        plane_volume = PlaneVolume(self.stored.volume, self.slices.plane, Modality.MR)
        return SliceStack(plane_volume, self.slices, intensity, self.patch_px)

    @cached_property
    def inside(self) -> np.ndarray:
        """Mask [n, h, w] of the tokens whose center lies in the body."""
        return np.concatenate([self.stack.tokens_inside(index) for index in self.stack.indices])

    @cached_property
    def positions_mm(self) -> np.ndarray:
        """Center (right, anterior, superior) of every token [n, h, w, 3], in RAS."""
        stack, volume = self.stack, self.stored.volume
        rows, columns = (
            axis.voxel_of_pixel(0, axis.pixel_of_token(np.arange(axis.tokens)))
            for axis in (stack.rows, stack.columns)
        )
        place = np.meshgrid(stack.indices, rows, columns, indexing="ij")
        affine = stack.plane_volume.orientation.ras_from_plane(
            volume.ras_from_voxel, volume.voxels.shape
        )
        return np.stack(place[::-1], axis=-1) @ affine[:3, :3].T + affine[:3, 3]

    def share_of_tokens(self, mask: np.ndarray) -> np.ndarray:
        """Compute the share [n, h, w] of every token's patch that a mask [k, j, i] covers."""
        stack, patch = self.stack, self.patch_px
        turned = stack.plane_volume.orientation.apply(mask)[stack.indices].astype(np.float32)
        pixels = np.einsum(
            "sr,nrc,uc->nsu",
            stack.rows.pixels_from_voxels[0],
            turned,
            stack.columns.pixels_from_voxels[0],
            optimize=True,
        )
        n, height, width = (len(turned), stack.rows.tokens, stack.columns.tokens)
        return pixels.reshape(n, height, patch, width, patch).mean(axis=(2, 4))

    def on_voxels(self, scores: np.ndarray) -> np.ndarray:
        """Interpolate token scores [n, h, w] to the voxels [k, j, i]; NaN where there are none."""
        return self.stack.volume_from_tokens(
            list(scores[:, None].astype(np.float32)), outside=np.nan
        )


@dataclass
class Embedder:
    """Turns the files of scans into `Scan`s and measures the time."""

    encoder: Encoder
    slices: SliceSpec
    store: FeatureStore
    seconds: float = 0.0
    embedded: int = 0
    """Number of slices that were embedded and not read from disk."""

    def scan(self, head: Head, path: Path) -> Scan:
        """Return the head's tokens, embedded unless they are on disk."""
        card = self.encoder.card
        key = feature_key(
            file_sha256(path), slices=self.slices.to_dict(), encoder=card.weights_sha256
        )
        patch = card.patch_px
        if key not in self.store:
            scan = Scan(head, path, self.slices, patch, np.empty(0))
            if scan.stack.tiles != 1:
                raise ValueError(f"{head.name} is wider than {self.slices.fov_mm:g} mm.")
            side = self.slices.size_px // patch
            shape = (len(scan.stack.indices), card.channels, side, side)
            start = time.perf_counter()
            found = embed_slices(scan.stack, self.encoder, SilentReporter())
            tokens = (one.cpu().numpy() for one in found)
            self.store.write(key, shape, tokens)
            self.seconds += time.perf_counter() - start
            self.embedded += shape[0]
        return Scan(head, path, self.slices, patch, self.store.open(key))


def axial(fov_mm: float, size_px: int) -> SliceSpec:
    """Make the specification of axial slices with one field of view."""
    return SliceSpec(plane=Plane.AXIAL, fov_mm=fov_mm, size_px=size_px)
