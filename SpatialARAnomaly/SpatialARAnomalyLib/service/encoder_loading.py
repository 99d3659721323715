"""Loads an encoder for a job: nothing is fetched before the license was accepted."""

from typing import TYPE_CHECKING

from ..engine.progress import Reporter
from ..engine.specs import Precision
from .encoder_license import check_consent

if TYPE_CHECKING:
    import torch

    from ..engine.encoder import Encoder


def load_encoder(
    source: str,
    *,
    device: "torch.device",
    precision: Precision = Precision.FLOAT32,
    allow_download: bool,
    report: Reporter | None = None,
) -> "Encoder":
    """The encoder that `source` names, on `device`, in `precision` (`engine.encoder.load_encoder`).

    Raises `EncoderError`, also `license-not-accepted` where it would have to be
    downloaded.
    """
    from ..engine import encoder

    check_consent(source, allow_download)
    return encoder.load_encoder(
        source, device=device, precision=precision, allow_download=allow_download, report=report
    )
