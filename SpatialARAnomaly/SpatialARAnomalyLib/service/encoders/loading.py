"""Load an encoder for a job; nothing is downloaded before the license was accepted."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.errors import EncoderError
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.engine.progress import (
    Reporter,
    SilentReporter,
)
from SpatialARAnomalyLib.engine.specs import Precision
from SpatialARAnomalyLib.service.encoders import registry
from SpatialARAnomalyLib.service.encoders.dinov3_license import require_accepted
from SpatialARAnomalyLib.service.encoders.hub import (
    cached_folder,
    download,
    is_hub_id,
    looks_like_path,
)
from SpatialARAnomalyLib.service.encoders.hub_errors import (
    OTHER_WAYS,
    UNGATED_ID,
)

if TYPE_CHECKING:
    import torch

    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder


def load_encoder(
    source: str,
    *,
    device: "torch.device | str",
    precision: Precision = Precision.FLOAT32,
    allow_download: bool,
    report: Reporter | None = None,
) -> "Encoder":
    """Load the encoder that `source` names.

    Args:
        source: `demonstration`, a folder, a `.safetensors` file, or a hub id. A path that exists
            wins over a hub id, which is looked up in the hub's cache on this machine first.
        device: Where it computes.
        precision: How it multiplies.
        allow_download: Whether weights that are not on this machine may be downloaded.
        report: Receives the progress of a download.

    Raises:
        EncoderError: `license-not-accepted`, `encoder-not-local`, `encoder-missing`, and those of
            `engine.encoder.load_encoder` and `encoder_hub.download`.
    """
    is_here = source == DEMONSTRATION or os.path.exists(Path(source).expanduser())
    hub_id, revision = None, None
    if not is_here and is_hub_id(source):
        folder = hub_folder(source, allow_download=allow_download, report=report)
        hub_id, revision, source = source, folder.name, os.fspath(folder)
    elif not is_here and not looks_like_path(source):
        raise EncoderError(
            "encoder-missing",
            "Expected 'demonstration', a folder, a .safetensors file or a hub id "
            f"'owner/name'; found '{source}'.",
            f"The ungated DINOv3 ViT-S is '{UNGATED_ID}'.",
        )
    from SpatialARAnomalyLib.engine.encoder import encoder

    return encoder.load_encoder(
        source, device=device, precision=precision, hub_id=hub_id, revision=revision
    )


def hub_folder(hub_id: str, *, allow_download: bool, report: Reporter | None = None) -> Path:
    """Return the folder of the hub's cache with the weights; its name is the commit.

    No request is made where it is there.

    Raises:
        EncoderError: `license-not-accepted`, `encoder-not-local`, and those of
            `encoder_hub.download`.
    """
    folder = cached_folder(hub_id)
    if folder is not None:
        return folder
    if allow_download:
        require_accepted()
        return download(hub_id, report or SilentReporter())
    raise EncoderError(
        "encoder-not-local",
        f"The weights of '{hub_id}' are not on this machine, and nothing is downloaded "
        "without permission.",
        f"Get them (spatial-ar-anomaly encoders get {hub_id}, or --allow-download); {OTHER_WAYS}",
    )


def load_model_encoder(
    card: ModelCard, source: str | None, device: "torch.device", allow_download: bool
) -> "Encoder":
    """The model's encoder on `device`, from `source` or else from where it was last found.

    Raises `EncoderError` where it is not found, or has other weights than the
    model was trained on.
    """
    known = registry.recall(card.encoder.weights_sha256)
    named = card.encoder.name
    if source is None and known is None and not _can_be_found(named):
        raise EncoderError(
            "encoder-not-found",
            f"Model {card.name!r} needs the encoder {named!r}, which was not found on this "
            "machine.",
            "Say where it is with --encoder (a folder, a .safetensors file or a hub id).",
        )
    source = source or known or named
    encoder = load_encoder(
        source, device=device, precision=card.encoder.precision, allow_download=allow_download
    )
    if encoder.card.weights_sha256 != card.encoder.weights_sha256:
        raise EncoderError(
            "encoder-other",
            f"Model {card.name!r} was trained on the encoder {named!r} "
            f"(weights {card.encoder.weights_sha256[:12]}…); the one given is "
            f"{encoder.card.name!r} ({encoder.card.weights_sha256[:12]}…).",
            "Give the very encoder the model was trained on.",
        )
    registry.remember(encoder.card.weights_sha256, source)
    return encoder


def _can_be_found(name: str) -> bool:
    """Whether an encoder's name alone tells where it is: the embedded one, or a hub id."""
    return name == DEMONSTRATION or "/" in name
