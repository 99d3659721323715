"""Reading the weights of an encoder from disk, without running code from a file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from torch import Tensor

from SpatialARAnomalyLib.engine.cards.encoder_card import (
    CONFIGURATION,
    INDEX,
    PICKLES,
    WEIGHTS,
    read_json,
    shard_names,
)
from SpatialARAnomalyLib.engine.errors import EncoderError


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """Weights under the names in their files."""

    name: str
    """The hub id, or the base name of the folder or file: never a path."""
    tensors: Mapping[str, Tensor]
    configuration: Mapping[str, Any] | None = None
    """`config.json`, where there is one."""


def read_weights(path: Path, *, name: str | None = None) -> WeightFiles:
    """Read the weights in a folder or in one `.safetensors` file.

    Args:
        path: A folder with `model.safetensors` or the files that its index names, or a file.
        name: Hub id of a folder in the hub's cache; otherwise the base name is taken.

    Raises:
        EncoderError: `encoder-missing`, `encoder-format` or `encoder-damaged`.
    """
    path = path.expanduser()
    if os.path.isdir(path):  # `Path.is_dir` raises where a folder may not be searched
        return _read_folder(path, name)
    if os.path.isfile(path):
        if path.suffix.lower() != ".safetensors":
            raise _not_safetensors(path.name)
        return WeightFiles(name=path.stem, tensors=_read_tensors(path))
    raise EncoderError(
        "encoder-missing",
        f"Expected a folder or a .safetensors file; there is no "
        f"'{PureWindowsPath(path).name}' at the path given.",
    )


def _read_folder(folder: Path, name: str | None) -> WeightFiles:
    # Links are not resolved: those of the hub's cache lead to files named by hashes.
    name = name or Path(os.path.abspath(folder)).name
    configuration = folder / CONFIGURATION
    if (folder / WEIGHTS).is_file():
        tensors = _read_tensors(folder / WEIGHTS)
    elif (folder / INDEX).is_file():
        tensors = _read_shards(folder)
    else:
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        if pickles:
            raise _not_safetensors(pickles[0])
        raise EncoderError(
            "encoder-missing", f"The folder '{name}' holds neither {WEIGHTS} nor {INDEX}."
        )
    return WeightFiles(
        name=name,
        tensors=tensors,
        configuration=read_json(configuration) if configuration.is_file() else None,
    )


def _read_shards(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    names = shard_names(folder / INDEX)
    for name in names:
        if not (folder / name).is_file():
            raise EncoderError(
                "encoder-damaged", f"{INDEX} names {len(names)} files; {name} is missing."
            )
        tensors |= _read_tensors(folder / name)
    return tensors


def _read_tensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except SafetensorError as error:
        pointer = file.stat().st_size < 1024 and file.read_bytes().startswith(
            b"version https://git"
        )
        raise EncoderError(
            "encoder-lfs-pointer" if pointer else "encoder-damaged",
            f"'{file.name}' is not a complete .safetensors file"
            + (": it is a Git LFS pointer to one." if pointer else "."),
        ) from error


def _not_safetensors(name: str) -> EncoderError:
    reason = (
        "it is a Python pickle, which can run any code when it is read"
        if name.lower().endswith(PICKLES)
        else "its format is not known"
    )
    return EncoderError(
        "encoder-format", f"Weights must be in a .safetensors file; '{name}' is not read: {reason}."
    )
