"""The BMAD comparison: from the folder of a data set to a table of methods."""

import dataclasses
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from Benchmark.bmad.choices import SEEDED, Peer
from Benchmark.bmad.images import PAPER_PX, label_on_grid, load_batch, upsample_scores
from Benchmark.bmad.layout import (
    Dataset,
    DatasetName,
    ImageFile,
    Protocol,
    count_unnamed,
    find_dataset,
    group_by_patient,
)
from Benchmark.bmad.methods import Fitted, Normals, NotRun, fit_autoregressive, fit_peer
from Benchmark.bmad.pixel_counts import PixelCounts
from Benchmark.bmad.table import (
    METRICS,
    MethodRow,
    ResultTable,
    write_csv,
    write_json,
    write_png,
)
from Benchmark.bmad.tokens import (
    IMAGES_PER_BATCH,
    Bundle,
    embed_bundles,
    hash_image,
    joint_sha256,
    make_bundles,
    token_settings,
)
from jaxtyping import Float, Float16
from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.device import (
    Device,
    resolve_device,
)
from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
from SpatialARAnomalyLib.engine.errors import (
    InputError,
    OutputError,
    SpecError,
)
from SpatialARAnomalyLib.engine.files import (
    replacing,
    unwritable,
)
from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    Preset,
    TrainingSpec,
)
from SpatialARAnomalyLib.service.encoders.loading import load_encoder
from SpatialARAnomalyLib.service.outputs import (
    check_names,
    make_folder,
    write_atomically,
)
from torch import Tensor

WORK_FOLDER = "bmad_work"
"""Folder below the results for tokens, checkpoints and finished runs, used to resume."""

LOCK_FILE = "lock"

TIMED_IMAGES = 32
"""Maximum number of images timed one by one."""
TIMED_S = 20.0
"""Seconds after which no further image is timed."""


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """The methods, the images and the settings of a comparison."""

    root: Path
    which: DatasetName
    protocol: Protocol
    encoder: str
    out: Path
    methods: tuple[Preset | Peer, ...]
    seeds: tuple[int, ...]
    training: TrainingSpec
    """Training settings; `seeds` replaces their seed in each run."""
    size_px: int = 448
    """Side of the encoder's image in pixels; 448 in the paper."""
    device: Device = Device.AUTO
    allow_download: bool = False
    overwrite: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files to write."""
        return tuple(f"bmad_{self.which}_{self.protocol}.{kind}" for kind in ("csv", "json", "png"))


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What all runs of a comparison share."""

    request: ComparisonRequest
    encoder: Encoder
    device: torch.device
    store: FeatureStore
    work: Path
    test: Sequence[Bundle]
    normals: Normals
    test_sha256: str
    """Hash of the test images and their labels."""
    encode_ms: float


def compare(request: ComparisonRequest, report: Reporter) -> tuple[ResultTable, list[Path]]:
    """Embed the images, fit and score all methods, and write the table.

    Tokens, checkpoints and finished runs stay in `out`/bmad_work, so that a repeated
    command resumes, and a comparison with another protocol or more methods reuses them.

    Returns:
        The table and its files.

    Raises:
        SpatialARError: For unusable input; no table is written then.
        Cancelled: Through `report`.
    """
    check_names(request.out, request.names, request.overwrite)
    report.stage("read", 1, _stages(request))
    data = find_dataset(request.root, request.which)
    device = resolve_device(request.device)
    encoder = load_encoder(
        request.encoder, device=device, allow_download=request.allow_download, report=report
    )
    _check_size(request.size_px, encoder.card.patch_px)
    if len(group_by_patient(data.training)) < 2:
        raise InputError(
            "too-few-normals",
            "The normal training images must be of at least 2 patients (one to learn from, one "
            "held out); they are of 1. Name the whole data set.",
        )
    work = request.out / WORK_FOLDER
    make_folder(work)
    try:
        with _locked(work):
            prepared = _prepare(request, data, encoder, device, work, report)
            rows = tuple(
                _row(prepared, method, index, report)
                for index, method in enumerate(request.methods, start=3)
            )
            table = ResultTable(rows=rows, about=_about(prepared, data))
            with write_atomically(
                request.out, request.names, overwrite=request.overwrite
            ) as folder:
                for name, write in zip(
                    request.names, (write_csv, write_json, write_png), strict=True
                ):
                    write(folder / name, table)
            return table, [request.out / name for name in request.names]
    except OSError as error:
        raise unwritable("The comparison cannot go on", error) from None


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Lock the folder; the system releases the lock however the process ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(work / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            "bmad-running",
            f"Another comparison is running in {work.parent.name!r}. Wait for it, or choose "
            "another folder with --out.",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _stages(request: ComparisonRequest) -> int:
    return 2 + len(request.methods)


def _check_size(size_px: int, patch_px: int) -> None:
    if size_px < patch_px or size_px % patch_px:
        raise SpecError(
            "size-not-patches",
            f"The image size must be a multiple of the encoder's patch ({patch_px} px); "
            f"found {size_px} px. Use {max(1, round(size_px / patch_px)) * patch_px} px.",
        )


def _prepare(
    request: ComparisonRequest,
    data: Dataset,
    encoder: Encoder,
    device: torch.device,
    work: Path,
    report: Reporter,
) -> _Prepared:
    """Hash the images and embed those that are not embedded yet."""
    unnamed = count_unnamed([*data.training, *data.test])
    if unnamed:
        report.notice(
            "bmad-names",
            f"{unnamed} file names are not <patient>_<slice>.png. Each of these images is treated "
            "as a separate patient, so that slices of one patient may be both trained on and held "
            "out.",
        )
    settings = token_settings(encoder, request.size_px)
    total = len(data.training) + len(data.test)
    training = make_bundles(data.training, settings, report, done=0, total=total)
    test = make_bundles(data.test, settings, report, done=len(data.training), total=total)
    test_hashes = [bundle.key for bundle in test]
    test_hashes += [hash_image(image.label) for image in data.test if image.label is not None]
    report.stage("embed", 2, _stages(request))
    store = FeatureStore(work / "tokens")
    embed_bundles([*training, *test], store, encoder, request.size_px, report)
    images, _ = load_batch(data.test[:TIMED_IMAGES], request.size_px)
    return _Prepared(
        request=request,
        encoder=encoder,
        device=device,
        store=store,
        work=work,
        test=test,
        normals=_open_normals(training, store),
        test_sha256=joint_sha256(test_hashes),
        encode_ms=_median_ms(encoder.embed, images, device),
    )


def _open_normals(training: Sequence[Bundle], store: FeatureStore) -> Normals:
    tokens, sha256 = [], []
    for bundle in training:
        together, start = store.open(bundle.key), 0
        for patient in bundle.patients:
            stop = start + len(patient.images)
            tokens.append(together[start:stop])
            sha256.append(patient.sha256)
            start = stop
    return Normals(tokens=tokens, sha256=sha256)


def _row(prepared: _Prepared, method: Preset | Peer, index: int, report: Reporter) -> MethodRow:
    """Run a method once, or once per seed if it draws random numbers."""
    request = prepared.request
    seeded = isinstance(method, Preset) or method in SEEDED
    seeds = request.seeds if seeded else (0,)
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        report.check_cancelled()
        name = f"{method}, seed {seed}" if seeded else method.value
        report.stage(name, index, _stages(request))
        try:
            runs.append(_run(prepared, method, seed, report))
        except NotRun as reason:
            return MethodRow(method=method.value, values={}, not_run=f"not run: {reason}")
    on_images = method in (Peer.BRIGHT, Peer.DARK)
    return MethodRow(
        method=method.value,
        seeds=seeds if seeded else (),
        values={metric: tuple(run[metric] for run in runs) for metric in METRICS},
        encode_ms=0.0 if on_images else round(prepared.encode_ms, 2),
        score_ms=round(float(np.mean([run["score_ms"] for run in runs])), 2),
        size_bytes=runs[0]["size_bytes"],
    )


def _run(prepared: _Prepared, method: Preset | Peer, seed: int, report: Reporter) -> dict[str, Any]:
    """Run one method with one seed, or read the stored result of an identical run."""
    request = prepared.request
    training = dataclasses.replace(request.training, seed=seed)
    decisive: dict[str, Any] = {
        "engine": __version__,
        "normals": sorted(prepared.normals.sha256),
        "test": prepared.test_sha256,
        **token_settings(prepared.encoder, request.size_px),
        "protocol": request.protocol,
        "method": method,
        "seed": seed,
        "device": _hardware(prepared.device),
    }
    if isinstance(method, Preset):
        decisive["autoregressive"] = AutoregressiveSpec.from_preset(method).to_dict()
        decisive["training"] = training.to_dict()
    name = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    stored = prepared.work / f"{name}.run.json"
    try:
        found: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        pass
    if isinstance(method, Preset):
        fitted = fit_autoregressive(
            method,
            training,
            prepared.normals,
            prepared.encoder.card.weights_sha256,
            prepared.work,
            prepared.device,
            report,
        )
    else:
        fitted = fit_peer(method, seed, prepared.normals, prepared.device, report)
    result = _measure(prepared, fitted, report)
    with replacing(stored) as partial:
        partial.write_text(json.dumps(result), encoding="utf-8")
    return result


def _measure(prepared: _Prepared, fitted: Fitted, report: Reporter) -> dict[str, Any]:
    """Score the test images and compare the scores with their labels."""
    from sklearn.metrics import roc_auc_score

    request = prepared.request
    pixels = PixelCounts()
    highest: list[float] = []
    anomalous: list[bool] = []
    total = sum(len(bundle.images) for bundle in prepared.test)
    for chosen, batch in _test_batches(prepared, fitted.on_images):
        report.check_cancelled()
        scores = fitted.score(batch)
        for image, score in zip(chosen, scores, strict=True):
            label = label_on_grid(image, request.protocol, request.size_px)
            on_pixels = upsample_scores(score, label.shape)
            pixels.add(on_pixels, label)
            # As in BMAD, the highest pixel is the score of the image.
            highest.append(float(on_pixels.max()))
            anomalous.append(image.label is not None)
        report.progress(len(highest), total, "image")
    _, timed = next(_test_batches(prepared, fitted.on_images))
    return {
        **pixels.metrics(),
        "image_auroc": float(roc_auc_score(anomalous, highest)),
        "score_ms": _median_ms(fitted.score, timed, prepared.device),
        "size_bytes": fitted.size_bytes,
    }


def _test_batches(
    prepared: _Prepared, on_images: bool
) -> Iterator[tuple[Sequence[ImageFile], Float[Tensor, "b c h w"]]]:
    """Yield some test images at a time with their tokens, or as images for the encoder."""
    for bundle in prepared.test:
        images: list[ImageFile] = bundle.images
        tokens: Float16[np.ndarray, "n c h w"] = prepared.store.open(bundle.key)
        for start in range(0, len(images), IMAGES_PER_BATCH):
            chosen = images[start : start + IMAGES_PER_BATCH]
            if on_images:
                yield chosen, load_batch(chosen, prepared.request.size_px)[0]
            else:
                part = tokens[start : start + IMAGES_PER_BATCH].astype(np.float32)
                yield chosen, torch.from_numpy(part).to(prepared.device)


def _median_ms(
    function: Callable[[Float[Tensor, "b c h w"]], Tensor],
    batch: Float[Tensor, "b c h w"],
    device: torch.device,
) -> float:
    """Measure the median time for one image in ms, after an untimed call.

    Synchronizes the device before and after each call. The paper's released code does not,
    and on a GPU therefore times the launch instead of the computation.
    """
    times: list[float] = []
    begin = time.perf_counter()
    for index in range(min(len(batch), TIMED_IMAGES) + 1):
        one = batch[max(index - 1, 0)][None]
        _synchronize(device)
        since = time.perf_counter()
        function(one)
        _synchronize(device)
        times.append(1e3 * (time.perf_counter() - since))
        if index and time.perf_counter() - begin > TIMED_S:
            break
    return float(np.median(times[1:]))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type} ({platform.machine()}, {threads} thread{'s' * (threads > 1)})"


def _about(prepared: _Prepared, data: Dataset) -> Mapping[str, Any]:
    request = prepared.request
    paper = request.protocol is Protocol.PAPER
    return {
        "set": request.which.value,
        "protocol": request.protocol.value,
        "compared_px": f"{PAPER_PX} × {PAPER_PX}" if paper else "the image's own",
        "size_px": request.size_px,
        "training_images": len(data.training),
        "training_patients": len(prepared.normals.tokens),
        "test_images": len(data.test),
        "test_anomalous_images": sum(image.label is not None for image in data.test),
        "test_patients": sum(len(bundle.patients) for bundle in prepared.test),
        "tokens_an_image": (request.size_px // prepared.encoder.card.patch_px) ** 2,
        "encoder": prepared.encoder.card.to_dict(),
        "training": request.training.to_dict(),
        "seeds": list(request.seeds),
        "image_score": "the highest pixel",
        "engine": __version__,
        "torch": torch.__version__,
        "hardware": _hardware(prepared.device),
        "cores": os.cpu_count(),
        "date": date.today().isoformat(),
    }
