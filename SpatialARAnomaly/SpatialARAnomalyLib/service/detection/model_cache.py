"""A model with its encoder in a device's memory, and a cache of the last one that was used."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from SpatialARAnomalyLib.engine.device import Device, release_gpu_memory, resolve_device
from SpatialARAnomalyLib.engine.model import model_file
from SpatialARAnomalyLib.engine.model.model_file import ModelCard, model_path
from SpatialARAnomalyLib.service.encoders.loading import load_model_encoder

if TYPE_CHECKING:
    import torch

    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
    from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel

_Stamp = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model with its encoder, loaded on one device."""

    card: ModelCard
    network: "AutoregressiveModel"
    encoder: "Encoder"


@dataclass(frozen=True, eq=False)
class _CachedNetwork:
    path: Path
    stamp: _Stamp | None
    device: "torch.device"
    card: ModelCard
    network: "AutoregressiveModel"


@dataclass(frozen=True, eq=False)
class _CachedEncoder:
    source: str | None
    device: "torch.device"
    encoder: "Encoder"


class ModelCache:
    """Loads models, and keeps the network and the encoder of the last one.

    Each is released before its successor is loaded, so that memory for one of each is enough.
    """

    def __init__(self) -> None:
        self._network: _CachedNetwork | None = None
        self._encoder: _CachedEncoder | None = None
        self.reused = {"encoder": False, "model": False}
        """Parts that the last `load` found in the cache."""

    def load(
        self,
        path: Path | str,
        device: str = Device.AUTO,
        *,
        encoder: str | None = None,
        allow_download: bool = False,
    ) -> Model:
        """Return a model; arguments and errors are those of `load_model`.

        A model file that changed since is loaded, and so verified, again.
        """
        torch_device = resolve_device(Device(device))
        card, network = self._load_network(Path(path), torch_device)
        return Model(card, network, self._load_encoder(card, encoder, torch_device, allow_download))

    def _load_network(
        self, path: Path, device: "torch.device"
    ) -> "tuple[ModelCard, AutoregressiveModel]":
        stamp = _stamp(path)
        kept = self._network
        self.reused["model"] = (
            kept is not None
            and stamp is not None
            and (kept.path, kept.stamp, kept.device) == (path, stamp, device)
        )
        if kept is None or not self.reused["model"]:
            kept = self._network = None
            release_gpu_memory()
            card, network = model_file.load_model(path, device)
            kept = self._network = _CachedNetwork(path, stamp, device, card, network)
        return kept.card, kept.network

    def _load_encoder(
        self, card: ModelCard, source: str | None, device: "torch.device", allow_download: bool
    ) -> "Encoder":
        kept = self._encoder
        self.reused["encoder"] = (
            kept is not None
            and kept.device == device
            and kept.encoder.card.weights_sha256 == card.encoder.weights_sha256
            and kept.encoder.card.precision is card.encoder.precision
            and source in (None, kept.source)
        )
        if kept is None or not self.reused["encoder"]:
            kept = self._encoder = None
            release_gpu_memory()
            encoder = load_model_encoder(card, source, device, allow_download)
            kept = self._encoder = _CachedEncoder(source, device, encoder)
        return kept.encoder

    def release(self) -> None:
        """Release the network and the encoder, and PyTorch's cached GPU memory."""
        self._network = self._encoder = None
        release_gpu_memory()


def load_model(
    path: Path | str,
    device: str = Device.AUTO,
    *,
    encoder: str | None = None,
    allow_download: bool = False,
) -> Model:
    """Load a model and the encoder that it was trained with.

    Args:
        path: The model's file; `.safetensors` is added where it lacks it.
        device: `cpu`, `cuda` or `mps`; `auto` takes the fastest there is.
        encoder: Folder, file or hub id of the encoder; by default where it was last found.
        allow_download: Whether weights that are not on this machine may be downloaded.

    Raises:
        DeviceError: The device, or PyTorch, is not there.
        ModelError: The file is missing, damaged or changed.
        EncoderError: The encoder is not found, or has other weights than those of the training.
    """
    return ModelCache().load(path, device, encoder=encoder, allow_download=allow_download)


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """Model, device and output of a job from files to files."""

    model: Path
    out: Path
    encoder: str | None = None
    device: Device = Device.AUTO
    allow_download: bool = False
    allow_mismatch: bool = False
    overwrite: bool = False

    def load_model(self) -> Model:
        """Load the model; arguments and errors are those of `load_model`."""
        return load_model(
            self.model, self.device, encoder=self.encoder, allow_download=self.allow_download
        )


def _stamp(path: Path) -> _Stamp | None:
    """Time, size and inode of a model file, which change with it; None where it is missing."""
    try:
        found = model_path(path).stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)
