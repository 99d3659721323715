"""The training job: normal scans in, a model file out."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from .. import __version__
from ..engine.calibration import Calibration
from ..engine.calibration_fit import fit_calibration, thinned
from ..engine.device import resolve_device
from ..engine.encoder_card import DEMONSTRATION
from ..engine.errors import InputError, SpatialARError, SpecError
from ..engine.feature_store import PREPARATION_VERSION, FeatureStore, feature_key
from ..engine.model_store import (
    SCHEMA,
    ModelCard,
    NormalsSummary,
    check_free,
    model_path,
    save_model,
)
from ..engine.plane_volume import PlaneVolume
from ..engine.progress import Reporter
from ..engine.slicing import SliceStack
from ..engine.specs import IntensitySpec, Modality, SliceSpec
from ..engine.token_place import PLACES, PlaceArray
from ..engine.volume import infer_modality
from . import encoder_registry
from .encoder_loading import load_encoder
from .field_of_view import default_fov_mm
from .inputs import find_inputs
from .sources import ArrayInput, Source, shown_name, source_values
from .training_folder import PLACES_ENDING, TrainingFolder
from .training_record import TrainingRecord, drop_unused_arrays, keep_array, write_record
from .training_request import TrainRequest, TrainSpec

if TYPE_CHECKING:
    import torch

    from ..engine.autoregressive import AutoregressiveModel
    from ..engine.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class _Normal:
    """One normal scan, seen once; read again when needed, so that memory stays constant."""

    source: Source
    sha256: str
    slice_mm: float
    pixel_mm: tuple[float, float]
    extent_mm: tuple[float, float]
    body_slices: int


def train(request: TrainRequest, report: Reporter) -> ModelCard:
    """Train a model and write its file; interrupted, the same request resumes.

    `out` gets the suffix `.safetensors` if it lacks it. Work in progress (tokens,
    checkpoint, what was asked and the arrays among the scans) lies in
    `<out>.training` and is removed at the end. Raises
    `SpatialARError` for unusable input, and `Cancelled` through `report`; no
    model appears in either case.
    """
    request = dataclasses.replace(request, out=Path(os.path.realpath(model_path(request.out))))
    check_free(request.out, request.overwrite)
    folder = TrainingFolder(request.out)
    folder.check()
    # Checked before the long way to their use; the field of view may yet be unknown.
    SliceSpec(fov_mm=1.0 if request.fov_mm is None else request.fov_mm, size_px=request.size_px)
    if request.window_hu is not None:
        IntensitySpec.for_modality(Modality.CT, request.window_hu)
    sources: list[Source] = []
    for normal in request.normals:
        sources.extend(find_inputs(normal) if isinstance(normal, Path) else [normal])
    _check_outside(sources, folder)

    device = resolve_device(request.device)
    from ..engine.precision import best_precision

    precision = request.precision or best_precision(device)
    # Recorded, so that the training goes on likewise on another device.
    request = dataclasses.replace(request, precision=precision)
    encoder = load_encoder(
        request.encoder,
        device=device,
        precision=precision,
        allow_download=request.allow_download,
        report=report,
    )
    patch_px = encoder.card.patch_px
    if request.size_px % patch_px:
        raise SpecError(
            "size-not-patches",
            f"The slice size must be a multiple of the encoder's patch ({patch_px} px); "
            f"found {request.size_px} px.",
            f"Use {max(1, round(request.size_px / patch_px)) * patch_px} px.",
        )

    with folder.hold(), _only_used_arrays(folder):
        if request.restart:
            folder.discard_checkpoint()
        sources = [_kept(source, folder, report) for source in sources]
        if not folder.checkpoint.exists():
            _record(request, sources, folder)
        card, model = _learn(request, sources, encoder, device, folder, report)
        card = save_model(request.out, card, model)
        encoder_registry.remember(encoder.card.weights_sha256, request.encoder)
        try:
            folder.clear()
        except OSError as error:
            report.notice(
                "training-left",
                f"The model is saved; {folder.path.name!r} cannot be removed "
                f"({error.strerror or error}).",
            )
    return card


def _check_outside(sources: Sequence[Source], training: TrainingFolder) -> None:
    """Raise `InputError` where a scan lies in the folder that training writes."""
    for source in sources:
        if isinstance(source, ArrayInput):
            continue  # the panel's own, and at last in the training's folder on purpose
        place = Path(os.path.realpath(source.path))
        if place.is_relative_to(training.path):
            raise InputError(
                "input-in-output",
                f"The normal scans must lie outside the folder {training.path.name!r}, which the "
                f"training writes; {source.path.name!r} does not.",
                "Move the scans, or choose another name for the model.",
            )


@contextmanager
def _only_used_arrays(folder: TrainingFolder) -> Iterator[None]:
    """At the end, keep of the panel's arrays those that the recorded training needs."""
    try:
        yield
    finally:
        drop_unused_arrays(folder)


def _kept(source: Source, folder: TrainingFolder, report: Reporter) -> Source:
    """The scan, with its array in the training's folder."""
    if not isinstance(source, ArrayInput):
        return source
    voxels = keep_array(folder, source.voxels, report.check_cancelled)
    return dataclasses.replace(source, voxels=voxels)


def _record(request: TrainRequest, sources: Sequence[Source], folder: TrainingFolder) -> None:
    """Keep what is asked, so that the panel can list the training and go on with it."""
    spec = TrainSpec.of(request)
    if spec is None:
        return
    encoder = request.encoder
    if encoder != DEMONSTRATION and os.path.exists(encoder):
        encoder = os.path.abspath(encoder)
    spec = dataclasses.replace(spec, encoder=encoder, restart=False, allow_download=False)
    values = tuple(source_values(source) for source in sources)
    write_record(folder, TrainingRecord(spec, values))


def _learn(
    request: TrainRequest,
    sources: Sequence[Source],
    encoder: "Encoder",
    device: "torch.device",
    folder: TrainingFolder,
    report: Reporter,
) -> "tuple[ModelCard, AutoregressiveModel]":
    """The trained network and its card, which lacks only the tensors' hash."""
    from ..engine.checkpoint import check_checkpoint
    from ..engine.training import fit, split_held_out

    report.stage("read", 1, 4)
    normals, modality = _survey(sources, request, report)
    preparation = _preparation(request, normals, modality, encoder, folder)
    training_indices, held_out_indices = split_held_out(
        [normal.sha256 for normal in normals], request.training
    )
    fingerprint = _fingerprint(request, normals, preparation)
    check_checkpoint(folder.checkpoint, fingerprint)
    _record(request, sources, folder)  # only now it is sure to be the training that is there

    report.stage("embed", 2, 4)
    uses_places = request.autoregressive.uses_places
    keys = _embed(normals, preparation, uses_places, report)

    def places(indices: list[int]) -> list[PlaceArray] | None:
        if not uses_places:
            return None
        return [preparation.store.open(keys[index] + PLACES_ENDING) for index in indices]

    report.stage("fit", 3, 4)
    run = fit(
        [preparation.store.open(keys[index]) for index in training_indices],
        [preparation.store.open(keys[index]) for index in held_out_indices],
        request.autoregressive,
        request.training,
        report=report,
        device=device,
        checkpoint=folder.checkpoint,
        fingerprint=fingerprint,
        training_places=places(training_indices),
        held_out_places=places(held_out_indices),
    )

    report.stage("calibrate", 4, 4)
    held_out = [(normals[index], keys[index]) for index in held_out_indices]
    calibration = _calibrate(held_out, preparation, run.model.eval(), report)
    encoder_card = preparation.encoder.card
    card = ModelCard(
        schema=SCHEMA,
        name=request.name or request.out.stem,
        created=date.today().isoformat(),
        engine_version=__version__,
        modality=preparation.modality,
        slices=preparation.slices,
        intensity=preparation.intensity,
        encoder=encoder_card,
        autoregressive=request.autoregressive,
        training=request.training,
        normals=_summary(normals, training_indices, held_out_indices),
        curve=tuple(run.curve),
        best_epoch=run.best_epoch,
        calibration=calibration,
        notice=encoder_card.notice,
    )
    return card, run.model


def _preparation(
    request: TrainRequest,
    normals: list[_Normal],
    modality: Modality,
    encoder: "Encoder",
    folder: TrainingFolder,
) -> "_Preparation":
    if request.window_hu is not None and modality is not Modality.CT:
        raise SpecError(
            "window-not-ct",
            f"A window in Hounsfield units is for CT; the normal scans are {modality}.",
            "Leave out --window-hu.",
        )
    fov_mm = request.fov_mm
    if fov_mm is None:
        fov_mm = default_fov_mm(normal.extent_mm for normal in normals)
    slices = SliceSpec(plane=request.plane, fov_mm=fov_mm, size_px=request.size_px)
    intensity = IntensitySpec.for_modality(modality, request.window_hu)
    return _Preparation(slices, intensity, modality, encoder, FeatureStore(folder.features))


def _survey(
    sources: Sequence[Source], request: TrainRequest, report: Reporter
) -> tuple[list[_Normal], Modality]:
    """Read every normal once: usable, one modality, none twice, at least two."""
    normals: list[_Normal] = []
    modality = request.modality
    for done, source in enumerate(sources, start=1):
        report.check_cancelled()
        try:
            _, volume = source.read(report.check_cancelled)
            # What the file says counts most, then what the user says, then what it looks like.
            found = volume.modality or request.modality or infer_modality(volume)
            modality = modality or found
            if found is not modality:
                raise InputError(
                    "modality-mixed",
                    f"All normal scans must be {modality}; this one looks like {found}.",
                    "Train one model per modality.",
                )
        except SpatialARError as error:
            # Among many scans the message must say which one.
            raise type(error)(
                error.code, f"{shown_name(source)}: {error.message}", error.hint
            ) from None
        sha256 = volume.content_sha256()
        for earlier in normals:
            if earlier.sha256 == sha256:
                raise InputError(
                    "normal-twice",
                    f"Every normal scan must be named once; {shown_name(source)} has the same "
                    f"content as {shown_name(earlier.source)}.",
                    "Remove one of them.",
                )
        turned = PlaneVolume(volume, request.plane, modality)
        slice_mm, row_mm, column_mm = turned.spacing_mm
        normals.append(
            _Normal(
                source=source,
                sha256=sha256,
                slice_mm=slice_mm,
                pixel_mm=(row_mm, column_mm),
                extent_mm=turned.extent_mm,
                body_slices=len(turned.body_slices),
            )
        )
        report.progress(done, len(sources), "volume")
    if len(normals) < 2 or modality is None:
        raise InputError(
            "too-few-normals",
            f"Training needs at least 2 normal scans (one to learn from, one held out); "
            f"found {len(normals)}.",
            "Name more scans.",
        )
    return normals, modality


def _fingerprint(request: TrainRequest, normals: list[_Normal], preparation: "_Preparation") -> str:
    """Hash of all that decides the result, so that only the same training is resumed."""
    decisive = {
        "normals": sorted(normal.sha256 for normal in normals),
        "preparation": PREPARATION_VERSION,
        **preparation.settings,
        "autoregressive": request.autoregressive.to_dict(),
        "training": request.training.to_dict(),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Preparation:
    """How volumes become tokens in this training."""

    slices: SliceSpec
    intensity: IntensitySpec
    modality: Modality
    encoder: "Encoder"
    store: FeatureStore

    @property
    def settings(self) -> dict[str, object]:
        return {
            "slices": self.slices.to_dict(),
            "intensity": self.intensity.to_dict(),
            "encoder": self.encoder.card.weights_sha256,
            "precision": self.encoder.card.precision.value,
        }

    def key(self, normal: _Normal) -> str:
        return feature_key(normal.sha256, **self.settings)

    def stack(self, normal: _Normal, report: Reporter) -> SliceStack:
        _, volume = normal.source.read(report.check_cancelled)
        if volume.content_sha256() != normal.sha256:
            raise InputError(
                "normal-changed",
                f"{shown_name(normal.source)} changed while it was used for training.",
                "Start the training again.",
            )
        turned = PlaneVolume(volume, self.slices.plane, self.modality)
        stack = SliceStack(turned, self.slices, self.intensity, self.encoder.card.patch_px)
        if not any(stack.tokens_inside(index).any() for index in stack.indices):
            token_mm = self.slices.pixel_mm * self.encoder.card.patch_px
            raise InputError(
                "body-without-tokens",
                f"{shown_name(normal.source)}: the body must be larger than a token; no token of "
                f"{token_mm:.0f} mm has its center in it.",
                "Choose a smaller field of view or a larger slice size.",
            )
        return stack


def _embed(
    normals: list[_Normal], preparation: _Preparation, with_places: bool, report: Reporter
) -> list[str]:
    """Store the tokens (and their places) of every volume that is not stored yet; their keys."""
    from ..engine.detection import embed_slices

    total = sum(normal.body_slices for normal in normals)
    tokens_across = preparation.slices.size_px // preparation.encoder.card.patch_px
    done = 0
    keys = []
    for normal in normals:
        key = preparation.key(normal)
        keys.append(key)
        lacks_tokens = key not in preparation.store
        lacks_places = with_places and key + PLACES_ENDING not in preparation.store
        if lacks_tokens or lacks_places:
            stack = preparation.stack(normal, report)
            grid = (len(stack.indices) * stack.tiles, tokens_across, tokens_across)
        if lacks_places:
            shape = (grid[0], PLACES, *grid[1:])
            places = (stack.places(index) for index in stack.indices)
            preparation.store.write(key + PLACES_ENDING, shape, places)
        if not lacks_tokens:
            done += normal.body_slices
            continue
        before = done

        def batches(stack: SliceStack = stack, before: int = before) -> Iterator[np.ndarray]:
            report.progress(before, total, "slice")
            tokens = embed_slices(stack, preparation.encoder, report)
            for count, one in enumerate(tokens, start=1):
                yield one.cpu().numpy()
                report.progress(before + count, total, "slice")

        shape = (grid[0], preparation.encoder.card.channels, *grid[1:])
        preparation.store.write(key, shape, batches())
        done += normal.body_slices
    return keys


def _calibrate(
    held_out: list[tuple[_Normal, str]],
    preparation: _Preparation,
    model: "AutoregressiveModel",
    report: Reporter,
) -> Calibration:
    """The NLL of the held-out normals' body: of its tokens, and of its voxels as in detection."""
    from ..engine.detection import score_slices

    voxel_nll: list[Float[np.ndarray, " _"]] = []
    token_nll: list[Float[np.ndarray, " _"]] = []
    for done, (normal, key) in enumerate(held_out, start=1):
        report.check_cancelled()
        stack = preparation.stack(normal, report)
        tokens = preparation.store.open(key)
        tokens = tokens.reshape(len(stack.indices), stack.tiles, *tokens.shape[1:])
        nll = list(score_slices(stack, tokens, model))
        inside = stack.put_back(nll, model.lowest_nll)[stack.inside_volume()]
        voxel_nll.append(thinned(inside, len(held_out)))
        in_body = [stack.tokens_inside(index) for index in stack.indices]
        token_nll.append(np.stack(nll)[np.stack(in_body)])
        report.progress(done, len(held_out), "volume")
    return fit_calibration(voxel_nll, token_nll)


def _summary(
    normals: list[_Normal], training_indices: list[int], held_out_indices: list[int]
) -> NormalsSummary:
    pixels = [mm for normal in normals for mm in normal.pixel_mm]
    extents = [mm for normal in normals for mm in normal.extent_mm]
    distances = [normal.slice_mm for normal in normals]
    return NormalsSummary(
        training_sha256=tuple(normals[index].sha256 for index in training_indices),
        held_out_sha256=tuple(normals[index].sha256 for index in held_out_indices),
        pixel_spacing_mm=(min(pixels), max(pixels)),
        slice_spacing_mm=(min(distances), max(distances)),
        extent_mm=(min(extents), max(extents)),
    )


def as_result(card: ModelCard) -> dict[str, object]:
    """What the `result` event of a training says."""
    return {
        "model": card.name,
        "best_epoch": card.best_epoch,
        "held_out_nll": card.curve[card.best_epoch - 1].held_out_nll,
        "training_volumes": len(card.normals.training_sha256),
        "held_out_volumes": len(card.normals.held_out_sha256),
        "fov_mm": card.slices.fov_mm,
        "curve": [dataclasses.asdict(figures) for figures in card.curve],
    }
