"""A model with its encoder in a device's memory, and a cache of the last one that was used."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SpatialARAnomalyLib.engine.device import Device, release_gpu_memory, resolve_device
from SpatialARAnomalyLib.engine.model import model_file
from SpatialARAnomalyLib.engine.model.model_file import ModelCard, model_path
from SpatialARAnomalyLib.service.encoders.loading import load_model_encoder

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
    from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model with its encoder, loaded on one device."""

    card: ModelCard
    network: "AutoregressiveModel"
    encoder: "Encoder"


class ModelCache:
    """Loads models, and keeps the network and the encoder of the last one.

    Each is released before its successor is loaded, so that memory for one of each is enough.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, Any]] = {}
        """Key and value of the parts `model` (card and network) and `encoder`."""
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
        place, path = resolve_device(Device(device)), Path(path)
        card, network = self._get(
            "model", (path, _stamp(path), place), lambda: model_file.load_model(path, place)
        )
        identity = (place, card.encoder.weights_sha256, card.encoder.precision)
        kept_identity, kept_source = self._kept.get("encoder", ((None, None), None))[0]
        source = kept_source if encoder is None and kept_identity == identity else encoder
        loaded = self._get(
            "encoder",
            (identity, source),
            lambda: load_model_encoder(card, source, place, allow_download),
        )
        return Model(card, network, loaded)

    def _get(self, part: str, key: Any, load: Callable[[], Any]) -> Any:
        """Return the part that is kept under this key, or load it in place of what is kept."""
        self.reused[part] = part in self._kept and self._kept[part][0] == key
        if not self.reused[part]:
            self._kept.pop(part, None)
            release_gpu_memory()
            self._kept[part] = (key, load())
        return self._kept[part][1]

    def release(self) -> None:
        """Release the network and the encoder, and PyTorch's cached GPU memory."""
        self._kept.clear()
        release_gpu_memory()


MODELS = ModelCache()
"""Keeps the model of the last detection for the next one in this process."""


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


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return time, size and inode of a model file, which change with it; None without a file."""
    try:
        found = model_path(path).stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)
