"""Load an encoder for a job; nothing is downloaded before the license was accepted."""

import os
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.errors import EncoderError
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.engine.progress import Reporter, SilentReporter
from SpatialARAnomalyLib.engine.specs import Precision
from SpatialARAnomalyLib.service.encoders import registry
from SpatialARAnomalyLib.service.encoders.hub import cached_folder, download, is_hub_id

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
        device: The device to compute on.
        precision: Precision of the matrix products.
        allow_download: Download weights that are not on this machine.
        report: Receives the progress of a download.

    Raises:
        EncoderError: Those of `hub_folder` and of `engine.encoder.load_encoder`.
    """
    hub_id, revision = None, None
    if source != DEMONSTRATION and not os.path.exists(Path(source).expanduser()):
        folder = hub_folder(source, allow_download=allow_download, report=report)
        hub_id, revision, source = source, folder.name, os.fspath(folder)
    from SpatialARAnomalyLib.engine.encoder import encoder

    return encoder.load_encoder(
        source, device=device, precision=precision, hub_id=hub_id, revision=revision
    )


def hub_folder(
    hub_id: str,
    *,
    allow_download: bool,
    report: Reporter | None = None,
    token: str | None = None,
) -> Path:
    """Return the folder with the weights in the hub's cache, after a download if it lacks them.

    Its name is the commit. Weights that are there are used without any request.

    Raises:
        EncoderError: `license-not-accepted`, `encoder-not-local`, `encoder-missing` for a source
            that is not a hub id, and those of `hub.download`.
    """
    if not is_hub_id(hub_id):
        raise EncoderError(
            "encoder-missing",
            f"There is no '{PureWindowsPath(hub_id).name}' on this machine, and it is not a hub id "
            "'owner/name'.",
        )
    folder = cached_folder(hub_id)
    if folder is not None:
        return folder
    if not allow_download:
        raise EncoderError(
            "encoder-not-local",
            f"The weights of '{hub_id}' are not on this machine, and nothing is downloaded "
            "without permission.",
            hub_id=hub_id,
        )
    return download(hub_id, report or SilentReporter(), token)


def load_model_encoder(
    card: ModelCard, source: str | None, device: "torch.device", allow_download: bool
) -> "Encoder":
    """Load the model's encoder from `source`, or else from where it was last found.

    Raises:
        EncoderError: The encoder is not found, or has other weights than the one that the
            model was trained on.
    """
    wanted = card.encoder
    known = source or registry.recall(wanted.weights_sha256)
    if known is None and wanted.name != DEMONSTRATION and "/" not in wanted.name:
        raise EncoderError(
            "encoder-not-found",
            f"Model {card.name!r} needs the encoder {wanted.name!r}, which was not found on this "
            "machine.",
        )
    source = known or wanted.name
    encoder = load_encoder(
        source, device=device, precision=wanted.precision, allow_download=allow_download
    )
    found = encoder.card
    if found.weights_sha256 != wanted.weights_sha256:
        raise EncoderError(
            "encoder-other",
            f"Model {card.name!r} was trained on the encoder {wanted.name!r} "
            f"(weights {wanted.weights_sha256[:12]}…); this one is {found.name!r} "
            f"({found.weights_sha256[:12]}…).",
        )
    registry.remember(found.weights_sha256, source)
    return encoder
