"""The frozen encoder, which turns an image into a grid of tokens."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION, DINOV3_NOTICE
from SpatialARAnomalyLib.engine.cards.encoder_card import EncoderCard as EncoderCard
from SpatialARAnomalyLib.engine.encoder.key_layouts import VIT, named_as_transformers
from SpatialARAnomalyLib.engine.encoder.network import (
    architecture_of,
    build_network,
    channels_of,
    patch_px_of,
    settings_of_configuration,
    settings_of_shapes,
    used_tensors,
    weights_sha256,
)
from SpatialARAnomalyLib.engine.encoder.precision import computing_in
from SpatialARAnomalyLib.engine.encoder.weights import read_weights
from SpatialARAnomalyLib.engine.errors import EncoderError
from SpatialARAnomalyLib.engine.specs import Precision

NOTICE = (
    "Demonstration encoder: a small DINOv3 architecture that this project trained itself, on "
    "drawn images, photographs and an average brain; for demos and tests, not for clinical or "
    "research results."
)

FILE = Path(__file__).with_name("demonstration_encoder.safetensors")
"""Weights of the demonstration encoder in float16, under transformers' names; made by
Testing/Data/train_demonstration_encoder.py."""

Statistics = dict[str, tuple[float, float, float]]

_WEB_STATISTICS: Statistics = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Mean and deviation of red, green and blue in ImageNet, for weights trained on LVD-1689M."""
_SATELLITE_STATISTICS: Statistics = {"mean": (0.430, 0.411, 0.296), "std": (0.213, 0.156, 0.143)}
"""Mean and deviation of red, green and blue, for weights trained on SAT-493M."""


@runtime_checkable
class Encoder(Protocol):
    """Turns images into tokens; deterministic."""

    @property
    def card(self) -> EncoderCard:
        """Identity of the encoder."""

    @property
    def device(self) -> torch.device:
        """The device it computes on."""

    def embed(self, images: Float[Tensor, "b 1 s t"]) -> Float[Tensor, "b c h w"]:
        """Return tokens of gray images in [0, 1]: float32, on `device`, rows as in the image."""


class DINOv3Encoder:
    """A frozen DINOv3 of transformers: the output of its final LayerNorm.

    Tokens of patches only; the class token (for ConvNeXt: the mean) and the registers are
    left out, as in the paper's code (`get_intermediate_layers` with its defaults). Gray
    values go into all three channels.
    """

    def __init__(
        self, model: Any, card: EncoderCard, statistics: Statistics, device: torch.device
    ) -> None:
        self.card = card
        self.device = device
        self._model = model.to(device)
        self._mean = torch.tensor(statistics["mean"], device=device)[:, None, None]
        self._std = torch.tensor(statistics["std"], device=device)[:, None, None]
        self._other_tokens = 1 + getattr(model.config, "num_register_tokens", 0)

    def embed(self, images: Float[Tensor, "b 1 s t"]) -> Float[Tensor, "b c h w"]:
        """Return tokens of gray images in [0, 1]: float32, on `device`, rows as in the image.

        Raises:
            EncoderError: `encoder-image-size` where a side is not a multiple of the patch;
                DINOv3 itself would drop the rest silently.
        """
        patch = self.card.patch_px
        batch, channels, height, width = images.shape
        if channels != 1 or height % patch or width % patch or not height or not width:
            raise EncoderError(
                "encoder-image-size",
                f"Encoder '{self.card.name}' expects gray images (1 channel) whose sides are "
                f"multiples of {patch} pixels; found {channels} channel(s) of "
                f"{height} by {width} pixels.",
                patch_px=patch,
            )
        with torch.inference_mode(), computing_in(self.card.precision, self.device):
            gray = images.to(self.device, torch.float32)
            output = self._model(pixel_values=(gray - self._mean) / self._std)
            last: Tensor = output.last_hidden_state
        tokens = last[:, self._other_tokens :].float().transpose(1, 2)
        # Copied outside: tensors of inference mode cannot be used in training.
        return tokens.clone(memory_format=torch.contiguous_format).reshape(
            batch, self.card.channels, height // patch, width // patch
        )


def load_encoder(
    source: str,
    *,
    device: torch.device | str = "cpu",
    precision: Precision = Precision.FLOAT32,
    hub_id: str | None = None,
    revision: str | None = None,
) -> Encoder:
    """Load an encoder from this machine.

    Args:
        source: `demonstration`; a folder as transformers writes it (also in shards); or a
            `.safetensors` file or folder named as in transformers, timm or Meta's code.
        device: The device to compute on.
        precision: Precision of the matrix products.
        hub_id: Hub id of a folder in the hub's cache, which becomes the encoder's name.
        revision: The hub's commit of such a folder.

    Raises:
        EncoderError: `encoder-missing`, `-format`, `-damaged`, `-architecture`, `-layout`,
            `-shape` or `-software`.
    """
    if source == DEMONSTRATION:
        statistics = _WEB_STATISTICS
        weights = named_as_transformers(read_weights(FILE).tensors, FILE.name, VIT)
        name, revision, notice = DEMONSTRATION, None, NOTICE
        settings = settings_of_shapes(weights, name)
    else:
        files = read_weights(Path(source), name=hub_id)
        name, notice = files.name, DINOV3_NOTICE
        statistics = _SATELLITE_STATISTICS if "sat493m" in name.lower() else _WEB_STATISTICS
        configuration = files.configuration or {}
        # timm's config.json has no model_type; the network then follows from the shapes.
        known = "model_type" in configuration
        architecture = architecture_of(configuration, name) if known else None
        weights = named_as_transformers(files.tensors, name, architecture)
        settings = (
            settings_of_configuration(configuration, weights)
            if known
            else settings_of_shapes(weights, name)
        )
    model = build_network(weights, settings, name)
    used = used_tensors(model)
    card = EncoderCard(
        name=name,
        architecture=weights.architecture,
        channels=channels_of(model),
        patch_px=patch_px_of(model),
        parameters=sum(tensor.numel() for tensor in used.values()),
        weights_sha256=weights_sha256(model, statistics),
        revision=revision,
        notice=notice,
        precision=precision,
    )
    return DINOv3Encoder(model, card, statistics, torch.device(device))
