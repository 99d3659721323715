"""Training: normal scans in, a model file out."""

import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.cards.finding_counts import FindingCounts
from SpatialARAnomalyLib.engine.cards.rim import RimCorrection
from SpatialARAnomalyLib.engine.cards.suitability import MEASURES, Suitability, verdicts
from SpatialARAnomalyLib.engine.errors import InputError, SpatialARError, SpecError
from SpatialARAnomalyLib.engine.model.feature_store import (
    PREPARATION_VERSION,
    FeatureStore,
    feature_key,
    release_pages,
)
from SpatialARAnomalyLib.engine.model.model_file import (
    SCHEMA,
    ModelCard,
    NormalsSummary,
    check_free,
    model_path,
    save_model,
)
from SpatialARAnomalyLib.engine.progress import Reporter, SilentReporter
from SpatialARAnomalyLib.engine.scoring.calibration_fit import (
    fit_calibration,
    fit_rim,
    thin_sample,
)
from SpatialARAnomalyLib.engine.scoring.findings import find_strengths
from SpatialARAnomalyLib.engine.scoring.suitability_fit import fit_suitability
from SpatialARAnomalyLib.engine.slices.slice_stack import SliceStack
from SpatialARAnomalyLib.engine.specs import Modality
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.array_files import affine_rows
from SpatialARAnomalyLib.service.batch.batch import stops_all
from SpatialARAnomalyLib.service.batch.places import HERE, Place, ScanRequest, Work
from SpatialARAnomalyLib.service.encoders import registry
from SpatialARAnomalyLib.service.scans import ScanSource, find_one_scan
from SpatialARAnomalyLib.service.text import unlike_text
from SpatialARAnomalyLib.service.training.candidates import (
    KEPT_BYTES,
    Candidate,
    NormalScan,
    ScanContent,
    ScanReader,
    check_oriented,
    find_candidates,
)
from SpatialARAnomalyLib.service.training.folder import (
    MEANS_ENDING,
    TrainingFolder,
    TrainingRecord,
)
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.service.training.survey import (
    check_count,
    default_fov_mm,
    load_training_encoder,
    read_candidates,
    select_usable,
)

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
    from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel


Normal = Path | ScanSource | Volume
"""A normal scan; a path may also be a folder of scans, or a table (CSV) of scans and patients."""


def train(
    normals: Path | str | Sequence[Normal | str],
    out: Path | str,
    spec: TrainSpec = TrainSpec(),
    report: Reporter = SilentReporter(),
    place: Place = HERE,
) -> ModelCard:
    """Train a model and write its file; the same request resumes an interrupted training.

    Work in progress (tokens, checkpoint, request and arrays of the scene) lies in
    `<out>.training` and is removed at the end.

    Args:
        normals: Paths of scans, of folders of scans or of tables (CSV) with the columns `scan`
            and `patient`; volumes, or scans of the panel.
        out: The model file to write; `.safetensors` is added where it is lacking.
        spec: The settings.
        report: Receives stages, progress, notices and epochs, and may cancel.
        place: Where scans are embedded.

    Raises:
        SpatialARError: The input cannot be used; no model appears.
        Cancelled: Through `report`; no model appears.
    """
    paths = [normals] if isinstance(normals, Path | str) else normals
    given = [Path(one) if isinstance(one, str) else one for one in paths]
    places = [one for one in given if isinstance(one, Path)]
    out = Path(os.path.realpath(model_path(Path(out))))
    folder = TrainingFolder(out)
    folder.remove_finished()
    check_free(out, spec.overwrite)
    folder.check()
    _check_outside(places, folder)

    encoder = load_training_encoder(spec, report, allow_download=spec.allow_download)
    # Recorded, so that a training resumed on another device has the same precision.
    spec = dataclasses.replace(spec, precision=encoder.card.precision)

    with folder.hold():
        if spec.restart:
            folder.discard_checkpoint()
        report.stage("read", 1, 4)
        others = [one for one in given if not isinstance(one, Path)]
        if not spec.allow_unstated_orientation:
            check_oriented([one for one in others if isinstance(one, Volume)])
        single = _keep(others, folder, report)
        candidates = find_candidates(places, single, report)
        sources = [candidate.source for candidate in candidates]
        _check_outside([source.path for source in sources if source.path is not None], folder)
        if not spec.skip_unusable:
            searched = {candidate.folders[0] for candidate in candidates if candidate.folders}
            for path in places:
                if path.is_dir() and str(path) not in searched:
                    find_one_scan(path).read(report.check_cancelled)  # raises what it lacks
            if sources and not folder.checkpoint.exists():
                _record(spec, sources, folder)
        reader = ScanReader.of(spec, KEPT_BYTES)
        scans = _select(candidates, spec, encoder, reader, report)
        store = FeatureStore(folder.features)
        preparation = _Preparation(spec, scans, encoder, reader, store)
        card, model = _fit_model(preparation, scans, folder, place, report)
        card = save_model(out, card, model, overwrite=spec.overwrite)
        registry.remember(encoder.card.weights_sha256, spec.encoder)
        try:
            folder.clear()
        except OSError as error:
            report.notice(
                "training-left",
                f"The model is saved; {folder.path.name!r} cannot be removed "
                f"({error.strerror or error}).",
            )
    return card


def _check_outside(paths: Sequence[Path], training: TrainingFolder) -> None:
    """Raise `InputError` where a scan lies in the folder that training writes."""
    for path in paths:
        if Path(os.path.realpath(path)).is_relative_to(training.path):
            raise InputError(
                "input-in-output",
                f"The normal scans must lie outside the folder {training.path.name!r}, which the "
                f"training writes; {path.name!r} does not.",
            )


def _keep(
    scans: Sequence[ScanSource | Volume], folder: TrainingFolder, report: Reporter
) -> list[ScanSource]:
    """Return the scans with all arrays in the training's folder."""
    kept = []
    for number, scan in enumerate(scans, start=1):
        if isinstance(scan, Volume):
            array = scan.voxels
            if scan.outside is not None:  # an array says by NaN which voxels do not count
                array = np.where(scan.outside, np.float32(np.nan), array.astype(np.float32))
            scan = ScanSource(
                voxels=_keep_array(array, folder, report),
                affine=affine_rows(scan.ras_from_voxel),
                name=f"volume {number}",
                modality=scan.modality,
                mask=None if scan.mask is None else _keep_array(scan.mask, folder, report),
            )
        elif scan.voxels is not None:
            voxels = folder.keep_array(scan.voxels, report.check_cancelled)
            mask = scan.mask and folder.keep_array(scan.mask, report.check_cancelled)
            scan = dataclasses.replace(scan, voxels=voxels, mask=mask)
        kept.append(scan)
    return kept


def _keep_array(array: np.ndarray, folder: TrainingFolder, report: Reporter) -> Path:
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "array.npy"
        np.save(file, array, allow_pickle=False)
        return folder.keep_array(file, report.check_cancelled)


def _record(spec: TrainSpec, sources: Sequence[ScanSource], folder: TrainingFolder) -> None:
    """Write the request into the folder, so that the panel can list and resume the training."""
    spec = dataclasses.replace(
        spec,
        encoder=_absolute(spec.encoder),
        restart=False,
        allow_download=False,
        skip_unusable=False,
    )
    folder.write_record(TrainingRecord(spec, tuple(source.to_dict() for source in sources)))


def _absolute(encoder: str) -> str:
    """Return a path of an encoder without the working folder, and other names as they are."""
    is_path = encoder != DEMONSTRATION and os.path.exists(encoder)
    return os.path.abspath(encoder) if is_path else encoder


def _select(
    candidates: Sequence[Candidate],
    spec: TrainSpec,
    encoder: "Encoder",
    reader: ScanReader,
    report: Reporter,
) -> Sequence[NormalScan]:
    """Read all scans and return the usable ones, of at least two patients.

    The first of the others raises its reason; with `skip_unusable`, a notice names each.
    """
    read_candidates(candidates, reader, report, strict=not spec.skip_unusable)
    found = select_usable(candidates, spec, encoder.card.patch_px)
    for candidate in candidates:
        if not spec.skip_unusable:
            candidate.refuse()
        elif candidate.code is not None:
            report.notice("normal-left-out", f"{candidate.name} is excluded: {candidate.reason}")
            if candidate.scan is not None and candidate.code != "duplicate":
                reader.drop(candidate.scan)
    check_count(found.used)
    _report_regions(candidates, report)
    return found.used


def _report_regions(candidates: Sequence[Candidate], report: Reporter) -> None:
    """Report what a user should know about the regions of the scans used, each thing once."""
    names: dict[tuple[str, str], list[str]] = {}
    for candidate in candidates:
        if candidate.code is None and candidate.scan is not None:
            for notice in candidate.scan.notices:
                names.setdefault(notice, []).append(candidate.name)
    for (code, text), (first, *others) in names.items():
        more = f" and {len(others)} more" if others else ""
        report.notice(code, f"{first}{more}: {text}")


class _Preparation:
    """The settings and tools that turn scans into tokens in this training."""

    def __init__(
        self,
        spec: TrainSpec,
        scans: Sequence[NormalScan],
        encoder: "Encoder",
        reader: ScanReader,
        store: FeatureStore,
    ) -> None:
        modality = spec.modality or scans[0].stated or scans[0].inferred  # all have the same
        if spec.window_hu is not None and modality is not Modality.CT:
            raise SpecError(
                "window-not-ct",
                f"A window in Hounsfield units is for CT; the normal scans are {modality}.",
            )
        fov_mm = spec.fov_mm or default_fov_mm(scan.extent_mm for scan in scans)
        self.spec = spec.resolve(modality, fov_mm)
        self.modality, self.slices = modality, spec.slices(fov_mm)
        self.intensity = spec.intensity(modality)
        self.encoder, self.reader, self.store = encoder, reader, store

    def key(self, scan: NormalScan | ScanContent) -> str:
        """Return the name of the scan's tokens in the store."""
        return feature_key(
            scan.sha256,
            region=self.spec.region.value,
            mask=scan.mask_sha256,
            slices=self.slices.to_dict(),
            intensity=self.intensity.to_dict(),
            encoder=self.encoder.card.weights_sha256,
            precision=self.encoder.card.precision.value,
        )

    def stack(self, scan: NormalScan | ScanContent, report: Reporter) -> SliceStack:
        """Return the scan's slices; raises `InputError` if it changed or has no body token."""
        plane_volume = self.reader.voxels(scan, self.modality, report.check_cancelled)
        stack = SliceStack(plane_volume, self.slices, self.intensity, self.encoder.card.patch_px)
        if not any(stack.tokens_inside(index).any() for index in stack.indices):
            token_mm = self.slices.pixel_mm * self.encoder.card.patch_px
            raise InputError(
                "body-without-tokens",
                f"{scan.source.label}: the body must be larger than a token; no token of "
                f"{token_mm:.0f} mm has its center in it.",
            )
        return stack

    def is_stored(self, key: str) -> bool:
        """Return whether the store has the tokens and their means."""
        return key in self.store and key + MEANS_ENDING in self.store

    def embed(
        self,
        stack: SliceStack,
        key: str,
        report: Reporter,
        progress: Callable[[int], None] = lambda slices: None,
    ) -> None:
        """Store the tokens of a scan and their means by slice, as far as they are lacking."""
        from SpatialARAnomalyLib.engine.scoring.scoring import embed_slices, mean_token

        def batches() -> Iterator[np.ndarray]:
            progress(0)
            tokens = embed_slices(stack, self.encoder, report)
            for count, one in enumerate(tokens, start=1):
                yield one.cpu().numpy()
                progress(count)

        if key not in self.store:
            across = self.slices.size_px // self.encoder.card.patch_px
            images = len(stack.indices) * stack.tiles
            self.store.write(key, (images, self.encoder.card.channels, across, across), batches())
        if key + MEANS_ENDING not in self.store:
            tokens = self.store.open(key)
            slices = np.split(tokens, len(stack.indices))
            means = np.concatenate(
                [mean_token(stack, *one) for one in zip(stack.indices, slices, strict=True)]
            )[:, :, None, None]
            self.store.write(key + MEANS_ENDING, means.shape, [means])
            release_pages(tokens)


def _fit_model(
    preparation: _Preparation,
    scans: Sequence[NormalScan],
    folder: TrainingFolder,
    place: Place,
    report: Reporter,
) -> "tuple[ModelCard, AutoregressiveModel]":
    """Return the trained network and its card, which lacks only the hash of the weights."""
    from SpatialARAnomalyLib.engine.model.checkpoint import check_checkpoint
    from SpatialARAnomalyLib.engine.model.health import find_problems
    from SpatialARAnomalyLib.engine.model.training import fit, split_held_out

    spec = preparation.spec
    network, training = spec.autoregressive, spec.training
    hashes = [scan.sha256 for scan in scans]
    patients = [scan.patient for scan in scans]
    training_indices, held_out_indices = split_held_out(hashes, training, patients)
    fingerprint = spec.fingerprint(
        hashes,
        held_out=sorted(hashes[index] for index in held_out_indices),
        masks=sorted(scan.mask_sha256 for scan in scans),
        preparation=PREPARATION_VERSION,
        intensity=preparation.intensity.to_dict(),
        encoder=preparation.encoder.card.weights_sha256,
    )
    check_checkpoint(folder.checkpoint, fingerprint)
    # From here on the folder is known to hold this very training.
    _record(spec, [scan.source for scan in scans], folder)

    report.stage("embed", 2, 4)
    keys = _embed(scans, set(held_out_indices), preparation, place, report)
    suitability = _suitability(scans, keys, preparation.store, report)

    report.stage("fit", 3, 4)
    training_tokens, held_out_tokens = (
        [preparation.store.open(keys[index]) for index in indices]
        for indices in (training_indices, held_out_indices)
    )
    run = fit(
        training_tokens,
        held_out_tokens,
        network,
        training,
        report=report,
        device=preparation.encoder.device,
        checkpoint=folder.checkpoint,
        fingerprint=fingerprint,
    )

    for problem in find_problems(run.model, run.best_nll, training_tokens, held_out_tokens):
        report.notice(*problem)

    report.stage("calibrate", 4, 4)
    held_out = [(scans[index], keys[index]) for index in held_out_indices]
    scored, rim = _score_held_out(held_out, preparation, run.model.eval(), report)
    calibration = _calibrate(held_out, scored, preparation, run.model, report)
    encoder_card = preparation.encoder.card
    card = ModelCard(
        schema=SCHEMA,
        name=spec.name or folder.model.stem,
        created=date.today().isoformat(),
        engine_version=__version__,
        modality=preparation.modality,
        slices=preparation.slices,
        intensity=preparation.intensity,
        region=spec.region,
        rim=rim,
        encoder=encoder_card,
        autoregressive=network,
        training=training,
        normals=_summary(scans, training_indices, held_out_indices),
        curve=tuple(run.curve),
        best_epoch=run.best_epoch,
        calibration=calibration,
        suitability=suitability,
        weights_sha256="",
        notice=encoder_card.notice,
    )
    return card, run.model


def _embed(
    scans: Sequence[NormalScan],
    held_out: set[int],
    preparation: _Preparation,
    place: Place,
    report: Reporter,
) -> list[str]:
    """Store the tokens, and their means by slice, of every scan that lacks them; return the keys.

    Frees the voxels of the training scans, which are not needed again.
    """
    keys = [preparation.key(scan) for scan in scans]
    total = sum(scan.body_slices for scan in scans)
    if place is not HERE:
        _embed_elsewhere(scans, keys, preparation, place, report)
    done = 0
    for index, (scan, key) in enumerate(zip(scans, keys, strict=True)):
        is_stored = preparation.is_stored(key)
        stack = None if is_stored else preparation.stack(scan, report)
        if index not in held_out:
            preparation.reader.drop(scan)
        if stack is not None:
            before = done

            def progress(slices: int, before: int = before) -> None:
                report.progress(before + slices, total, "slice")

            preparation.embed(stack, key, report, progress)
        done += scan.body_slices
    return keys


def _embed_elsewhere(
    scans: Sequence[NormalScan],
    keys: Sequence[str],
    preparation: _Preparation,
    place: Place,
    report: Reporter,
) -> None:
    """Embed scans in other processes, each into its own files of the store.

    Raises the first error of a scan when the others are stored.
    """
    lacking = [
        scan for scan, key in zip(scans, keys, strict=True) if not preparation.is_stored(key)
    ]
    spec = dataclasses.replace(preparation.spec, encoder=_absolute(preparation.spec.encoder))
    requests = (
        ScanRequest(
            name=scan.sha256,
            inputs=ScanContent(
                source=scan.source, sha256=scan.sha256, mask_sha256=scan.mask_sha256
            ).to_dict(),
            output=preparation.store.folder,
        )
        for scan in lacking
    )
    error: SpatialARError | None = None
    work = Work(job="embed_scan", spec=spec.to_dict())
    with closing(place.run(work, requests, report)) as outcomes:
        for done, (_, outcome) in enumerate(outcomes, start=1):
            error = error or outcome.error
            if outcome.error is not None and stops_all(outcome.error.code):
                raise outcome.error
            report.progress(done, len(lacking), "scan")
    if error is not None:
        raise error


def embed_scan(
    inputs: ScanContent, spec: TrainSpec, output: Path, report: Reporter
) -> dict[str, Any]:
    """Do the worker's job `embed_scan`: store the tokens of a scan in the folder `output`.

    `spec` is resolved. The encoder is kept in memory for the next scan. Raises as `train` does.
    """
    preparation = _prepare_embedding(spec, output)
    key = preparation.key(inputs)
    if not preparation.is_stored(key):
        preparation.embed(preparation.stack(inputs, report), key, report)
    return {"key": key}


@functools.lru_cache(maxsize=1)
def _prepare_embedding(spec: TrainSpec, store: Path) -> _Preparation:
    encoder = load_training_encoder(spec, SilentReporter(), allow_download=spec.allow_download)
    return _Preparation(spec, (), encoder, ScanReader.of(spec), FeatureStore(store))


def _suitability(
    scans: Sequence[NormalScan], keys: list[str], store: FeatureStore, report: Reporter
) -> Suitability:
    """Fit to the looks of all scans; a notice names each that does not look like the others.

    In the order of the scans' contents, so that the order of the scans does not matter.
    """
    number = {scan.sha256: place for place, scan in enumerate(scans, start=1)}
    pairs = sorted(zip(scans, keys, strict=True), key=lambda pair: pair[0].sha256)
    scans, keys = [scan for scan, _ in pairs], [key for _, key in pairs]
    looks = [
        dataclasses.replace(
            scan.look, tokens=store.open(key + MEANS_ENDING)[:, :, 0, 0].astype(np.float32)
        )
        for scan, key in zip(scans, keys, strict=True)
    ]
    suitability = fit_suitability(looks, [scan.patient for scan in scans])
    for scan, verdict in zip(scans, verdicts(suitability.distances, MEASURES), strict=True):
        if verdict is not None and verdict.unlike:
            report.notice(
                "normal-unlike",
                f"Normal scan {number[scan.sha256]} of {len(scans)} does not look like the "
                f"others: {unlike_text(verdict)}. If it is of another sequence, body part, "
                "orientation or preparation, train without it; 1 in 20 good scans is named here, "
                "too.",
            )
    return suitability


def _score_held_out(
    held_out: list[tuple[NormalScan, str]],
    preparation: _Preparation,
    model: "AutoregressiveModel",
    report: Reporter,
) -> tuple[list[list[Float[np.ndarray, "t h w"]]], RimCorrection | None]:
    """Return the NLL of the tokens of every slice, and its correction near the edge."""
    from SpatialARAnomalyLib.engine.scoring.scoring import score_slices

    scored, distances = [], []
    for scan, key in held_out:
        report.check_cancelled()
        stack = preparation.stack(scan, report)
        tokens = preparation.store.open(key)
        tokens = tokens.reshape(len(stack.indices), stack.tiles, *tokens.shape[1:])
        scored.append(list(score_slices(stack, tokens, model)))
        distances.append([stack.edge_distances(index) for index in stack.indices])
        report.progress(len(scored), 3 * len(held_out), "volume")
    rim = fit_rim(
        *(np.concatenate([np.ravel(one) for one in values]) for values in (scored, distances))
    )
    if rim is None:
        return scored, None
    lowered = [
        [rim.lower(one, far, model.lowest_nll) for one, far in zip(nll, away, strict=True)]
        for nll, away in zip(scored, distances, strict=True)
    ]
    return lowered, rim


def _calibrate(
    held_out: list[tuple[NormalScan, str]],
    scored: list[list[Float[np.ndarray, "t h w"]]],
    preparation: _Preparation,
    model: "AutoregressiveModel",
    report: Reporter,
) -> Calibration:
    """Fit the calibration to the NLL of tokens and voxels in the body of the held-out scans."""
    voxel_nll: list[Float[np.ndarray, " _"]] = []
    token_nll: list[Float[np.ndarray, " _"]] = []
    total = 3 * len(held_out)
    for done, ((scan, _), nll) in enumerate(zip(held_out, scored, strict=True), start=1):
        report.check_cancelled()
        stack = preparation.stack(scan, report)
        inside = stack.volume_from_tokens(nll, model.lowest_nll)[stack.inside_volume()]
        voxel_nll.append(thin_sample(inside, len(held_out)))
        in_body = [stack.tokens_inside(index) for index in stack.indices]
        token_nll.append(np.stack(nll)[np.stack(in_body)])
        report.progress(len(held_out) + done, total, "volume")
    calibration = fit_calibration(voxel_nll, token_nll)
    voxel_nll.clear()
    strengths = []
    for (scan, _), nll in zip(held_out, scored, strict=True):
        report.check_cancelled()
        stack = preparation.stack(scan, report)
        volume = stack.volume_from_tokens(nll, model.lowest_nll)
        thresholds = map(calibration.threshold, calibration.rates)
        ml = stack.plane_volume.voxel_ml
        strengths.append([find_strengths(volume, ml, one).tolist() for one in thresholds])
        report.progress(2 * len(held_out) + len(strengths), total, "volume")
    counts = FindingCounts.of(calibration.rates, strengths)
    return dataclasses.replace(calibration, findings=counts)


def _summary(
    scans: Sequence[NormalScan], training_indices: list[int], held_out_indices: list[int]
) -> NormalsSummary:
    pixels = [mm for scan in scans for mm in scan.pixel_mm]
    extents = [mm for scan in scans for mm in scan.extent_mm]
    distances = [scan.slice_mm for scan in scans]
    return NormalsSummary(
        training_sha256=tuple(scans[index].sha256 for index in training_indices),
        held_out_sha256=tuple(scans[index].sha256 for index in held_out_indices),
        pixel_spacing_mm=(min(pixels), max(pixels)),
        slice_spacing_mm=(min(distances), max(distances)),
        extent_mm=(min(extents), max(extents)),
        training_patients=len({scans[index].patient for index in training_indices}),
        held_out_patients=len({scans[index].patient for index in held_out_indices}),
        stated_modality=sum(scan.stated is not None for scan in scans),
    )


def as_result(card: ModelCard) -> dict[str, object]:
    """Return the values of the `result` event of a training."""
    return {
        "model": card.name,
        "best_epoch": card.best_epoch,
        "held_out_nll": card.curve[card.best_epoch - 1].held_out_nll,
        "training_volumes": len(card.normals.training_sha256),
        "held_out_volumes": len(card.normals.held_out_sha256),
        "training_patients": card.normals.training_patients,
        "held_out_patients": card.normals.held_out_patients,
        "fov_mm": card.slices.fov_mm,
        "curve": [dataclasses.asdict(figures) for figures in card.curve],
    }
