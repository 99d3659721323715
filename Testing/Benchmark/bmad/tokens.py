"""Embeds BMAD's images once and keeps their tokens on disk."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from Benchmark.bmad.images import image_error, load_batch
from Benchmark.bmad.layout import ImageFile, group_by_patient
from jaxtyping import Float
from SpatialARAnomalyLib.engine.encoder.batching import (
    embed_batches,
    images_at_once,
)
from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
from SpatialARAnomalyLib.engine.files import file_sha256
from SpatialARAnomalyLib.engine.model.feature_store import (
    FeatureStore,
    feature_key,
)
from SpatialARAnomalyLib.engine.progress import Reporter

PREPARATION = "bmad 1"
"""Version of the processing from PNG to tokens; a change makes stored tokens obsolete."""

IMAGES_PER_BATCH = 16
BUNDLE_IMAGES = 128
"""Minimum number of images whose tokens share a file."""


@dataclass(frozen=True)
class Patient:
    """The images of one patient."""

    images: Sequence[ImageFile]
    sha256: str
    """Hash of the image files."""


@dataclass(frozen=True)
class Bundle:
    """Patients whose tokens share a file; one file each could exceed the limit of open files."""

    patients: Sequence[Patient]
    key: str
    """Key of the tokens in the feature store."""

    @property
    def images(self) -> list[ImageFile]:
        """The images of all patients, in the order of the stored tokens."""
        return [image for patient in self.patients for image in patient.images]


def token_settings(encoder: Encoder, size_px: int) -> dict[str, Any]:
    """Collect all settings that determine the tokens of an image."""
    return {
        "preparation": PREPARATION,
        "size_px": size_px,
        "encoder": encoder.card.weights_sha256,
    }


def make_bundles(
    images: Sequence[ImageFile],
    settings: dict[str, Any],
    report: Reporter,
    *,
    done: int,
    total: int,
) -> list[Bundle]:
    """Hash images and group their patients into bundles.

    Args:
        images: Images in the order of `group_by_patient`.
        settings: The settings of `token_settings`.
        report: Receives the progress and cancels.
        done: Number of images hashed before these.
        total: Number of all images to hash.

    Raises:
        InputError: `bmad-image` if a file cannot be read.
        Cancelled: Through `report`.
    """
    found: list[list[Patient]] = [[]]
    for group in group_by_patient(images):
        report.check_cancelled()
        if sum(len(patient.images) for patient in found[-1]) >= BUNDLE_IMAGES:
            found.append([])
        sha256 = joint_sha256([hash_image(image.path) for image in group])
        found[-1].append(Patient(group, sha256))
        done += len(group)
        report.progress(done, total, "image")
    return [
        Bundle(some, feature_key(joint_sha256([one.sha256 for one in some]), **settings))
        for some in found
    ]


def hash_image(path: Path) -> str:
    """Hash an image file. Raises `InputError` `bmad-image` if it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise image_error(path, error.strerror or error) from None


def joint_sha256(parts: Sequence[str]) -> str:
    """Hash a sequence of hashes."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def embed_bundles(
    bundles: Sequence[Bundle],
    store: FeatureStore,
    encoder: Encoder,
    size_px: int,
    report: Reporter,
) -> None:
    """Compute and store the tokens of all bundles that are not stored yet."""
    total = sum(len(bundle.images) for bundle in bundles)
    side = size_px // encoder.card.patch_px
    done = colored = 0
    at_once = images_at_once(encoder, size_px)

    def batches(images: Sequence[ImageFile], before: int) -> Iterator[Float[np.ndarray, "b c h w"]]:
        nonlocal at_once, colored
        for start in range(0, len(images), IMAGES_PER_BATCH):
            report.check_cancelled()
            chosen = images[start : start + IMAGES_PER_BATCH]
            batch, with_colors = load_batch(chosen, size_px)
            colored += with_colors
            tokens, at_once = embed_batches(batch, encoder, report, at_once)
            yield tokens.cpu().numpy()
            report.progress(before + start + len(chosen), total, "image")

    for bundle in bundles:
        images = bundle.images
        if bundle.key not in store:
            shape = (len(images), encoder.card.channels, side, side)
            store.write(bundle.key, shape, batches(images, done))
        done += len(images)
        report.progress(done, total, "image")
    if colored:
        report.notice(
            "bmad-color", f"{colored} images have colors and were reduced to their luminance."
        )
