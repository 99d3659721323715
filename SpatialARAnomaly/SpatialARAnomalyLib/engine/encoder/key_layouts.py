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
    layout: str
    tensors: dict[str, Tensor]
    head_channels: int | None = None
    """Channels of an attention head, if the file determines them."""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """One scheme of tensor names, and its translation into the names of transformers.

    Patterns match whole names. A name that matches none is kept; if the network has no such
    tensor, filling it fails.
    """

    name: str
    architecture: str
    marker: str
    """Name of a tensor that only this layout has."""
    renamed: Mapping[str, str]
    """Replacement by pattern."""
    dropped: tuple[str, ...] = ()
    """Patterns of tensors that tokens never depend on."""

    def translate(self, name: str) -> str:
        """Return the name of a tensor in transformers' files."""
        for pattern, replacement in self.renamed.items():
            if match := re.fullmatch(pattern, name):
                return match.expand(replacement)
        return name


_VIT_BLOCKS = {
    r"cls_token": r"embeddings.cls_token",
    r"patch_embed\.proj\.(weight|bias)": r"embeddings.patch_embeddings.\1",
    r"blocks\.(\d+)\.(norm[12])\.(weight|bias)": r"layer.\1.\2.\3",
    r"blocks\.(\d+)\.attn\.proj\.(weight|bias)": r"layer.\1.attention.o_proj.\2",
    r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)": r"layer.\1.mlp.up_proj.\2",
    r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)": r"layer.\1.mlp.down_proj.\2",
}

_LAYOUTS = (
    _Layout(
        name="transformers",
        architecture=VIT,
        marker="layer.0.layer_scale1.lambda1",
        renamed={},
        dropped=(r"embeddings\.mask_token",),
    ),
    _Layout(
        name="timm",
        architecture=VIT,
        marker="blocks.0.gamma_1",
        renamed=_VIT_BLOCKS
        | {
            r"reg_token": r"embeddings.register_tokens",
            r"blocks\.(\d+)\.gamma_([12])": r"layer.\1.layer_scale\2.lambda1",
            r"blocks\.(\d+)\.attn\.([qv])_bias": r"layer.\1.attention.\2_proj.bias",
            r"blocks\.(\d+)\.mlp\.fc1_g\.(weight|bias)": r"layer.\1.mlp.gate_proj.\2",
            r"blocks\.(\d+)\.mlp\.fc1_x\.(weight|bias)": r"layer.\1.mlp.up_proj.\2",
        },
    ),
    _Layout(
        name="Meta",
        architecture=VIT,
        marker="blocks.0.ls1.gamma",
        renamed=_VIT_BLOCKS
        | {
            r"storage_tokens": r"embeddings.register_tokens",
            r"blocks\.(\d+)\.ls([12])\.gamma": r"layer.\1.layer_scale\2.lambda1",
            r"blocks\.(\d+)\.mlp\.w1\.(weight|bias)": r"layer.\1.mlp.gate_proj.\2",
            r"blocks\.(\d+)\.mlp\.w2\.(weight|bias)": r"layer.\1.mlp.up_proj.\2",
            r"blocks\.(\d+)\.mlp\.w3\.(weight|bias)": r"layer.\1.mlp.down_proj.\2",
        },
        # The norm of local crops is for training only; the periods are checked, then dropped.
        dropped=(r"mask_token", r"local_cls_norm\.(weight|bias)", r"rope_embed\.periods"),
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
            r"stem\.([01])\.(weight|bias)": r"stages.0.downsample_layers.\1.\2",
            r"stages\.(\d+)\.downsample\.([01])\.(weight|bias)": (
                r"stages.\1.downsample_layers.\2.\3"
            ),
            r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.(weight|bias)": (
                r"stages.\1.layers.\2.depthwise_conv.\3"
            ),
            r"stages\.(\d+)\.blocks\.(\d+)\.norm\.(weight|bias)": (
                r"stages.\1.layers.\2.layer_norm.\3"
            ),
            r"stages\.(\d+)\.blocks\.(\d+)\.mlp\.fc([12])\.(weight|bias)": (
                r"stages.\1.layers.\2.pointwise_conv\3.\4"
            ),
            r"stages\.(\d+)\.blocks\.(\d+)\.gamma": r"stages.\1.layers.\2.gamma",
            r"head\.norm\.(weight|bias)": r"layer_norm.\1",
        },
    ),
    _Layout(
        name="Meta",
        architecture=CONVNEXT,
        marker="stages.0.0.dwconv.weight",
        renamed={
            r"downsample_layers\.(\d+)\.([01])\.(weight|bias)": (
                r"stages.\1.downsample_layers.\2.\3"
            ),
            r"stages\.(\d+)\.(\d+)\.dwconv\.(weight|bias)": (
                r"stages.\1.layers.\2.depthwise_conv.\3"
            ),
            r"stages\.(\d+)\.(\d+)\.norm\.(weight|bias)": r"stages.\1.layers.\2.layer_norm.\3",
            r"stages\.(\d+)\.(\d+)\.pwconv([12])\.(weight|bias)": (
                r"stages.\1.layers.\2.pointwise_conv\3.\4"
            ),
            r"stages\.(\d+)\.(\d+)\.gamma": r"stages.\1.layers.\2.gamma",
            # Meta's network holds its final norm twice, under both names.
            r"norms\.3\.(weight|bias)": r"layer_norm.\1",
            r"norm\.(weight|bias)": r"layer_norm.\1",
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
    # transformers 5 puts an inner `model.` before the blocks of its networks, not of its files.
    tensors = {re.sub(r"^model\.(?=layer\.|stages\.)", "", name): t for name, t in tensors.items()}
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
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not any(re.fullmatch(pattern, name) for pattern in layout.dropped):
            named[layout.translate(name)] = tensor
    return NamedWeights(
        architecture=layout.architecture,
        layout=layout.name,
        tensors=named,
        head_channels=head_channels,
    )


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
