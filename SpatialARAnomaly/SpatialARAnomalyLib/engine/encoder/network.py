"""The network of transformers for a set of DINOv3 weights, filled strictly."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from SpatialARAnomalyLib.engine.device import is_out_of_memory
from SpatialARAnomalyLib.engine.encoder.key_layouts import (
    CONVNEXT,
    VIT,
    NamedWeights,
    file_name_of,
)
from SpatialARAnomalyLib.engine.errors import EncoderError

Settings = dict[str, Any]
"""Arguments of transformers' configuration class."""

# The settings that tokens depend on, with the values of DINOv3 as published. All other
# settings of a configuration are for training or for other outputs.
_VIT_DEFAULTS: Settings = {
    "patch_size": 16,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "use_gated_mlp": False,
    "num_register_tokens": 0,
}
_CONVNEXT_DEFAULTS: Settings = {
    "hidden_sizes": [96, 192, 384, 768],
    "depths": [3, 3, 9, 3],
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
# The settings that do not follow from the shapes of the tensors.
_NOT_IN_SHAPES = ("num_attention_heads", "hidden_act", "layer_norm_eps", "rope_theta")

_UNUSED = "embeddings.mask_token"
"""Used by the pretext task of training only."""

_ARCHITECTURES = {"dinov3_vit": VIT, "dinov3_convnext": CONVNEXT}


def architecture_of(configuration: Mapping[str, Any], name: str) -> str:
    """Return `DINOv3ViT` or `DINOv3ConvNext`, from a `config.json` of transformers.

    Raises `EncoderError` `encoder-architecture` for any other network.
    """
    model_type = configuration["model_type"]
    if str(model_type) not in _ARCHITECTURES:
        raise EncoderError(
            "encoder-architecture",
            f"Expected a DINOv3 ({' or '.join(_ARCHITECTURES)}); the config.json of '{name}' "
            f"describes model_type {model_type!r}.",
        )
    return _ARCHITECTURES[str(model_type)]


def settings_of_configuration(configuration: Mapping[str, Any], weights: NamedWeights) -> Settings:
    """Return the settings of a `config.json` of transformers, with defaults for absent ones."""
    defaults = _VIT_DEFAULTS if weights.architecture == VIT else _CONVNEXT_DEFAULTS
    settings = {key: configuration.get(key, value) for key, value in defaults.items()}
    patch = settings.get("patch_size")
    if isinstance(patch, list) and len(set(patch)) == 1:
        settings["patch_size"] = patch[0]
    # 100 and 100.0 are the same in JSON, but not for transformers and the hash.
    return {
        key: float(value) if type(value) is int and type(defaults[key]) is float else value
        for key, value in settings.items()
    }


def settings_of_shapes(weights: NamedWeights, name: str) -> Settings:
    """Return the settings of the published DINOv3 whose tensors have these shapes.

    Raises `EncoderError` `encoder-shape` where a tensor that determines a size is missing or
    has the wrong shape.
    """
    tensors = weights.tensors
    try:
        if weights.architecture == VIT:
            return _vit_settings(tensors, weights.head_channels)
        return _convnext_settings(tensors)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise EncoderError(
            "encoder-shape",
            f"The sizes of the {weights.architecture} in '{name}' are unknown: "
            "an embedding or a first block is missing or of the wrong shape.",
        ) from error


def _vit_settings(tensors: Mapping[str, Tensor], head_channels: int | None) -> Settings:
    patches = tensors["embeddings.patch_embeddings.weight"]
    hidden = patches.shape[0]
    gated = "layer.0.mlp.gate_proj.weight" in tensors
    # Every DINOv3 has heads of 64 channels, except the one of 7 billion parameters.
    heads, rest = divmod(hidden, head_channels or (128 if hidden == 4096 else 64))
    if rest or heads == 0:
        raise ZeroDivisionError
    registers = tensors.get("embeddings.register_tokens")
    return _VIT_DEFAULTS | {
        "patch_size": patches.shape[-1],
        "hidden_size": hidden,
        "intermediate_size": tensors["layer.0.mlp.up_proj.weight"].shape[0],
        "num_hidden_layers": _count(tensors, r"layer\.(\d+)\."),
        "num_attention_heads": heads,
        "hidden_act": "silu" if gated else "gelu",
        "query_bias": _has(tensors, "q_proj.bias"),
        "key_bias": _has(tensors, "k_proj.bias"),
        "value_bias": _has(tensors, "v_proj.bias"),
        "use_gated_mlp": gated,
        "num_register_tokens": 0 if registers is None else registers.shape[1],
    }


def _convnext_settings(tensors: Mapping[str, Tensor]) -> Settings:
    stages = range(_count(tensors, r"stages\.(\d+)\."))
    return _CONVNEXT_DEFAULTS | {
        "hidden_sizes": [
            tensors[f"stages.{stage}.layers.0.depthwise_conv.weight"].shape[0] for stage in stages
        ],
        "depths": [_count(tensors, rf"stages\.{stage}\.layers\.(\d+)\.") for stage in stages],
    }


def _count(names: Iterable[str], pattern: str) -> int:
    """Return the number of blocks, from the highest number in the names."""
    numbers = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    return max(numbers, default=-1) + 1


def _has(names: Iterable[str], ending: str) -> bool:
    return any(name.endswith(ending) for name in names)


def build_network(weights: NamedWeights, settings: Settings, name: str) -> Any:
    """Build the network of transformers with these weights in float32, for inference on the CPU.

    Raises:
        EncoderError: `encoder-layout` for missing or unexpected tensors, `encoder-shape` for
            those of another shape, `encoder-damaged` for values that are not finite,
            `encoder-architecture` for invalid settings, `encoder-software` where transformers
            cannot be imported.
    """
    tensors = {key: tensor.float().contiguous() for key, tensor in weights.tensors.items()}
    settings = dict(settings)
    if weights.architecture == VIT:
        _complete_vit(tensors, settings)
    model = _empty_network(weights.architecture, settings, name)
    expected = {key: tensor.shape for key, tensor in used_tensors(model).items()}
    _check_tensors(expected, tensors, name)
    if weights.architecture == VIT:
        tensors[_UNUSED] = torch.zeros(1, 1, settings["hidden_size"])
    model.load_state_dict(
        {key: tensors[file_name_of(key)] for key in model.state_dict()}, strict=True, assign=True
    )
    if weights.architecture == VIT:
        # The rotary frequencies are in no file; they are computed, not on the meta device.
        model.rope_embeddings = type(model.rope_embeddings)(model.config)
    return model.requires_grad_(False).eval()


def used_tensors(model: Any) -> dict[str, Tensor]:
    """Return the tensors that tokens depend on, under the names of transformers' files."""
    tensors = {file_name_of(key): tensor for key, tensor in model.state_dict().items()}
    tensors.pop(_UNUSED, None)
    return tensors


def channels_of(model: Any) -> int:
    """Return the channels of a token."""
    norm: Tensor = (model.norm if hasattr(model, "norm") else model.layer_norm).weight
    return norm.numel()


def patch_px_of(model: Any) -> int:
    """Return the side of a patch in pixels, the product of the strides of all convolutions."""
    if hasattr(model, "embeddings"):
        return int(model.config.patch_size)
    halvings = len(model.config.hidden_sizes) - 1
    return 4 << halvings


def weights_sha256(model: Any, statistics: Mapping[str, tuple[float, ...]]) -> str:
    """Return the SHA-256 of all that tokens depend on: tensors, settings, image statistics.

    The tensors are sorted by name, each with name, type, shape and little-endian bytes, so
    the same weights have the same hash in any layout.
    """
    settings = {
        key: getattr(model.config, key) for key in _NOT_IN_SHAPES if hasattr(model.config, key)
    }
    digest = hashlib.sha256(json.dumps([settings, statistics], sort_keys=True).encode())
    for name, tensor in sorted(used_tensors(model).items()):
        values = np.ascontiguousarray(tensor.numpy(), dtype="<f4")
        digest.update(f"\n{name} float32 {values.shape}\n".encode())
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _complete_vit(tensors: dict[str, Tensor], settings: Settings) -> None:
    """Add biases of zeros and empty registers, which some files leave out.

    The same weights then make the same network, from any file.
    """
    hidden = settings["hidden_size"]
    for part in ("query", "value"):
        ending = f"{part[0]}_proj.bias"
        if not settings[f"{part}_bias"] and not _has(tensors, ending):
            settings[f"{part}_bias"] = True
            for layer in range(settings["num_hidden_layers"]):
                tensors[f"layer.{layer}.attention.{ending}"] = torch.zeros(hidden)
    if settings["num_register_tokens"] == 0:
        tensors.setdefault("embeddings.register_tokens", torch.zeros(1, 0, hidden))


def _empty_network(architecture: str, settings: Settings, name: str) -> Any:
    """Build the network of transformers without memory for its weights."""
    try:
        if architecture == VIT:
            from transformers import DINOv3ViTConfig, DINOv3ViTModel

            configuration: Any = DINOv3ViTConfig
            network: Any = DINOv3ViTModel
            settings = settings | {"attn_implementation": "sdpa"}
        else:
            from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

            configuration, network = DINOv3ConvNextConfig, DINOv3ConvNextModel
    # An incompatible package (an old transformers, a torchvision for another torch) can
    # raise any exception here.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise EncoderError(
            "encoder-software",
            "Encoders need the package transformers, 4.56 or newer; it cannot be imported "
            f"({type(error).__name__}).",
        ) from error
    try:
        if architecture == VIT and settings["hidden_size"] % settings["num_attention_heads"]:
            # transformers itself would fail at the first image.
            raise ValueError("heads do not divide the channels")
        with torch.device("meta"):
            return network(configuration(**settings))
    except Exception as error:
        raise EncoderError(
            "encoder-architecture",
            f"The settings of '{name}' do not make a {architecture} ({type(error).__name__}).",
        ) from error


def _check_tensors(
    expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor], name: str
) -> None:
    """Check names, shapes and values of the tensors."""
    faults = [
        f"{verb} {_first(names)}"
        for verb, names in (
            ("lacks", expected.keys() - tensors.keys()),
            ("has, not expected,", tensors.keys() - expected.keys()),
        )
        if names
    ]
    if faults:
        raise EncoderError(
            "encoder-layout",
            f"'{name}' does not hold the tensors of a DINOv3 of its size: it "
            f"{'; it '.join(faults)}.",
        )
    wrong = [
        f"{key} (expected {tuple(expected[key])}, found {tuple(tensor.shape)})"
        for key, tensor in tensors.items()
        if tensor.shape != expected[key]
    ]
    if wrong:
        raise EncoderError(
            "encoder-shape",
            f"'{name}' holds tensors of another shape than a DINOv3 of its size: {_first(wrong)}.",
        )
    damaged = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if damaged:
        raise EncoderError(
            "encoder-damaged",
            f"'{name}' holds values that are not finite numbers, in {_first(damaged)}.",
        )


def _first(names: Iterable[str], count: int = 3) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - count} more" if len(ordered) > count else ""
    return ", ".join(ordered[:count]) + more
