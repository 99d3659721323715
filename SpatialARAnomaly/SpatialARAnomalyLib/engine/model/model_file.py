"""A model on disk: one safetensors file with its tensors and, in the metadata, its card.

    8 bytes   length of the header, little-endian
    header    {"__metadata__":{"digest":"<64 hex digits>","card":"<JSON>"},"<tensor>":{…},…},
              padded with spaces to a multiple of 8 bytes
    tensors   float32, little-endian, in the order of their names

The digest is the SHA-256 of length and header with its own digits set to 0. The card holds
the SHA-256 of the tensors, so the digest covers every byte of the file. The same card and
tensors are the same bytes on every machine. Reading a card needs numpy only.
"""

import dataclasses
import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.cards.encoder_card import EncoderCard
from SpatialARAnomalyLib.engine.cards.rim import RimCorrection
from SpatialARAnomalyLib.engine.cards.suitability import Suitability
from SpatialARAnomalyLib.engine.errors import ModelError, OutputError, SpatialARError, SpecError
from SpatialARAnomalyLib.engine.file_names import file_name_problem
from SpatialARAnomalyLib.engine.files import (
    move_new,
    partial_folder,
    remove_stale_partials,
    sync,
    unwritable,
)
from SpatialARAnomalyLib.engine.progress import EpochFigures
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    Region,
    SliceSpec,
    Spec,
    TrainingSpec,
)

if TYPE_CHECKING:
    import torch

    from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel

SCHEMA = 2
"""Version of the card; raised when an older program could misread a newer model."""

SUFFIX = ".safetensors"
"""Ending of the name of a model file."""

MAX_HEADER_BYTES = 16 << 20
"""Longest header that is read; that of a trained model has about 100 KiB."""

_START = b'{"__metadata__":{"digest":"'
"""Beginning of every header, also of later schemas."""
_DIGEST_END = len(_START) + 64

_BLOCK_BYTES = 1 << 20

_WINDOWS_IN_USE = (5, 32, 33)
"""Windows error numbers for a file that another program has open."""


@dataclass(frozen=True, kw_only=True)
class NormalsSummary(Spec):
    """The normal scans of a model: numbers and hashes, no names."""

    training_sha256: tuple[str, ...]
    """Content hashes (`Volume.content_sha256`)."""
    held_out_sha256: tuple[str, ...]
    pixel_spacing_mm: tuple[float, float]
    """Least and largest distance between rows or columns."""
    slice_spacing_mm: tuple[float, float]
    """Least and largest distance between slices."""
    extent_mm: tuple[float, float]
    """Least and largest height or width of the body in a slice."""
    training_patients: int | None = None
    """Number of patients of the training scans; None in models that did not count them."""
    held_out_patients: int | None = None
    stated_modality: int | None = None
    """Number of scans whose files state their modality; that of others is told from values."""


@dataclass(frozen=True, kw_only=True)
class ModelCard(Spec):
    """Description of a model: settings, encoder, training scans, calibration, license."""

    schema: int
    name: str
    created: str
    """ISO date."""
    engine_version: str
    modality: Modality
    slices: SliceSpec
    intensity: IntensitySpec
    region: Region = Region.BODY
    rim: RimCorrection | None = None
    """Correction of the NLL near the edge of the region; None for none."""
    encoder: EncoderCard
    autoregressive: AutoregressiveSpec
    training: TrainingSpec
    normals: NormalsSummary
    curve: tuple[EpochFigures, ...]
    best_epoch: int
    calibration: Calibration
    suitability: Suitability | None = None
    """The look of the normal scans; None in models made before it was kept."""
    weights_sha256: str = ""
    """SHA-256 of the tensors' bytes; set by `save_model`, and kept by a rename."""
    notice: str
    """License or nature of the encoder; it must be passed on with the model."""

    @property
    def token_mm(self) -> float:
        """Side of a token in mm."""
        return self.slices.pixel_mm * self.encoder.patch_px

    def __post_init__(self) -> None:
        self._require(self.schema == SCHEMA, f"schema must be {SCHEMA}")
        self._require(
            1 <= self.best_epoch <= len(self.curve), "best_epoch must be one of the curve"
        )
        self._require(
            self.slices.size_px % self.encoder.patch_px == 0,
            "size_px must be a multiple of the encoder's patch_px",
        )


def model_path(path: Path) -> Path:
    """Return the path of a model file, with `.safetensors` added where it is missing."""
    return path if path.name.endswith(SUFFIX) else path.parent / (path.name + SUFFIX)


def check_free(path: Path, overwrite: bool) -> None:
    """Raise `OutputError` unless a model may be written to `model_path(path)`.

    With `overwrite` a model may be replaced, but no other file.
    """
    path = model_path(path)
    if path.name == SUFFIX:
        raise OutputError("output-name", "A model's file must have a name.")
    if (problem := file_name_problem(path.name)) is not None:
        raise OutputError(
            "output-name", f"The name of a model's file must {problem}; found {path.name!r}."
        )
    # Not `Path.exists`, which raises where a parent folder may not be searched.
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise OutputError("output-exists", f"{path.name!r} exists already.")
    if not is_model(path):
        raise OutputError(
            "output-not-a-model", f"{path.name!r} exists and is not a model; it is not replaced."
        )


def is_model(path: Path) -> bool:
    """Return whether a file begins as model files do, even if the rest is damaged."""
    try:
        with _opened(path) as file:
            return _read(file, 8 + len(_START))[8:] == _START
    except ModelError:
        return False


def save_model(
    path: Path, card: ModelCard, model: "AutoregressiveModel", *, overwrite: bool = True
) -> ModelCard:
    """Write a model to `model_path(path)` and return its card with the tensors' hash.

    The file appears whole or not at all, and replaces a model of that name with `overwrite`.

    Raises:
        OutputError: The name is taken, or writing fails; nothing is changed.
    """
    check_free(path, overwrite)
    weights = model.state_dict()
    tensors = b"".join(weights[name].cpu().numpy().tobytes() for name in sorted(weights))
    card = dataclasses.replace(card, weights_sha256=hashlib.sha256(tensors).hexdigest())
    _write(model_path(path), _header(card), [tensors], overwrite)
    return card


def read_card(path: Path) -> ModelCard:
    """Read the card of a model without its tensors, to list many models quickly.

    Header, card, tensor shapes and file size are verified.

    Raises:
        ModelError: `model-missing`, `model-unreadable`, `model-file` (another kind of file),
            `model-newer`, `model-tampered` or `model-damaged`.
    """
    with _opened(path) as file:
        return _read_header(file)[0]


def verify_model(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> ModelCard:
    """Verify every byte of a model and return its card.

    Args:
        path: The model; `.safetensors` is added where it is missing.
        on_bytes: Is called with the number of tensor bytes read so far, and may raise.

    Raises:
        ModelError: As `read_card`, and `model-tampered` for other tensors.
    """
    with _opened(path) as file:
        card, _ = _read_header(file)
        for _ in _tensor_blocks(file, card, on_bytes):
            pass
    return card


def load_model(
    path: Path, device: "torch.device | str" = "cpu"
) -> "tuple[ModelCard, AutoregressiveModel]":
    """Load a verified model: its card, and the network in evaluation mode on `device`.

    Raises:
        ModelError: As `verify_model`.
    """
    import torch

    from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel

    with _opened(path) as file:
        card, _ = _read_header(file)
        content = bytearray().join(_tensor_blocks(file, card, lambda _: None))
    flat = torch.frombuffer(content, dtype=torch.float32)
    shapes = sorted(tensor_shapes(card).items())
    sizes = [math.prod(shape) for _, shape in shapes]
    parts = flat.split(sizes)  # type: ignore[no-untyped-call]
    tensors = {name: part.reshape(shape) for (name, shape), part in zip(shapes, parts, strict=True)}
    model = AutoregressiveModel(card.autoregressive, card.encoder.channels)
    model.load_state_dict(tensors)
    return card, model.to(device).eval()


def copy_model(
    source: Path,
    target: Path,
    *,
    name: str | None = None,
    overwrite: bool = True,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> ModelCard:
    """Copy a model while verifying it, under another name if one is given; return the new card.

    The target appears, or is replaced, only when the whole source was verified. The two may
    be the same file. Only the header changes with the name.

    Args:
        source: The model to copy.
        target: The file to write.
        name: The name on the new card; by default the old one.
        overwrite: Replace a target that exists.
        on_bytes: Is called with the number of tensor bytes copied so far, and may raise.

    Raises:
        ModelError: As `verify_model`; `model-in-use` where another program has the target open.
        OutputError: Writing fails; `output-exists` where the target's name is taken.
    """
    with _opened(source) as file:
        card, header = _read_header(file)
        if name not in (None, card.name):
            card = dataclasses.replace(card, name=name)
            header = _header(card)
        _write(target, header, _tensor_blocks(file, card, on_bytes), overwrite)
    return card


def write_error(what: str, error: OSError) -> SpatialARError:
    """Make the error of a failed change of a model file."""
    if getattr(error, "winerror", None) in _WINDOWS_IN_USE:
        return ModelError("model-in-use", f"{what}: it is in use, or may not be changed.")
    return unwritable(what, error)


def _write(path: Path, header: bytes, blocks: Iterable[bytes], overwrite: bool) -> None:
    """Write a model file that appears whole or not at all."""
    remove_stale_partials(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_folder(path.parent) as work:
            new = work / "new"
            with new.open("xb") as file:
                file.write(header)
                file.writelines(blocks)
            sync(new)
            if overwrite:
                os.replace(new, path)
            else:
                _move_to_free(new, path)
            sync(path.parent)
    except OSError as error:
        raise write_error("The model cannot be written", error) from None


def _move_to_free(new: Path, path: Path) -> None:
    try:
        move_new(new, path)
    except FileExistsError:
        raise OutputError("output-exists", f"{path.name!r} exists already.") from None


def _header(card: ModelCard) -> bytes:
    """Return length and header of the model file with this card."""
    text = json.dumps(card.to_dict(), separators=(",", ":"))
    metadata = {"__metadata__": {"digest": "0" * 64, "card": text}}
    header = json.dumps(metadata | _layout(card)[0], separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    length = len(header).to_bytes(8, "little")
    return length + _START + _digest(length + header) + header[_DIGEST_END:]


def _digest(header: bytes) -> bytes:
    """Return the hexadecimal digest of length and header."""
    digest = hashlib.sha256(header[: 8 + len(_START)])
    digest.update(b"0" * 64)
    digest.update(header[8 + _DIGEST_END :])
    return digest.hexdigest().encode()


def _layout(card: ModelCard) -> tuple[dict[str, Any], int]:
    """Return the header's entries of the tensors, and the number of their bytes."""
    layout, end = {}, 0
    for name, shape in sorted(tensor_shapes(card).items()):
        start, end = end, end + 4 * math.prod(shape)
        layout[name] = {"dtype": "F32", "shape": [*shape], "data_offsets": [start, end]}
    return layout, end


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a model file for reading."""
    path = model_path(path)
    if not os.path.lexists(path):
        raise ModelError("model-missing", f"There is no model file {path.name!r}.")
    try:
        # A pipe or a device would block.
        if not os.path.isfile(path):
            raise OSError(0, "not a file")
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(error) from None
    with file:
        yield file


def _read(file: IO[bytes], size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise _unreadable(error) from None


def _read_header(file: IO[bytes]) -> tuple[ModelCard, bytes]:
    """Read and verify length and header; return the card, and the bytes unchanged."""
    size = os.fstat(file.fileno()).st_size
    header = _read(file, 8 + len(_START))
    if header[8:] != _START:
        raise ModelError(
            "model-file",
            "The file is not a model of SpatialARAnomaly, or its beginning is damaged.",
        )
    length = int.from_bytes(header[:8], "little")
    # Checked before memory is allocated: a damaged length can be anything.
    if not _DIGEST_END <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise _damaged("its header is cut off, or its length is wrong")
    header += _read(file, length - len(_START))
    try:
        tensors = json.loads(header[8:].decode("ascii"))
        content = json.loads(tensors.pop("__metadata__")["card"])
        schema = content["schema"]
        if type(schema) is not int:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged("its header is not the JSON of a model") from None
    if schema > SCHEMA:
        raise ModelError(
            "model-newer",
            f"This program reads models up to schema {SCHEMA}; this one has schema {schema}.",
        )
    if schema < SCHEMA:
        raise ModelError(
            "model-older",
            f"This program reads models of schema {SCHEMA}; this one has schema {schema}, of an "
            "earlier version with other networks.",
        )
    if header[8 + len(_START) : 8 + _DIGEST_END] != _digest(header):
        raise _tampered("its card does not match its digest")
    try:
        card = ModelCard.from_dict(content)
    except SpecError as error:
        raise _damaged(f"its card is not valid: {error.message.rstrip('.')}") from None
    layout, tensor_bytes = _layout(card)
    if tensors != layout:
        raise _damaged("its tensors do not fit the network on its card")
    if size != len(header) + tensor_bytes:
        raise _damaged(f"it must have {len(header) + tensor_bytes} bytes; it has {size}")
    return card, header


def _tensor_blocks(
    file: IO[bytes], card: ModelCard, on_bytes: Callable[[int], None]
) -> Iterator[bytes]:
    """Yield the tensors' bytes in blocks; raise after the last if their hash is not the card's."""
    digest, done = hashlib.sha256(), 0
    while block := _read(file, _BLOCK_BYTES):
        digest.update(block)
        yield block
        done += len(block)
        on_bytes(done)
    file.close()  # Windows does not replace a file that is open
    if digest.hexdigest() != card.weights_sha256:
        raise _tampered("the SHA-256 of its tensors differs from the card's")


def _unreadable(error: OSError) -> ModelError:
    if error.errno == errno.ENOMEM:
        raise MemoryError from None
    return ModelError(
        "model-unreadable", f"The model file cannot be read ({error.strerror or error})."
    )


def _damaged(reason: str) -> ModelError:
    return ModelError("model-damaged", f"The model file is damaged: {reason}.")


def _tampered(reason: str) -> ModelError:
    return ModelError("model-tampered", f"The model file is not as it was written: {reason}.")


def tensor_shapes(card: ModelCard) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of the card's network (see `AutoregressiveModel`)."""
    channels, spec = card.encoder.channels, card.autoregressive
    widths = [channels, *[spec.hidden_channels] * (spec.layers - 1), channels]
    shapes: dict[str, tuple[int, ...]] = {"variance": (len(spec.dilations),)}
    if spec.shrinkage < 1:
        shapes["whitener"] = (len(spec.dilations), channels, channels)
    for branch in range(len(spec.dilations)):
        for layer in range(spec.layers):
            # A ReLU lies between two convolutions.
            name = f"branches.{branch}.{2 * layer}"
            shapes[f"{name}.weight"] = (widths[layer + 1], widths[layer], 3, 3)
            shapes[f"{name}.bias"] = (widths[layer + 1],)
    return shapes
