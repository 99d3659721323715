"""Load an encoder for a job; nothing is downloaded before the license was accepted."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.encoder_card import DEMONSTRATION
from ..engine.errors import EncoderError
from ..engine.progress import Reporter, SilentReporter
from ..engine.specs import Precision
from .encoder_hub import cached_folder, download, is_hub_id, looks_like_path
from .encoder_license import require_accepted
from .hub_refusals import OTHER_WAYS, UNGATED_ID

if TYPE_CHECKING:
    import torch

    from ..engine.encoder import Encoder


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
    from ..engine import encoder

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
