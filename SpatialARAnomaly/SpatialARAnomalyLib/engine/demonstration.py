"""A small encoder that this project trained itself, for demos and tests: no download."""

from pathlib import Path

from .encoder_files import read_weights
from .encoder_layouts import VIT, NamedWeights, named_as_transformers

NOTICE = (
    "Demonstration encoder: a small DINOv3 architecture that this project trained itself, on "
    "synthetic images and an average brain; for demos and tests, not for clinical or research "
    "results."
)

FILE = Path(__file__).with_name("demonstration_encoder.safetensors")
"""Float16, under transformers' names. Made by Testing/Data/train_demonstration_encoder.py."""


def demonstration_weights() -> NamedWeights:
    """The weights, with the same bits on every machine."""
    return named_as_transformers(read_weights(FILE).tensors, FILE.name, VIT)
