"""Weights from the Hugging Face hub: its local cache first, the network only when allowed."""

from pathlib import Path

from .errors import EncoderError
from .hub_cache import cached_folder
from .hub_download import download
from .hub_refusals import OTHER_WAYS
from .progress import Reporter, SilentReporter


def hub_folder(hub_id: str, *, allow_download: bool, report: Reporter | None = None) -> Path:
    """The cache folder with the weights and the configuration; its name is the commit.

    Where it is there, no request is made. Raises `EncoderError`:
    `encoder-not-local`, and those of `download`.
    """
    folder = cached_folder(hub_id)
    if folder is not None:
        return folder
    if allow_download:
        return download(hub_id, report or SilentReporter())
    raise EncoderError(
        "encoder-not-local",
        f"The weights of '{hub_id}' are not on this machine, and nothing is downloaded "
        "without permission.",
        f"Get them (spatial-ar-anomaly encoders get {hub_id}, or --allow-download); {OTHER_WAYS}",
    )
