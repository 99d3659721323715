"""Which files the weights of an encoder consist of; readable without torch."""

import json
from pathlib import Path
from typing import Any

from .errors import EncoderError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIGURATION = "config.json"
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
"""Endings of files that are never read: reading one can run any code."""


def weight_files(folder: Path) -> list[Path] | None:
    """The configuration and all files of weights as the hub gives them; None if one is missing."""
    names = [CONFIGURATION, WEIGHTS]
    if not (folder / WEIGHTS).is_file():
        try:
            names = [CONFIGURATION, INDEX, *shard_names(folder / INDEX)]
        except (OSError, EncoderError):
            return None
    files = [folder / name for name in names]
    return files if all(file.is_file() for file in files) else None


def shard_names(index: Path) -> list[str]:
    """The files that an index spreads the weights over, sorted.

    Raises `EncoderError` `encoder-damaged` for an index that is none, or that
    leads out of its folder.
    """
    spread = read_json(index).get("weight_map")
    names = sorted({str(name) for name in spread.values()}) if isinstance(spread, dict) else []
    if not names or any(
        not name.endswith(".safetensors") or Path(name).name != name for name in names
    ):
        raise EncoderError(
            "encoder-damaged",
            f"{index.name} must map tensors to files beside it, under 'weight_map'.",
        )
    return names


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; raises `EncoderError` `encoder-damaged` if there is none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise EncoderError("encoder-damaged", f"'{file.name}' is not JSON.") from error
    if not isinstance(values, dict):
        raise EncoderError("encoder-damaged", f"'{file.name}' must hold a JSON object.")
    return values
