"""A model on disk: a folder of `model.safetensors` and `model.json`, complete or not there."""

import dataclasses
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic_files import PARTIAL_PREFIX, remove_stale_partials, sync, unwritable
from .calibration import Calibration
from .encoder_card import EncoderCard
from .errors import ModelError, OutputError, SpecError
from .file_hash import file_sha256
from .progress import EpochFigures
from .specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    SliceSpec,
    Spec,
    TrainingSpec,
    Variance,
)

if TYPE_CHECKING:
    import torch

    from .autoregressive import AutoregressiveModel

SCHEMA = 1
"""Version of `model.json`; raised when an older program could misread a newer file."""

CARD_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class NormalsSummary(Spec):
    """The normal volumes a model learned from: numbers and hashes, no names."""

    training_sha256: tuple[str, ...]
    """Content hashes (`Volume.content_sha256`)."""
    held_out_sha256: tuple[str, ...]
    pixel_spacing_mm: tuple[float, float]
    """Least and largest distance of rows or columns."""
    slice_spacing_mm: tuple[float, float]
    """Least and largest distance of slices."""
    extent_mm: tuple[float, float]
    """Least and largest height or width of the body in the plane."""


@dataclass(frozen=True, kw_only=True)
class ModelCard(Spec):
    """All that is known of a model, as in `model.json`."""

    schema: int
    name: str
    created: str
    """ISO date."""
    engine_version: str
    modality: Modality
    slices: SliceSpec
    intensity: IntensitySpec
    encoder: EncoderCard
    autoregressive: AutoregressiveSpec
    training: TrainingSpec
    normals: NormalsSummary
    curve: tuple[EpochFigures, ...]
    best_epoch: int
    calibration: Calibration
    weights_sha256: str
    """SHA-256 of `model.safetensors`."""
    notice: str
    """What must travel with the model: the encoder's license or nature."""

    def __post_init__(self) -> None:
        self._require(self.schema == SCHEMA, f"schema must be {SCHEMA}")
        self._require(
            1 <= self.best_epoch <= len(self.curve), "best_epoch must be one of the curve"
        )
        self._require(
            self.slices.size_px % self.encoder.patch_px == 0,
            "size_px must be a multiple of the encoder's patch_px",
        )


def _digest(card: dict[str, Any]) -> str:
    """Hash of a card's content, so that a changed figure does not pass for the trained one."""
    text = json.dumps(card, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def card_text(card: ModelCard) -> str:
    """What `model.json` holds: the card and its digest."""
    content = card.to_dict()
    return json.dumps({**content, "digest": _digest(content)}, indent=1) + "\n"


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise `OutputError` unless a model may be written as `folder`."""
    # Not `Path.exists`, which raises where a parent may not be searched.
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise OutputError(
            "output-exists",
            f"The model folder {folder.name!r} must not exist yet; it does.",
            "Choose another name, or replace it with --overwrite.",
        )
    try:
        held = {one.name for one in folder.iterdir()} if folder.is_dir() else {""}
    except OSError as error:
        raise unwritable(
            f"The model folder {folder.name!r} cannot be looked into",
            error,
            "Choose another name, or a folder you may read.",
        ) from None
    # Nothing but a model (or nothing at all) goes away when the folder is replaced.
    if (held and CARD_FILE not in held) or held - {CARD_FILE, WEIGHTS_FILE}:
        raise OutputError(
            "output-not-a-model",
            f"{folder.name!r} exists and is not a model folder, or holds more than a model; "
            "it is not replaced.",
            "Choose another name.",
        )


def save_model(folder: Path, card: ModelCard, model: "AutoregressiveModel") -> ModelCard:
    """Write the model and return its card with the weights' hash; all of it appears at once.

    An existing model of that name is replaced. Raises `OutputError` where
    something else has that name, or the disk does not take the model; then
    what was there is there still.
    """
    from safetensors.torch import save

    check_free(folder, overwrite=True)
    remove_stale_partials(folder.parent)
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=PARTIAL_PREFIX, dir=folder.parent, ignore_cleanup_errors=True
        ) as work:
            new, old = Path(work) / "new", Path(work) / "old"
            new.mkdir()
            # Not `save_file`, whose errors hold the path.
            (new / WEIGHTS_FILE).write_bytes(save(weights))
            card = dataclasses.replace(card, weights_sha256=file_sha256(new / WEIGHTS_FILE))
            (new / CARD_FILE).write_text(card_text(card), encoding="utf-8", newline="\n")
            for file in (WEIGHTS_FILE, CARD_FILE):
                sync(new / file)
            _replace(folder, new, old)
    except OSError as error:
        raise unwritable("The model cannot be written", error) from None
    return card


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Move `new` to `folder`, and a folder already there to `old`; after an error, back."""
    try:
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise


def read_card(folder: Path, *, with_weights: bool = True) -> ModelCard:
    """The card of a model folder, verified: schema, content hash and the weights' hash.

    Without `with_weights` the weights need only be there: a quick look at many
    models. Raises `ModelError` for a folder that is missing, no model, newer than this
    program, damaged or changed after training.
    """
    try:
        text = (folder / CARD_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            "model-missing",
            f"Expected a model folder with {CARD_FILE}; found none"
            f"{'' if folder.exists() else ' (no such folder)'}.",
            "Give the folder that `train --out` wrote.",
        ) from None
    except OSError as error:
        raise ModelError(
            "model-unreadable",
            f"{CARD_FILE} cannot be read ({error.strerror or error}).",
            "Check that you may read the model folder.",
        ) from None
    try:
        content = json.loads(text)
        schema = content["schema"]
        if type(schema) is not int:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(
            "model-damaged",
            f"{CARD_FILE} is not the JSON object of a model.",
            "Copy the model again.",
        ) from None
    if schema > SCHEMA:
        raise ModelError(
            "model-newer",
            f"This program reads models up to schema {SCHEMA}; this one has schema {schema}.",
            "Update SpatialARAnomaly.",
        )
    digest = content.pop("digest", None)
    if digest != _digest(content):
        raise ModelError(
            "model-tampered",
            f"{CARD_FILE} is not as it was written: its content does not match its digest.",
            "Copy the model again from its source.",
        )
    try:
        card = ModelCard.from_dict(content)
    except SpecError as error:
        raise ModelError(
            "model-damaged", f"{CARD_FILE} is not valid: {error.message}", "Copy the model again."
        ) from None
    try:
        if with_weights:
            weights_sha256 = file_sha256(folder / WEIGHTS_FILE)
        else:
            (folder / WEIGHTS_FILE).stat()
    except OSError as error:
        raise ModelError(
            "model-damaged",
            f"The model lacks a readable {WEIGHTS_FILE} ({error.strerror or error}).",
            "Copy the model again.",
        ) from None
    if with_weights and weights_sha256 != card.weights_sha256:
        raise ModelError(
            "model-tampered",
            f"{WEIGHTS_FILE} is not the trained one: its SHA-256 differs from the model's.",
            "Copy the model again from its source.",
        )
    return card


def load_model(
    folder: Path, device: "torch.device | str" = "cpu"
) -> "tuple[ModelCard, AutoregressiveModel]":
    """The verified card and the network in evaluation mode on `device`.

    Raises `ModelError` as `verify_model` does.
    """
    from safetensors.torch import load

    from .autoregressive import AutoregressiveModel

    card = verify_model(folder)
    model = AutoregressiveModel(card.autoregressive, card.encoder.channels)
    # From memory: `load_file` cannot open every path that a system allows.
    model.load_state_dict(load((folder / WEIGHTS_FILE).read_bytes()))
    return card, model.to(device).eval()


def verify_model(folder: Path) -> ModelCard:
    """The card of a model that is complete, unchanged and whose tensors fit it.

    Needs no torch. Raises `ModelError` as `read_card` does, and where tensors
    do not fit the card.
    """
    from safetensors import SafetensorError, safe_open

    card = read_card(folder)
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="numpy") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        found = {}
    if found != tensor_shapes(card):
        raise ModelError(
            "model-damaged",
            f"The tensors of {WEIGHTS_FILE} do not fit the network of {CARD_FILE}.",
            "Copy the model again.",
        )
    return card


def tensor_shapes(card: ModelCard) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the card's network (see `AutoregressiveModel`)."""
    # Here, because the panel reads cards where jaxtyping is not installed.
    from .token_place import MAP_SHAPE, POSITION_FEATURES

    channels, spec = card.encoder.channels, card.autoregressive
    depth, hidden = len(spec.dilations), spec.hidden_channels
    widths = [channels, *[hidden] * (depth - 1), channels]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(depth):
        # A ReLU stands between two convolutions.
        shapes[f"net.{2 * layer}.weight"] = (widths[layer + 1], widths[layer], 3, 3)
        shapes[f"net.{2 * layer}.bias"] = (widths[layer + 1],)
    if spec.position:
        for name, inputs in (("position.0", POSITION_FEATURES), ("position.2", hidden)):
            shapes[f"{name}.weight"] = (hidden, inputs, 1, 1)
            shapes[f"{name}.bias"] = (hidden,)
    if spec.variance is Variance.FULL:
        shapes["residual_whitener"] = (channels, channels)
    else:
        shapes["variance"] = (channels,)
    if spec.whitened:
        shapes |= {"token_mean": (channels,), "token_whitener": (channels, channels)}
    if spec.position_variance:
        shapes["variance_map"] = MAP_SHAPE
    return shapes
