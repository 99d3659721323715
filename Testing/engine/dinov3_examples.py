"""Small DINOv3 networks with random weights, and their weights as others name them.

The maps are written out from the implementations of timm (`eva.py`, `convnext.py`)
and Meta (`vision_transformer.py`, `convnext.py`), the other way round than the engine's.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel, DINOv3ViTConfig, DINOv3ViTModel

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def vit(registers=4, gated=False, **settings):
    """Two blocks of 128 channels in heads of 64, as all DINOv3 but the largest have."""
    settings = {
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_register_tokens": registers,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
    } | settings
    return _randomized(DINOv3ViTModel(DINOv3ViTConfig(**settings)))


def convnext():
    config = DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 3, 1])
    return _randomized(DINOv3ConvNextModel(config))


def _randomized(model):
    """All terms matter: layer scales near 1, no bias of 0, no norm weight of 1."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                one = not name.endswith("bias")
                parameter.copy_(one + 0.2 * noise)
            elif "token" in name:
                parameter.copy_(noise)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
    return model.eval()


def images(height=64, width=96, count=2):
    return torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(7))


def reference_tokens(model, gray, mean=MEAN, std=STD):
    """Tokens as transformers itself computes them, one image and one token after the other."""
    registers = getattr(model.config, "num_register_tokens", 0)
    patch = getattr(model.config, "patch_size", 32)
    _, _, height, width = gray.shape
    rows, columns = height // patch, width // patch
    grids = []
    with torch.no_grad():
        for image in gray:
            pixels = (torch.cat([image, image, image]) - mean) / std
            sequence = model(pixel_values=pixels[None]).last_hidden_state[0]
            grid = torch.zeros(sequence.shape[1], rows, columns)
            for row in range(rows):
                for column in range(columns):
                    grid[:, row, column] = sequence[1 + registers + row * columns + column]
            grids.append(grid)
    return torch.stack(grids)


def save_transformers(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def file_tensors(folder: Path):
    return load_file(folder / "model.safetensors")


def write(tensors, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, file)
    return file


def shard(folder: Path, target: Path) -> Path:
    """The folder's weights in two files and an index."""
    target.mkdir()
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = file_tensors(folder)
    names = sorted(tensors)
    weight_map = {}
    for part, chosen in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{part:05}-of-00002.safetensors"
        write({name: tensors[name] for name in chosen}, target / file)
        weight_map |= dict.fromkeys(chosen, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


def as_timm_vit(hf, blocks=2, biases=True):
    out = {
        "cls_token": hf["embeddings.cls_token"],
        "reg_token": hf["embeddings.register_tokens"],
        "patch_embed.proj.weight": hf["embeddings.patch_embeddings.weight"],
        "patch_embed.proj.bias": hf["embeddings.patch_embeddings.bias"],
        "norm.weight": hf["norm.weight"],
        "norm.bias": hf["norm.bias"],
    }
    for i in range(blocks):
        old, new = f"layer.{i}.", f"blocks.{i}."
        qkv = [hf[f"{old}attention.{x}_proj.weight"] for x in ("q", "k", "v")]
        out[new + "attn.qkv.weight"] = torch.cat(qkv)
        if biases:
            out[new + "attn.q_bias"] = hf[old + "attention.q_proj.bias"]
            out[new + "attn.v_bias"] = hf[old + "attention.v_proj.bias"]
        out[new + "attn.proj.weight"] = hf[old + "attention.o_proj.weight"]
        out[new + "attn.proj.bias"] = hf[old + "attention.o_proj.bias"]
        out[new + "gamma_1"] = hf[old + "layer_scale1.lambda1"]
        out[new + "gamma_2"] = hf[old + "layer_scale2.lambda1"]
        gated = old + "mlp.gate_proj.weight" in hf
        for kind in ("weight", "bias"):
            for norm in ("norm1", "norm2"):
                out[f"{new}{norm}.{kind}"] = hf[f"{old}{norm}.{kind}"]
            if gated:
                out[f"{new}mlp.fc1_g.{kind}"] = hf[f"{old}mlp.gate_proj.{kind}"]
                out[f"{new}mlp.fc1_x.{kind}"] = hf[f"{old}mlp.up_proj.{kind}"]
            else:
                out[f"{new}mlp.fc1.{kind}"] = hf[f"{old}mlp.up_proj.{kind}"]
            out[f"{new}mlp.fc2.{kind}"] = hf[f"{old}mlp.down_proj.{kind}"]
    return out


def as_meta_vit(hf, blocks=2, head_channels=64, biases=True):
    """With a key bias that the mask switches off, and all that only training uses."""
    width = hf["embeddings.cls_token"].shape[-1]
    out = {
        "cls_token": hf["embeddings.cls_token"],
        "storage_tokens": hf["embeddings.register_tokens"],
        "mask_token": torch.full((1, width), 3.0),
        "patch_embed.proj.weight": hf["embeddings.patch_embeddings.weight"],
        "patch_embed.proj.bias": hf["embeddings.patch_embeddings.bias"],
        "rope_embed.periods": (
            100 ** (2 * torch.arange(head_channels // 4) / (head_channels // 2))
        ).bfloat16(),
        "norm.weight": hf["norm.weight"],
        "norm.bias": hf["norm.bias"],
        "local_cls_norm.weight": torch.ones(width),
        "local_cls_norm.bias": torch.ones(width),
    }
    for i in range(blocks):
        old, new = f"layer.{i}.", f"blocks.{i}."
        qkv = [hf[f"{old}attention.{x}_proj.weight"] for x in ("q", "k", "v")]
        out[new + "attn.qkv.weight"] = torch.cat(qkv)
        if biases:
            q, v = hf[old + "attention.q_proj.bias"], hf[old + "attention.v_proj.bias"]
            out[new + "attn.qkv.bias"] = torch.cat([q, torch.full((width,), 9.0), v])
            mask = torch.ones(3 * width)
            mask[width : 2 * width] = 0
            out[new + "attn.qkv.bias_mask"] = mask
        out[new + "ls1.gamma"] = hf[old + "layer_scale1.lambda1"]
        out[new + "ls2.gamma"] = hf[old + "layer_scale2.lambda1"]
        gated = old + "mlp.gate_proj.weight" in hf
        for kind in ("weight", "bias"):
            out[f"{new}attn.proj.{kind}"] = hf[f"{old}attention.o_proj.{kind}"]
            for norm in ("norm1", "norm2"):
                out[f"{new}{norm}.{kind}"] = hf[f"{old}{norm}.{kind}"]
            if gated:
                out[f"{new}mlp.w1.{kind}"] = hf[f"{old}mlp.gate_proj.{kind}"]
                out[f"{new}mlp.w2.{kind}"] = hf[f"{old}mlp.up_proj.{kind}"]
                out[f"{new}mlp.w3.{kind}"] = hf[f"{old}mlp.down_proj.{kind}"]
            else:
                out[f"{new}mlp.fc1.{kind}"] = hf[f"{old}mlp.up_proj.{kind}"]
                out[f"{new}mlp.fc2.{kind}"] = hf[f"{old}mlp.down_proj.{kind}"]
    return out


def _convnext_blocks(hf):
    for stage, depth in enumerate((1, 2, 3, 1)):
        for block in range(depth):
            yield stage, block, f"stages.{stage}.layers.{block}."


def as_timm_convnext(hf):
    out = {}
    for kind in ("weight", "bias"):
        out[f"stem.0.{kind}"] = hf[f"stages.0.downsample_layers.0.{kind}"]
        out[f"stem.1.{kind}"] = hf[f"stages.0.downsample_layers.1.{kind}"]
        for stage in (1, 2, 3):
            for part in (0, 1):
                out[f"stages.{stage}.downsample.{part}.{kind}"] = hf[
                    f"stages.{stage}.downsample_layers.{part}.{kind}"
                ]
        for stage, block, old in _convnext_blocks(hf):
            new = f"stages.{stage}.blocks.{block}."
            out[f"{new}conv_dw.{kind}"] = hf[f"{old}depthwise_conv.{kind}"]
            out[f"{new}norm.{kind}"] = hf[f"{old}layer_norm.{kind}"]
            out[f"{new}mlp.fc1.{kind}"] = hf[f"{old}pointwise_conv1.{kind}"]
            out[f"{new}mlp.fc2.{kind}"] = hf[f"{old}pointwise_conv2.{kind}"]
            out[f"{new}gamma"] = hf[f"{old}gamma"]
        out[f"head.norm.{kind}"] = hf[f"layer_norm.{kind}"]
    return out


def as_meta_convnext(hf):
    out = {}
    for kind in ("weight", "bias"):
        for stage in (0, 1, 2, 3):
            for part in (0, 1):
                out[f"downsample_layers.{stage}.{part}.{kind}"] = hf[
                    f"stages.{stage}.downsample_layers.{part}.{kind}"
                ]
        for stage, block, old in _convnext_blocks(hf):
            new = f"stages.{stage}.{block}."
            out[f"{new}dwconv.{kind}"] = hf[f"{old}depthwise_conv.{kind}"]
            out[f"{new}norm.{kind}"] = hf[f"{old}layer_norm.{kind}"]
            out[f"{new}pwconv1.{kind}"] = hf[f"{old}pointwise_conv1.{kind}"]
            out[f"{new}pwconv2.{kind}"] = hf[f"{old}pointwise_conv2.{kind}"]
            out[f"{new}gamma"] = hf[f"{old}gamma"]
        out[f"norm.{kind}"] = hf[f"layer_norm.{kind}"]
        out[f"norms.3.{kind}"] = hf[f"layer_norm.{kind}"]
    return out
