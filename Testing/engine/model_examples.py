"""A small model and its card, as a training would make them."""

import numpy as np
import torch
from SpatialARAnomalyLib.engine.cards.encoder_card import EncoderCard
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.model.model_file import SCHEMA, ModelCard, NormalsSummary
from SpatialARAnomalyLib.engine.progress import EpochFigures
from SpatialARAnomalyLib.engine.scoring.calibration_fit import fit_calibration
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    Plane,
    SliceSpec,
    TrainingSpec,
)

CHANNELS = 8

CARD = ModelCard(
    schema=SCHEMA,
    name="brain-t1 Größe 脳",
    created="2026-01-31",
    engine_version="0.1.0",
    modality=Modality.MR,
    slices=SliceSpec(plane=Plane.CORONAL, fov_mm=240.0, size_px=64),
    intensity=IntensitySpec.for_modality(Modality.MR),
    encoder=EncoderCard(
        name="demonstration",
        architecture="DINOv3ViT",
        channels=CHANNELS,
        patch_px=16,
        parameters=12345,
        weights_sha256="ab" * 32,
        notice="Of a test.",
    ),
    autoregressive=AutoregressiveSpec(hidden_channels=6, layers=2, dilations=(1, 2)),
    training=TrainingSpec(epochs=2),
    normals=NormalsSummary(
        training_sha256=("12" * 32, "34" * 32),
        held_out_sha256=("56" * 32,),
        pixel_spacing_mm=(0.9, 1.1),
        slice_spacing_mm=(1.0, 3.0),
        extent_mm=(150.0, 210.0),
    ),
    curve=(
        EpochFigures(epoch=1, train_mse=1.0 / 3.0, held_out_nll=1.5),
        EpochFigures(epoch=2, train_mse=0.25, held_out_nll=1.25),
    ),
    best_epoch=2,
    calibration=fit_calibration(
        [np.random.RandomState(0).gamma(3.0, size=5000)],
        [np.random.RandomState(1).gamma(2.5, size=400)],
    ),
    notice="Of a test.",
)


def small_model(seed: int = 0) -> AutoregressiveModel:
    """A network that fits `CARD`."""
    model = AutoregressiveModel(CARD.autoregressive, CHANNELS)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=random))
    return model.eval()
