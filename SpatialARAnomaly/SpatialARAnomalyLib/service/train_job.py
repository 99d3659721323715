"""The training job: normal scans in, a model folder out."""

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from .. import __version__
from ..engine.calibration import Calibration
from ..engine.device import Device, resolve_device
from ..engine.errors import InputError, SpatialARError, SpecError
from ..engine.feature_store import FeatureStore, feature_key
from ..engine.model_store import SCHEMA, ModelCard, NormalsSummary, check_free, save_model
from ..engine.plane_volume import PlaneVolume
from ..engine.progress import Reporter
from ..engine.slicing import SliceStack
from ..engine.specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    Plane,
    SliceSpec,
    TrainingSpec,
)
from ..engine.volume import infer_modality
from . import encoder_registry
from .inputs import Input, find_inputs
from .outputs import make_folder

if TYPE_CHECKING:
    from ..engine.autoregressive import AutoregressiveModel
    from ..engine.encoder import Encoder

FOV_MARGIN = 1.1
"""The field of view is by default this many times the largest body of the normals."""

FOV_STEP_MM = 10.0
"""… rounded up to a multiple of this."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What the user asks a training to do."""

    normals: tuple[Path, ...]
    out: Path
    name: str | None = None
    """Of the model; by default the name of its folder."""
    modality: Modality | None = None
    """By default what the scans are."""
    plane: Plane = Plane.AXIAL
    fov_mm: float | None = None
    """By default 1.1 × the largest body in the plane."""
    size_px: int = 448
    window_hu: tuple[float, float] | None = None
    encoder: str = "demonstration"
    autoregressive: AutoregressiveSpec = field(default_factory=AutoregressiveSpec)
    training: TrainingSpec = field(default_factory=TrainingSpec)
    device: Device = Device.AUTO
    allow_download: bool = False
    overwrite: bool = False
    restart: bool = False
    """Discard an unfinished training of this name instead of resuming it."""


@dataclass(frozen=True, kw_only=True)
class _Normal:
    """One normal scan, seen once; read again when needed, so that memory stays constant."""

    source: Input
    sha256: str
    slice_mm: float
    pixel_mm: tuple[float, float]
    extent_mm: tuple[float, float]
    body_slices: int


def train(request: TrainRequest, report: Reporter) -> ModelCard:
    """Train a model and write its folder; interrupted, the same request resumes.

    Work in progress (tokens, checkpoint) lies in `<out>.training` and is
    removed at the end. Raises `SpatialARError` for unusable input, and
    `Cancelled` through `report`; no model folder appears in either case.
    """
    check_free(request.out, request.overwrite)
    device = resolve_device(request.device)
    from ..engine.autoregressive import AutoregressiveModel  # noqa: F401 - torch from here on
    from ..engine.encoder import load_encoder
    from ..engine.training import check_checkpoint, fit, split_held_out

    encoder = load_encoder(request.encoder, device=device, allow_download=request.allow_download)
    if request.size_px % encoder.card.patch_px:
        raise SpecError(
            "size-not-patches",
            f"The slice size must be a multiple of the encoder's patch "
            f"({encoder.card.patch_px} px); found {request.size_px} px.",
            f"Use {round(request.size_px / encoder.card.patch_px) * encoder.card.patch_px} px.",
        )
    if request.window_hu is not None:  # checked before the long way to its use
        IntensitySpec.for_modality(Modality.CT, request.window_hu)

    report.stage("read", 1, 4)
    normals, modality = _survey(request, report)
    if request.window_hu is not None and modality is not Modality.CT:
        raise SpecError(
            "window-not-ct",
            f"A window in Hounsfield units is for CT; the normal scans are {modality}.",
            "Leave out --window-hu.",
        )
    slices = SliceSpec(
        plane=request.plane,
        fov_mm=request.fov_mm or _default_fov_mm(normals),
        size_px=request.size_px,
    )
    intensity = IntensitySpec.for_modality(modality, request.window_hu)
    training_indices, held_out_indices = split_held_out(
        [normal.sha256 for normal in normals], request.training
    )

    work = request.out.with_name(f"{request.out.name}.training")
    if request.restart and work.exists():
        shutil.rmtree(work)
    fingerprint = _fingerprint(request, normals, slices, intensity, encoder)
    checkpoint = work / "checkpoint.safetensors"
    check_checkpoint(checkpoint, fingerprint)
    make_folder(work)

    preparation = _Preparation(
        slices, intensity, modality, encoder, FeatureStore(work / "features")
    )
    report.stage("embed", 2, 4)
    keys = _embed(normals, preparation, report)

    report.stage("fit", 3, 4)
    run = fit(
        [preparation.store.open(keys[index]) for index in training_indices],
        [preparation.store.open(keys[index]) for index in held_out_indices],
        request.autoregressive,
        request.training,
        report=report,
        device=device,
        checkpoint=checkpoint,
        fingerprint=fingerprint,
    )

    report.stage("calibrate", 4, 4)
    held_out = [(normals[index], keys[index]) for index in held_out_indices]
    calibration = _calibrate(held_out, preparation, run.model.eval(), report)
    card = ModelCard(
        schema=SCHEMA,
        name=request.name or request.out.name,
        created=date.today().isoformat(),
        engine_version=__version__,
        modality=modality,
        slices=slices,
        intensity=intensity,
        encoder=encoder.card,
        autoregressive=request.autoregressive,
        training=request.training,
        normals=_summary(normals, training_indices, held_out_indices),
        curve=tuple(run.curve),
        best_epoch=run.best_epoch,
        calibration=calibration,
        weights_sha256="",
        notice=encoder.card.notice,
    )
    card = save_model(request.out, card, run.model)
    encoder_registry.remember(encoder.card.weights_sha256, request.encoder)
    shutil.rmtree(work)
    return card


def _survey(request: TrainRequest, report: Reporter) -> tuple[list[_Normal], Modality]:
    """Read every normal once: usable, one modality, none twice, at least two."""
    sources = [source for path in request.normals for source in find_inputs(path)]
    normals: list[_Normal] = []
    modality = request.modality
    for done, source in enumerate(sources, start=1):
        report.check_cancelled()
        try:
            _, volume = source.read()
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
            error.message = f"{source.path.name}: {error.message}"
            raise
        sha256 = volume.content_sha256()
        for earlier in normals:
            if earlier.sha256 == sha256:
                raise InputError(
                    "normal-twice",
                    f"Every normal scan must be named once; {source.path.name} has the same "
                    f"content as {earlier.source.path.name}.",
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


def _default_fov_mm(normals: list[_Normal]) -> float:
    largest = max(max(normal.extent_mm) for normal in normals)
    return math.ceil(FOV_MARGIN * largest / FOV_STEP_MM) * FOV_STEP_MM


def _fingerprint(
    request: TrainRequest,
    normals: list[_Normal],
    slices: SliceSpec,
    intensity: IntensitySpec,
    encoder: "Encoder",
) -> str:
    """Hash of all that decides the result, so that only the same training is resumed."""
    decisive = {
        "normals": sorted(normal.sha256 for normal in normals),
        "slices": slices.to_dict(),
        "intensity": intensity.to_dict(),
        "encoder": encoder.card.weights_sha256,
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

    def key(self, normal: _Normal) -> str:
        return feature_key(
            normal.sha256,
            slices=self.slices.to_dict(),
            intensity=self.intensity.to_dict(),
            encoder=self.encoder.card.weights_sha256,
        )

    def stack(self, normal: _Normal) -> SliceStack:
        _, volume = normal.source.read()
        if volume.content_sha256() != normal.sha256:
            raise InputError(
                "normal-changed",
                f"{normal.source.path.name} changed while it was used for training.",
                "Start the training again.",
            )
        turned = PlaneVolume(volume, self.slices.plane, self.modality)
        return SliceStack(turned, self.slices, self.intensity, self.encoder.card.patch_px)


def _embed(normals: list[_Normal], preparation: _Preparation, report: Reporter) -> list[str]:
    """Store the tokens of every volume that is not stored yet; their keys."""
    from ..engine.detection import embed_slices

    total = sum(normal.body_slices for normal in normals)
    done = 0
    keys = []
    for normal in normals:
        key = preparation.key(normal)
        keys.append(key)
        if key in preparation.store:
            done += normal.body_slices
            continue
        stack = preparation.stack(normal)
        before = done

        def batches(stack: SliceStack = stack, before: int = before) -> Iterator[np.ndarray]:
            report.progress(before, total, "slice")
            tokens = embed_slices(stack, preparation.encoder, report)
            for count, one in enumerate(tokens, start=1):
                yield one
                report.progress(before + count, total, "slice")

        tokens_across = preparation.slices.size_px // preparation.encoder.card.patch_px
        images = len(stack.indices) * stack.tiles
        shape = (images, preparation.encoder.card.channels, tokens_across, tokens_across)
        preparation.store.write(key, shape, batches())
        done += normal.body_slices
    return keys


def _calibrate(
    held_out: list[tuple[_Normal, str]],
    preparation: _Preparation,
    model: "AutoregressiveModel",
    report: Reporter,
) -> Calibration:
    """The NLL of the held-out normals' body voxels, mapped back as detection maps it."""
    from ..engine.detection import slice_nll

    samples: list[Float[np.ndarray, " _"]] = []
    tokens_in_body = 0
    for done, (normal, key) in enumerate(held_out, start=1):
        report.check_cancelled()
        stack = preparation.stack(normal)
        tokens = preparation.store.open(key)
        tokens = tokens.reshape(len(stack.indices), stack.tiles, *tokens.shape[1:])
        nll = stack.put_back([slice_nll(one, model) for one in tokens], model.lowest_nll)
        inside = nll[stack.inside_volume()]
        samples.append(inside)
        tokens_in_body += sum(int(stack.tokens_inside(index).sum()) for index in stack.indices)
        report.progress(done, len(held_out), "volume")
    return Calibration.of(samples, max(1, tokens_in_body))


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
