"""Write golden.json: summaries of every stage from one fixed scan to its NLL.

    python Testing/Golden/make_golden.py

Nothing is trained, and random numbers come from frozen streams, so that the values hold on
every machine to the tolerance of the test. If they change, existing models see other input:
that needs a new schema of models, or a reason in the changelog.
"""

import json
from pathlib import Path

import numpy as np
import torch
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.scoring.scoring import embed_slices, slice_nll
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    Plane,
    Preset,
    SliceSpec,
)
from SpatialARAnomalyLib.service.demo.phantom import normal_head

GOLDEN = Path(__file__).with_name("golden.json")


def summary(values: np.ndarray) -> dict[str, float]:
    """Return mean, standard deviation and two percentiles."""
    values = np.asarray(values, dtype=np.float64)
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "p25": float(np.percentile(values, 25)),
        "p95": float(np.percentile(values, 95)),
    }


NETWORKS = {preset.value: AutoregressiveSpec.from_preset(preset) for preset in Preset}


def fixed_model(spec: AutoregressiveSpec, channels: int) -> AutoregressiveModel:
    """Return the network with weights and statistics from a frozen stream."""
    model = AutoregressiveModel(spec, channels)
    random = np.random.RandomState(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(1, int(np.prod(parameter.shape[1:])))
            values = random.uniform(-1, 1, size=tuple(parameter.shape)) / np.sqrt(fan_in)
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))
        model.variance.fill_(0.5)
    return model.eval()


def golden() -> dict[str, dict[str, float]]:
    """Compute the summaries of every stage."""
    head = normal_head(0, shape_kji=(8, 64, 64), spacing_mm=(3.6, 3.6, 15.0))
    encoder = load_encoder("demonstration")
    plane_volume = PlaneVolume(head, Plane.CORONAL, Modality.MR)
    slices = SliceSpec(plane=Plane.CORONAL, fov_mm=150.0, size_px=128)
    intensity = IntensitySpec.for_modality(Modality.MR)
    stack = SliceStack(plane_volume, slices, intensity, encoder.card.patch_px)
    index = stack.indices[len(stack.indices) // 2]
    tokens = [one.numpy() for one in embed_slices(stack, encoder, SilentReporter())]
    values = {
        "voxels": summary(head.voxels),
        "body": summary(stack.counted),
        "value_range": summary(np.array(stack.value_range * 8)),
        "images": summary(stack.images(index)),
        # Single channels: over all of them, the final LayerNorm makes tokens alike.
        "tokens_channel_0": summary(np.stack(tokens)[:, :, 0]),
        "tokens_channel_50": summary(np.stack(tokens)[:, :, 50]),
    }
    for name, spec in NETWORKS.items():
        model = fixed_model(spec, encoder.card.channels)
        nll = [slice_nll(one, model) for one in tokens]
        values[f"nll_{name}"] = summary(stack.volume_from_tokens(nll, model.lowest_nll))
    return values


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), indent=1) + "\n")
