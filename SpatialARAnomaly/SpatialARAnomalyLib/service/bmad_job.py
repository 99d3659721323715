"""The BMAD job: a folder of one of its sets in, a table of methods out."""

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
from jaxtyping import Float, Float16
from torch import Tensor

from .. import __version__
from ..engine.atomic_files import replacing, unwritable
from ..engine.batching import embed_batches, images_at_once
from ..engine.device import Device, resolve_device
from ..engine.encoder import Encoder
from ..engine.errors import InputError, OutputError, SpecError
from ..engine.feature_store import FeatureStore, feature_key
from ..engine.file_hash import file_sha256
from ..engine.pixel_counts import PixelCounts
from ..engine.progress import Reporter
from ..engine.specs import AutoregressiveSpec, Preset, SliceSpec, TrainingSpec
from .bmad_images import PAPER_PX, encoder_batch, pixels_of, score_on_pixels
from .bmad_layout import BmadData, BmadImage, BmadProtocol, BmadSet, by_patient, find_bmad, unnamed
from .bmad_methods import Fitted, Normals, NotRun, fit_autoregressive, fit_peer
from .bmad_names import SEEDED, Peer
from .bmad_table import METRICS, BmadRow, BmadTable, write_csv, write_json, write_png
from .encoder_loading import load_encoder
from .outputs import appear_together, check_names, make_folder

WORK_FOLDER = "bmad_work"
"""Below the results: tokens, checkpoints and finished runs, by which a command resumes."""

LOCK_FILE = "lock"

PREPARATION = "bmad 1"
"""Of the way from PNG to tokens; to be changed with it."""

IMAGES_PER_BATCH = 16
BUNDLE_IMAGES = 128
"""Images whose tokens lie in one file, at least."""

TIMED_IMAGES, TIMED_S = 32, 20.0
"""Images whose time is taken one by one, and when enough of them are."""


@dataclass(frozen=True, kw_only=True)
class BmadRequest:
    """What to compare on which images."""

    root: Path
    which: BmadSet
    protocol: BmadProtocol
    encoder: str
    out: Path
    methods: tuple[Preset | Peer, ...]
    seeds: tuple[int, ...]
    training: TrainingSpec
    """But for the seed, which is that of each run in turn."""
    size_px: int = SliceSpec.size_px
    """Side of the encoder's image."""
    device: Device = Device.AUTO
    allow_download: bool = False
    overwrite: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the files to write."""
        return tuple(f"bmad_{self.which}_{self.protocol}.{kind}" for kind in ("csv", "json", "png"))


@dataclass(frozen=True)
class _Patient:
    """One patient's images."""

    images: Sequence[BmadImage]
    sha256: str
    """Of their files."""


@dataclass(frozen=True)
class _Bundle:
    """Some patients whose tokens lie in one file: a file each may be more than can be open."""

    patients: Sequence[_Patient]
    key: str

    @property
    def images(self) -> list[BmadImage]:
        return [image for patient in self.patients for image in patient.images]


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """All that runs share."""

    request: BmadRequest
    encoder: Encoder
    device: torch.device
    store: FeatureStore
    work: Path
    test: Sequence[_Bundle]
    normals: Normals
    truth_sha256: str
    """Of the test set's images and labels."""
    encode_ms: float


def run_bmad(request: BmadRequest, report: Reporter) -> tuple[BmadTable, list[Path]]:
    """Embed, fit, score and compare; the table and its files.

    Tokens, checkpoints and finished runs stay in `out`/bmad_work, so that the same
    command goes on where it was interrupted and another protocol or more
    methods begin with the tokens that are there. Raises `SpatialARError` for
    unusable input, and `Cancelled` through `report`; no table appears then.
    """
    check_names(request.out, request.names, request.overwrite)
    report.stage("read", 1, _stages(request))
    data = find_bmad(request.root, request.which)
    device = resolve_device(request.device)
    encoder = load_encoder(
        request.encoder, device=device, allow_download=request.allow_download, report=report
    )
    _check_size(request.size_px, encoder.card.patch_px)
    if len(by_patient(data.training)) < 2:
        raise InputError(
            "too-few-normals",
            "The normal training images must be of at least 2 patients (one to learn from, one "
            "held out); they are of 1.",
            "Name the whole set.",
        )
    work = request.out / WORK_FOLDER
    make_folder(work)
    try:
        with _held(work):
            return _compare(request, data, encoder, device, work, report)
    except OSError as error:
        raise unwritable("The comparison cannot go on", error) from None


def _compare(
    request: BmadRequest,
    data: BmadData,
    encoder: Encoder,
    device: torch.device,
    work: Path,
    report: Reporter,
) -> tuple[BmadTable, list[Path]]:
    bench = _bench(request, data, encoder, device, work, report)
    rows = tuple(
        _row(bench, method, index, report) for index, method in enumerate(request.methods, start=3)
    )
    table = BmadTable(rows=rows, about=_about(bench, data))
    with appear_together(request.out, request.names, overwrite=request.overwrite) as folder:
        for name, write in zip(request.names, (write_csv, write_json, write_png), strict=True):
            write(folder / name, table)
    return table, [request.out / name for name in request.names]


@contextmanager
def _held(work: Path) -> Iterator[None]:
    """Keeps other comparisons out; the system lets go of the lock however the process ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(work / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            "bmad-running",
            f"Another comparison is running in {work.parent.name!r}.",
            "Wait for it, or choose another folder with --out.",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _stages(request: BmadRequest) -> int:
    return 2 + len(request.methods)


def _check_size(size_px: int, patch_px: int) -> None:
    if size_px < patch_px or size_px % patch_px:
        raise SpecError(
            "size-not-patches",
            f"The image size must be a multiple of the encoder's patch ({patch_px} px); "
            f"found {size_px} px.",
            f"Use {max(1, round(size_px / patch_px)) * patch_px} px.",
        )


def _bench(
    request: BmadRequest,
    data: BmadData,
    encoder: Encoder,
    device: torch.device,
    work: Path,
    report: Reporter,
) -> _Bench:
    """Hash and embed what is not yet embedded."""
    _tell_unnamed(data, report)
    settings = {
        "preparation": PREPARATION,
        "size_px": request.size_px,
        "encoder": encoder.card.weights_sha256,
    }
    total = len(data.training) + len(data.test)

    def bundles(images: Sequence[BmadImage], before: int) -> list[_Bundle]:
        found: list[list[_Patient]] = [[]]
        for group in by_patient(images):
            report.check_cancelled()
            if sum(len(patient.images) for patient in found[-1]) >= BUNDLE_IMAGES:
                found.append([])
            sha256 = _joint_sha256([_sha256(image.path) for image in group])
            found[-1].append(_Patient(group, sha256))
            before += len(group)
            report.progress(before, total, "image")
        return [
            _Bundle(some, feature_key(_joint_sha256([one.sha256 for one in some]), **settings))
            for some in found
        ]

    training = bundles(data.training, 0)
    test = bundles(data.test, len(data.training))
    truth = [bundle.key for bundle in test]
    truth += [_sha256(image.label) for image in data.test if image.label is not None]
    report.stage("embed", 2, _stages(request))
    store = FeatureStore(work / "tokens")
    _embed([*training, *test], store, encoder, request.size_px, report)
    images, _ = encoder_batch(data.test[:TIMED_IMAGES], request.size_px)
    return _Bench(
        request=request,
        encoder=encoder,
        device=device,
        store=store,
        work=work,
        test=test,
        normals=_normals(training, store),
        truth_sha256=_joint_sha256(truth),
        encode_ms=_ms_each(encoder.embed, images, device),
    )


def _normals(training: Sequence[_Bundle], store: FeatureStore) -> Normals:
    tokens, sha256 = [], []
    for bundle in training:
        together, start = store.open(bundle.key), 0
        for patient in bundle.patients:
            stop = start + len(patient.images)
            tokens.append(together[start:stop])
            sha256.append(patient.sha256)
            start = stop
    return Normals(tokens=tokens, sha256=sha256)


def _tell_unnamed(data: BmadData, report: Reporter) -> None:
    count = unnamed([*data.training, *data.test])
    if count:
        report.notice(
            "bmad-names",
            f"{count} file names are not <patient>_<slice>.png: each of these images counts as a "
            "patient of its own, and slices of one patient may be both trained on and held out.",
        )


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise InputError(
            "bmad-image",
            f"{path.name!r} was expected to be a PNG image; it cannot be read "
            f"({error.strerror or error}).",
            "Unpack the set again.",
        ) from None


def _joint_sha256(parts: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _embed(
    bundles: Sequence[_Bundle],
    store: FeatureStore,
    encoder: Encoder,
    size_px: int,
    report: Reporter,
) -> None:
    """Store the tokens of every bundle whose are not stored."""
    total = sum(len(bundle.images) for bundle in bundles)
    side = size_px // encoder.card.patch_px
    done = colored = 0
    at_once = images_at_once(encoder, size_px)

    def batches(images: Sequence[BmadImage], before: int) -> Iterator[Float[np.ndarray, "b c h w"]]:
        nonlocal at_once, colored
        for start in range(0, len(images), IMAGES_PER_BATCH):
            report.check_cancelled()
            chosen = images[start : start + IMAGES_PER_BATCH]
            batch, with_colors = encoder_batch(chosen, size_px)
            colored += with_colors
            tokens, at_once = embed_batches(batch, encoder, report, at_once)
            yield tokens.cpu().numpy()
            report.progress(before + start + len(chosen), total, "image")

    for bundle in bundles:
        images = bundle.images
        if bundle.key not in store:
            shape = (len(images), encoder.card.channels, side, side)
            store.write(bundle.key, shape, batches(images, done))
        done += len(images)
        report.progress(done, total, "image")
    if colored:
        report.notice(
            "bmad-color",
            f"{colored} images have colors; their luminance was taken.",
        )


def _row(bench: _Bench, method: Preset | Peer, index: int, report: Reporter) -> BmadRow:
    """A method in all its runs."""
    request = bench.request
    drawing = isinstance(method, Preset) or method in SEEDED
    seeds = request.seeds if drawing else (0,)
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        report.check_cancelled()
        name = f"{method}, seed {seed}" if drawing else method.value
        report.stage(name, index, _stages(request))
        try:
            runs.append(_run(bench, method, seed, report))
        except NotRun as reason:
            return BmadRow(method=method.value, values={}, not_run=f"not run: {reason}")
    on_images = method in (Peer.BRIGHT, Peer.DARK)
    return BmadRow(
        method=method.value,
        seeds=seeds if drawing else (),
        values={metric: tuple(run[metric] for run in runs) for metric in METRICS},
        encode_ms=0.0 if on_images else round(bench.encode_ms, 2),
        score_ms=round(float(np.mean([run["score_ms"] for run in runs])), 2),
        size_bytes=runs[0]["size_bytes"],
    )


def _run(bench: _Bench, method: Preset | Peer, seed: int, report: Reporter) -> dict[str, Any]:
    """One method with one seed; a finished run of the same is read, not made again."""
    request = bench.request
    training = dataclasses.replace(request.training, seed=seed)
    decisive: dict[str, Any] = {
        "engine": __version__,
        "normals": sorted(bench.normals.sha256),
        "test": bench.truth_sha256,
        "encoder": bench.encoder.card.weights_sha256,
        "preparation": PREPARATION,
        "size_px": request.size_px,
        "protocol": request.protocol,
        "method": method,
        "seed": seed,
        "device": _hardware(bench.device),
    }
    if isinstance(method, Preset):
        decisive["autoregressive"] = AutoregressiveSpec.from_preset(method).to_dict()
        decisive["training"] = training.to_dict()
    name = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    kept = bench.work / f"{name}.run.json"
    try:
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        pass
    if isinstance(method, Preset):
        fitted = fit_autoregressive(
            method,
            training,
            bench.normals,
            bench.encoder.card.weights_sha256,
            bench.work,
            bench.device,
            report,
        )
    else:
        fitted = fit_peer(method, seed, bench.normals, bench.device, report)
    result = _measure(bench, fitted, report)
    with replacing(kept) as partial:
        partial.write_text(json.dumps(result), encoding="utf-8")
    return result


def _measure(bench: _Bench, fitted: Fitted, report: Reporter) -> dict[str, Any]:
    """Score the test images and hold the scores against their labels."""
    from sklearn.metrics import roc_auc_score

    request = bench.request
    pixels = PixelCounts()
    highest: list[float] = []
    anomalous: list[bool] = []
    total = sum(len(bundle.images) for bundle in bench.test)
    for chosen, given in _given(bench, fitted.on_images):
        report.check_cancelled()
        scores = fitted.score(given)
        for image, score in zip(chosen, scores, strict=True):
            label = pixels_of(image, request.protocol, request.size_px)
            on_pixels = score_on_pixels(score, label.shape)
            pixels.add(on_pixels, label)
            # As BMAD has it: an image is as anomalous as its highest pixel.
            highest.append(float(on_pixels.max()))
            anomalous.append(image.label is not None)
        report.progress(len(highest), total, "image")
    _, timed = next(_given(bench, fitted.on_images))
    return {
        **pixels.metrics(),
        "image_auroc": float(roc_auc_score(anomalous, highest)),
        "score_ms": _ms_each(fitted.score, timed, bench.device),
        "size_bytes": fitted.size_bytes,
    }


def _given(
    bench: _Bench, on_images: bool
) -> Iterator[tuple[Sequence[BmadImage], Float[Tensor, "b c h w"]]]:
    """The test images, some at a time, with what a method scores: tokens or the images."""
    for bundle in bench.test:
        images: list[BmadImage] = bundle.images
        tokens: Float16[np.ndarray, "n c h w"] = bench.store.open(bundle.key)
        for start in range(0, len(images), IMAGES_PER_BATCH):
            chosen = images[start : start + IMAGES_PER_BATCH]
            if on_images:
                yield chosen, encoder_batch(chosen, bench.request.size_px)[0]
            else:
                part = tokens[start : start + IMAGES_PER_BATCH].astype(np.float32)
                yield chosen, torch.from_numpy(part).to(bench.device)


def _ms_each(
    function: Callable[[Float[Tensor, "b c h w"]], Tensor],
    batch: Float[Tensor, "b c h w"],
    device: torch.device,
) -> float:
    """The median time of one image alone, in ms, after one that is not counted.

    Waits for the device before and after each, unlike the paper's released
    code, which on a GPU so takes the time of asking rather than of computing.
    """
    times: list[float] = []
    begin = time.perf_counter()
    for index in range(min(len(batch), TIMED_IMAGES) + 1):
        one = batch[max(index - 1, 0)][None]
        _wait(device)
        since = time.perf_counter()
        function(one)
        _wait(device)
        times.append(1e3 * (time.perf_counter() - since))
        if index and time.perf_counter() - begin > TIMED_S:
            break
    return float(np.median(times[1:]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type} ({platform.machine()}, {threads} thread{'s' * (threads > 1)})"


def _about(bench: _Bench, data: BmadData) -> Mapping[str, Any]:
    request = bench.request
    paper = request.protocol is BmadProtocol.PAPER
    return {
        "set": request.which.value,
        "protocol": request.protocol.value,
        "compared_px": f"{PAPER_PX} × {PAPER_PX}" if paper else "the image's own",
        "size_px": request.size_px,
        "training_images": len(data.training),
        "training_patients": len(bench.normals.tokens),
        "test_images": len(data.test),
        "test_anomalous_images": sum(image.label is not None for image in data.test),
        "test_patients": sum(len(bundle.patients) for bundle in bench.test),
        "tokens_an_image": (request.size_px // bench.encoder.card.patch_px) ** 2,
        "encoder": bench.encoder.card.to_dict(),
        "training": request.training.to_dict(),
        "seeds": list(request.seeds),
        "image_score": "the highest pixel",
        "engine": __version__,
        "torch": torch.__version__,
        "hardware": _hardware(bench.device),
        "cores": os.cpu_count(),
        "date": date.today().isoformat(),
    }


def as_result(table: BmadTable, files: Sequence[Path]) -> dict[str, Any]:
    """What the `result` event says."""
    return table.to_dict() | {"files": [path.name for path in files]}
