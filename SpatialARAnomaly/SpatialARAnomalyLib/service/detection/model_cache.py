"""What a detection loaded, kept for the next one, which then loads nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from SpatialARAnomalyLib.engine.device import release_gpu_memory
from SpatialARAnomalyLib.engine.model.model_file import (
    ModelCard,
    load_model,
    model_path,
)
from SpatialARAnomalyLib.service.encoders.loading import load_model_encoder

if TYPE_CHECKING:
    import torch

    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
    from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel

_Stamp = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class _KeptModel:
    path: Path
    stamp: _Stamp | None
    device: "torch.device"
    card: ModelCard
    network: "AutoregressiveModel"


@dataclass(frozen=True, eq=False)
class _KeptEncoder:
    source: str | None
    device: "torch.device"
    encoder: "Encoder"


class Warm:
    """The model and the encoder of the last detection, in its device's memory.

    What is not needed any more goes before its successor comes, so that the
    memory of one of each is enough.
    """

    def __init__(self) -> None:
        self._model: _KeptModel | None = None
        self._encoder: _KeptEncoder | None = None

    def model(
        self, path: Path, device: "torch.device"
    ) -> "tuple[ModelCard, AutoregressiveModel, bool]":
        """The model of a file on `device`, and whether it was warm.

        A model whose file was touched since is loaded, and so verified, again.
        Raises `ModelError` as `load_model` does.
        """
        stamp = _stamp(path)
        kept = self._model
        if (
            kept is not None
            and stamp is not None
            and (kept.path, kept.stamp, kept.device) == (path, stamp, device)
        ):
            return kept.card, kept.network, True
        kept = self._model = None
        release_gpu_memory()
        card, network = load_model(path, device)
        self._model = _KeptModel(path, stamp, device, card, network)
        return card, network, False

    def encoder(
        self, card: ModelCard, source: str | None, device: "torch.device", allow_download: bool
    ) -> "tuple[Encoder, bool]":
        """The encoder of a model on `device`, and whether it was warm.

        Raises `EncoderError` as `load_model_encoder` does.
        """
        kept = self._encoder
        if (
            kept is not None
            and kept.device == device
            and kept.encoder.card.weights_sha256 == card.encoder.weights_sha256
            and kept.encoder.card.precision is card.encoder.precision
            and source in (None, kept.source)
        ):
            return kept.encoder, True
        kept = self._encoder = None
        release_gpu_memory()
        encoder = load_model_encoder(card, source, device, allow_download)
        self._encoder = _KeptEncoder(source, device, encoder)
        return encoder, False

    def release(self) -> None:
        """Keep nothing: after the device ran out of memory, that is what it lacks."""
        self._model = self._encoder = None
        release_gpu_memory()


def _stamp(path: Path) -> _Stamp | None:
    """Time, size and inode of a model file, which change with it; None where it is missing."""
    try:
        found = model_path(path).stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)
