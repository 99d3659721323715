"""Tensor names of DINOv3 weights: those of timm and of Meta become those of transformers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from SpatialARAnomalyLib.engine.errors import EncoderError

VIT = "DINOv3ViT"
CONVNEXT = "DINOv3ConvNext"

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class NamedWeights:
    """Weights under the names of transformers' files (`layer.0…`, `stages.0…`)."""

    architecture: str
    tensors: dict[str, Tensor]
    head_channels: int | None = None
    """Channels of an attention head, if the file determines them."""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """One scheme of tensor names, and its translation into the names of transformers.

    In names `#` stands for a number and `*` for `weight` or `bias`. A name without translation
    is kept; if the network has no such tensor, filling it fails.
    """

    name: str
    architecture: str
    marker: str
    """Name of a tensor that only this layout has."""
    renamed: Mapping[str, str]
    dropped: tuple[str, ...] = ()
    """Names of tensors that tokens never depend on."""

    def translate(self, name: str) -> str | None:
        """Return the name of a tensor in transformers' files; None for one to drop."""
        if any(_match(dropped, name) for dropped in self.dropped):
            return None
        for old, new in self.renamed.items():
            if match := _match(old, name):
                for group in match.groups():
                    new = re.sub("[#*]", group, new, count=1)
                return new
        return name


def _match(pattern: str, name: str) -> re.Match[str] | None:
    regular = re.escape(pattern).replace(r"\#", r"(\d+)").replace(r"\*", "(weight|bias)")
    return re.fullmatch(regular, name)


_VIT_BLOCKS = {
    "cls_token": "embeddings.cls_token",
    "patch_embed.proj.*": "embeddings.patch_embeddings.*",
    "blocks.#.norm#.*": "layer.#.norm#.*",
    "blocks.#.attn.proj.*": "layer.#.attention.o_proj.*",
    "blocks.#.mlp.fc1.*": "layer.#.mlp.up_proj.*",
    "blocks.#.mlp.fc2.*": "layer.#.mlp.down_proj.*",
}

_LAYOUTS = (
    _Layout(
        name="transformers",
        architecture=VIT,
        marker="layer.0.layer_scale1.lambda1",
        renamed={},
        dropped=("embeddings.mask_token",),
    ),
    _Layout(
        name="timm",
        architecture=VIT,
        marker="blocks.0.gamma_1",
        renamed=_VIT_BLOCKS
        | {
            "reg_token": "embeddings.register_tokens",
            "blocks.#.gamma_#": "layer.#.layer_scale#.lambda1",
            "blocks.#.attn.q_bias": "layer.#.attention.q_proj.bias",
            "blocks.#.attn.v_bias": "layer.#.attention.v_proj.bias",
            "blocks.#.mlp.fc1_g.*": "layer.#.mlp.gate_proj.*",
            "blocks.#.mlp.fc1_x.*": "layer.#.mlp.up_proj.*",
        },
    ),
    _Layout(
        name="Meta",
        architecture=VIT,
        marker="blocks.0.ls1.gamma",
        renamed=_VIT_BLOCKS
        | {
            "storage_tokens": "embeddings.register_tokens",
            "blocks.#.ls#.gamma": "layer.#.layer_scale#.lambda1",
            "blocks.#.mlp.w1.*": "layer.#.mlp.gate_proj.*",
            "blocks.#.mlp.w2.*": "layer.#.mlp.up_proj.*",
            "blocks.#.mlp.w3.*": "layer.#.mlp.down_proj.*",
        },
        # The norm of local crops is for training only; the periods are checked, then dropped.
        dropped=("mask_token", "local_cls_norm.*", "rope_embed.periods"),
    ),
    _Layout(
        name="transformers",
        architecture=CONVNEXT,
        marker="stages.0.layers.0.depthwise_conv.weight",
        renamed={},
    ),
    _Layout(
        name="timm",
        architecture=CONVNEXT,
        marker="stages.0.blocks.0.conv_dw.weight",
        renamed={
            "stem.#.*": "stages.0.downsample_layers.#.*",
            "stages.#.downsample.#.*": "stages.#.downsample_layers.#.*",
            "stages.#.blocks.#.conv_dw.*": "stages.#.layers.#.depthwise_conv.*",
            "stages.#.blocks.#.norm.*": "stages.#.layers.#.layer_norm.*",
            "stages.#.blocks.#.mlp.fc#.*": "stages.#.layers.#.pointwise_conv#.*",
            "stages.#.blocks.#.gamma": "stages.#.layers.#.gamma",
            "head.norm.*": "layer_norm.*",
        },
    ),
    _Layout(
        name="Meta",
        architecture=CONVNEXT,
        marker="stages.0.0.dwconv.weight",
        renamed={
            "downsample_layers.#.#.*": "stages.#.downsample_layers.#.*",
            "stages.#.#.dwconv.*": "stages.#.layers.#.depthwise_conv.*",
            "stages.#.#.norm.*": "stages.#.layers.#.layer_norm.*",
            "stages.#.#.pwconv#.*": "stages.#.layers.#.pointwise_conv#.*",
            "stages.#.#.gamma": "stages.#.layers.#.gamma",
            # Meta's network holds its final norm twice, under both names.
            "norms.3.*": "layer_norm.*",
            "norm.*": "layer_norm.*",
        },
    ),
)

# A network with learned positions is a DINOv2 or another ViT, even if its blocks match.
_LEARNED_POSITIONS = ("pos_embed", "embeddings.position_embeddings")


def named_as_transformers(
    tensors: Tensors, file_name: str, architecture: str | None = None
) -> NamedWeights:
    """Translate weights into the names of transformers' files.

    Joined query, key and value projections are split. Tensors that tokens do not depend on
    (the mask token, those of training) are left out.

    Args:
        tensors: The weights in any layout.
        file_name: Named in errors.
        architecture: If known, it is checked.

    Raises:
        EncoderError: `encoder-architecture` where these are not the weights of a DINOv3,
            `encoder-shape` where a joined projection cannot be split.
    """
    tensors = {file_name_of(name): tensor for name, tensor in tensors.items()}
    layout = next((layout for layout in _LAYOUTS if layout.marker in tensors), None)
    if (
        layout is None
        or layout.architecture != (architecture or layout.architecture)
        or any(name in tensors for name in _LEARNED_POSITIONS)
    ):
        found = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise EncoderError(
            "encoder-architecture",
            f"Expected the weights of a {architecture or 'DINOv3 (ViT or ConvNeXt)'} in "
            f"'{file_name}'; found tensors of another network, such as {found}.",
        )
    head_channels = None
    if layout.architecture == VIT and layout.name != "transformers":
        head_channels = _head_channels(tensors, file_name)
        tensors = _split_projections(tensors, file_name)
    named = {layout.translate(name): tensor for name, tensor in tensors.items()}
    return NamedWeights(
        architecture=layout.architecture,
        tensors={name: tensor for name, tensor in named.items() if name is not None},
        head_channels=head_channels,
    )


def file_name_of(module_name: str) -> str:
    """Return a tensor's name in transformers' files, without the `model.` of its version 5."""
    return re.sub(r"^model\.(?=layer\.|stages\.)", "", module_name)


def _head_channels(tensors: Tensors, file_name: str) -> int | None:
    """Return the channels of a head, four times the rotary periods in Meta's files."""
    periods = tensors.get("rope_embed.periods")
    if periods is None:
        return None
    count = periods.numel()
    expected = 100.0 ** (torch.arange(count) / max(count, 1))
    # Meta's files hold the periods rounded to bfloat16 (8 bits); transformers computes them.
    if not torch.allclose(periods.flatten().float(), expected, rtol=2**-7, atol=0):
        raise EncoderError(
            "encoder-architecture",
            f"'{file_name}' has other rotary periods than DINOv3's, which go from 1 towards 100.",
        )
    return 4 * count


def _split_projections(tensors: Tensors, file_name: str) -> dict[str, Tensor]:
    """Split every `attn.qkv` into three tensors, named as in transformers' files.

    Meta's key bias is masked to zero; a bias of zeros is left out.
    """
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias|bias_mask)", name)
        if match is None:
            split[name] = tensor
            continue
        block, kind = match.groups()
        if kind == "bias_mask":
            continue
        mask = tensors.get(f"{name}_mask") if kind == "bias" else None
        if tensor.ndim == 0 or len(tensor) % 3 or (mask is not None and mask.shape != tensor.shape):
            raise EncoderError(
                "encoder-shape",
                f"'{file_name}': {name} has the shape {tuple(tensor.shape)}, which does not hold "
                "queries, keys and values of one length.",
            )
        if mask is not None:
            tensor = tensor * mask
        for letter, part in zip("qkv", tensor.chunk(3), strict=True):
            if not (kind == "bias" and letter == "k" and not part.any()):
                split[f"layer.{block}.attention.{letter}_proj.{kind}"] = part
    return split
