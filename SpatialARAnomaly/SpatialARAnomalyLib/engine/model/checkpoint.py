"""Checkpoints of a training, from which it resumes as if it had never stopped."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.engine.files import replacing, unwritable
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.progress import EpochFigures


@dataclass
class Fit:
    """State of a training: model, learning curve, and the weights of the best epoch."""

    model: AutoregressiveModel
    curve: list[EpochFigures] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_nll(self) -> float:
        """Lowest held-out NLL so far, in nats per channel."""
        if not self.best_epoch:
            return float("inf")
        return self.curve[self.best_epoch - 1].held_out_nll


def save_checkpoint(
    path: Path, fingerprint: str, run: Fit, optimizer: torch.optim.Optimizer
) -> None:
    """Write a checkpoint, replacing the one before.

    Raises:
        OutputError: `training-unwritable`; the checkpoint before is kept.
    """
    tensors = {f"best.{name}": value for name, value in run.best_weights.items()}
    tensors |= {f"last.{name}": value.cpu() for name, value in run.model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adamw.{index}.{name}": value.cpu() for name, value in state.items()}
    about = {
        "fingerprint": fingerprint,
        "best_epoch": run.best_epoch,
        "curve": [figures.to_dict() for figures in run.curve],
    }
    try:
        with replacing(path) as partial, partial.open("wb") as file:
            _write(file, tensors, {"fit": json.dumps(about)})
    except OSError as error:
        raise unwritable(
            "The checkpoint of the training cannot be written",
            error,
            code="training-unwritable",
        ) from None


def _write(file: IO[bytes], tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write float32 tensors as safetensors, one after the other.

    Its own functions copy all of them at once and panic where the memory for that is missing, or
    leave a temporary file after a kill.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, value in tensors.items():
        assert value.dtype is torch.float32, f"{name} is {value.dtype}"
        header[name] = {
            "dtype": "F32",
            "shape": list(value.shape),
            "data_offsets": [at, at + value.nbytes],
        }
        at += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for value in tensors.values():
        file.write(value.numpy().tobytes())


def check_checkpoint(path: Path, fingerprint: str) -> None:
    """Raise `SpatialARError` if there is a checkpoint and it is of another training."""
    if path.exists():
        _read(path, fingerprint, with_tensors=False)


def load_checkpoint(
    path: Path, fingerprint: str, run: Fit, optimizer: torch.optim.Optimizer
) -> None:
    """Set run and optimizer to the saved state.

    Raises:
        SpatialARError: `checkpoint-damaged`, or `checkpoint-other` for another training.
    """
    about, tensors = _read(path, fingerprint)
    groups: dict[str, dict[str, Tensor]] = {"best": {}, "last": {}, "adamw": {}}
    for name, value in tensors.items():
        group, rest = name.split(".", 1)
        groups[group][rest] = value
    run.curve = [EpochFigures.from_dict(figures) for figures in about["curve"]]
    run.best_epoch = about["best_epoch"]
    run.best_weights = groups["best"]
    run.model.load_state_dict(groups["last"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in groups["adamw"].items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _read(
    path: Path, fingerprint: str, *, with_tensors: bool = True
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads(file.metadata()["fit"])
            found = about["fingerprint"]
            names = list(file.keys()) if with_tensors else []
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError):
        raise SpatialARError(
            "checkpoint-damaged", "The checkpoint of the unfinished training cannot be read."
        ) from None
    if found != fingerprint:
        raise SpatialARError(
            "checkpoint-other", "The unfinished training found here has other volumes or settings."
        )
    return about, tensors
