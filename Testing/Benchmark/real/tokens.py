"""Embeds images once and keeps their tokens on disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from Benchmark.real.patients import Patient
from Benchmark.real.png import joint_sha256
from Benchmark.real.standin import PREFIX, VGG16
from jaxtyping import Float, Float16
from SpatialARAnomalyLib.engine.encoder.batching import embed_batches, images_at_once
from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore, feature_key
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.service.encoders.loading import load_encoder

BUNDLE_IMAGES = 128
"""Least number of images whose tokens share a file; a file per patient could be too many."""

TokenArray = Float16[np.ndarray, "_ c h w"]


def open_encoder(
    source: str, device: torch.device, allow_download: bool, report: Reporter
) -> Encoder:
    """Load the stand-in (`vgg16:PATH`) or any encoder of the program."""
    if source.startswith(PREFIX):
        return VGG16(Path(source.removeprefix(PREFIX)), device)
    return load_encoder(source, device=device, allow_download=allow_download, report=report)


@dataclass(frozen=True)
class _Bundle:
    """Patients whose tokens share a file."""

    patients: Sequence[Patient]
    key: str
    images: int


def embed(
    patients: Sequence[Patient],
    preparation: str,
    store: FeatureStore,
    encoder: Encoder,
    size_px: int,
    report: Reporter,
) -> list[TokenArray]:
    """Return the tokens of every patient, memory-mapped; those not yet stored are computed.

    Raises:
        InputError: A file cannot be read.
        Cancelled: Through `report`.
    """
    bundles = list(_bundles(patients, preparation, encoder))
    total, done = sum(bundle.images for bundle in bundles), 0
    side, at_once = size_px // encoder.card.patch_px, images_at_once(encoder, size_px)

    def batches(bundle: _Bundle) -> Iterator[Float[np.ndarray, "b c h w"]]:
        nonlocal at_once, done
        for patient in bundle.patients:
            for images in patient.images():
                tokens, at_once = embed_batches(torch.from_numpy(images), encoder, report, at_once)
                yield tokens.cpu().numpy()
                done += len(images)
                report.progress(done, total, "image")

    found: list[TokenArray] = []
    for bundle in bundles:
        before = done
        if bundle.key not in store:
            store.write(
                bundle.key, (bundle.images, encoder.card.channels, side, side), batches(bundle)
            )
        done = before + bundle.images
        report.progress(done, total, "image")
        together, start = store.open(bundle.key), 0
        for patient in bundle.patients:
            found.append(together[start : start + len(patient)])
            start += len(patient)
    return found


def _bundles(patients: Sequence[Patient], preparation: str, encoder: Encoder) -> Iterator[_Bundle]:
    settings = {"encoder": encoder.card.weights_sha256, "preparation_of": preparation}
    chosen: list[Patient] = []
    images = 0
    for patient in patients:
        chosen.append(patient)
        images += len(patient)
        if images >= BUNDLE_IMAGES or patient is patients[-1]:
            sha256 = joint_sha256([one.sha256 for one in chosen])
            yield _Bundle(chosen, feature_key(sha256, **settings), images)
            chosen, images = [], 0
