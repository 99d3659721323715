"""DINOv3 weights come under three sets of names; all become those of transformers' files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """Channels of an attention head, where the file tells them."""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """One way of naming the tensors: what gives it away, and how its names translate.

    Patterns match whole names. What no pattern matches keeps its name, and is
    found to be unexpected when the network is filled.
    """

    name: str
    architecture: str
    marker: str
    renamed: Mapping[str, str]
    dropped: tuple[str, ...] = ()
    """Names of what the tokens of an image never depend on."""
    patterns: list[tuple[re.Pattern[str], str]] = field(init=False)

    def __post_init__(self) -> None:
        compiled = [(re.compile(old), new) for old, new in self.renamed.items()]
        object.__setattr__(self, "patterns", compiled)

    def translate(self, name: str) -> str:
        """The name that transformers' files use."""
        for pattern, replacement in self.patterns:
            if match := pattern.fullmatch(name):
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

# A network with learned positions is a DINOv2 or another ViT, whatever its blocks are called.
_LEARNED_POSITIONS = ("pos_embed", "embeddings.position_embeddings")


def named_as_transformers(
    tensors: Tensors, file_name: str, architecture: str | None = None
) -> NamedWeights:
    """The same weights under the names of transformers' files.

    Joined query, key and value projections are split. What an image's tokens do
    not depend on (the mask token, what only training uses) is left out.
    `file_name` is for messages; `architecture`, where it is known, is checked.

    Raises `EncoderError`: `encoder-architecture` when these are not the weights
    of a DINOv3, `encoder-shape` when a joined projection cannot be split.
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
    """Channels of a head, from the rotary periods that Meta's files hold (a quarter as many)."""
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
    """The tensors with every `attn.qkv` in three parts, named as in transformers' files.

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
