"""The comparison: from the files of a data set to the measures of every method."""

import hashlib
import json
import os
import platform
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from Benchmark.real.counts import Counts, Draws, over_seeds, patient_resamples
from Benchmark.real.layout import Protocol
from Benchmark.real.methods import (
    METHODS,
    SEEDLESS,
    Fitted,
    Fitter,
    Method,
    Normals,
    NotRun,
    Peer,
)
from Benchmark.real.patients import Compared, Patient, Patients
from Benchmark.real.png import code_sha256, joint_sha256, png_patients
from Benchmark.real.scans import scan_patients
from Benchmark.real.tables import KINDS, Row, Table, write_tables
from Benchmark.real.tokens import TokenArray, embed, open_encoder
from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.device import Device, resolve_device
from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
from SpatialARAnomalyLib.engine.errors import InputError, OutputError, SpecError
from SpatialARAnomalyLib.engine.files import replacing, unwritable
from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import EvaluationSpec, Region, SliceSpec, TrainingSpec
from SpatialARAnomalyLib.service.outputs import check_names, make_folder, write_atomically

WORK_FOLDER = "work"
"""Folder below the results for tokens, checkpoints and finished runs, used to resume."""

LOCK_FILE = "lock"

TIMED_IMAGES = 32
"""Maximum number of images timed one by one."""
TIMED_S = 10.0
"""Seconds after which no further image is timed."""


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """The methods, the images and the settings of a comparison."""

    root: Path
    """A folder of BMAD's layout, or a table of cases."""
    normals: Path | None
    """Folder of normal volumes, with a table of cases."""
    name: str
    """Name of the set, and of the files to write."""
    encoder: str
    out: Path
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    training: TrainingSpec
    """Training settings; `seeds` replaces their seed in each run."""
    protocol: Protocol = Protocol.NATIVE
    size_px: int = SliceSpec.size_px
    """Side of the encoder's image in pixels."""
    every: int = 1
    """Every n-th slice of a volume is taken."""
    region: Region = Region.BODY
    """Part of a scan that counts; of volumes, also what methods learn from."""
    resamples: int = EvaluationSpec.resamples
    device: Device = Device.AUTO
    allow_download: bool = False
    overwrite: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files to write."""
        return tuple(f"{self.name}.{kind}" for kind in KINDS)


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """Data and tools that all runs of a comparison share."""

    request: ComparisonRequest
    test: Sequence[Patient]
    tokens: Sequence[TokenArray]
    fitter: Fitter
    decisive: dict[str, object]
    """Values that decide the result of a run, beside the method and its seed."""
    encode_ms: float


def compare(request: ComparisonRequest, report: Reporter) -> tuple[Table, list[Path]]:
    """Embed the images, fit and score all methods, and write the tables.

    Tokens, checkpoints and finished runs stay in `out`/work, so that a repeated command
    resumes, and one with more methods or seeds reuses them.

    Raises:
        SpatialARError: For unusable input; no table is written then.
        Cancelled: Through `report`.
    """
    check_names(request.out, request.names, request.overwrite)
    runs = [(name, seed) for name in request.methods for seed in _seeds(request, METHODS[name])]
    stages = len(runs) + 3
    report.stage("read", 1, stages)
    device = resolve_device(request.device)
    encoder = open_encoder(request.encoder, device, request.allow_download, report)
    check_size(request.size_px, encoder.card.patch_px)
    data = _read(request, encoder.card.patch_px)
    if len(data.training) < 2:
        raise InputError(
            "too-few-normals",
            "The normal training images must be of at least 2 patients (one to learn from, one "
            "held out); they are of 1. Name the whole data set.",
        )
    work = request.out / WORK_FOLDER
    make_folder(work)
    try:
        with locked(work):
            report.stage("embed", 2, stages)
            prepared = _prepare(request, data, encoder, device, work, report)
            found: dict[str, list[tuple[Counts, dict[str, float]]]] = {}
            reasons: dict[str, str] = {}
            for index, (name, seed) in enumerate(runs, start=3):
                seeded = METHODS[name] not in SEEDLESS
                report.stage(f"{name}, seed {seed}" if seeded else name, index, stages)
                try:
                    found.setdefault(name, []).append(_run(prepared, name, seed, report))
                except NotRun as reason:
                    reasons[name] = f"not run: {reason}"
            report.stage("resample", stages, stages)
            weights = patient_resamples(len(data.test), request.resamples)
            rows = []
            for done, name in enumerate(request.methods):
                report.progress(done, len(request.methods), "method")
                rows.append(_row(prepared, name, found.get(name, []), reasons.get(name), weights))
            table = Table(rows=tuple(rows), about=_about(prepared, data, encoder))
            with write_atomically(
                request.out, request.names, overwrite=request.overwrite
            ) as folder:
                write_tables(folder / request.name, table)
            return table, [request.out / name for name in request.names]
    except OSError as error:
        raise unwritable("The comparison cannot go on", error) from None


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Lock the folder; the system releases the lock however the process ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(work / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            "benchmark-running",
            f"Another comparison is running in {work.parent.name!r}. Wait for it, or choose "
            "another folder with --out.",
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_size(size_px: int, patch_px: int) -> None:
    """Raise `SpecError` `size-not-patches` unless the image holds whole patches."""
    if size_px < patch_px or size_px % patch_px:
        raise SpecError(
            "size-not-patches",
            f"The image size must be a multiple of the encoder's patch ({patch_px} px); "
            f"found {size_px} px. Use {max(1, round(size_px / patch_px)) * patch_px} px.",
        )


def _seeds(request: ComparisonRequest, method: Method) -> tuple[int, ...]:
    return (0,) if method in SEEDLESS else request.seeds


def _read(request: ComparisonRequest, patch_px: int) -> Patients:
    if request.root.is_dir() and request.normals is None:
        return png_patients(
            request.root, request.size_px, patch_px, request.protocol, request.region
        )
    if request.normals is None:
        raise InputError(
            "too-few-normals",
            "A table of cases needs a folder of normal scans to learn from: name it by --normals.",
        )
    return scan_patients(
        request.root, request.normals, request.size_px, patch_px, request.every, request.region
    )


def _prepare(
    request: ComparisonRequest,
    data: Patients,
    encoder: Encoder,
    device: torch.device,
    work: Path,
    report: Reporter,
) -> _Prepared:
    """Hash the images and embed those that are not embedded yet."""
    store = FeatureStore(work / "tokens")
    both = [*data.training, *data.test]
    tokens = embed(both, data.preparation, store, encoder, request.size_px, report)
    images = next(data.test[0].images())
    card = encoder.card
    normals = Normals(
        tokens=tokens[: len(data.training)],
        inside=[one.inside() for one in data.training],
        sha256=[one.sha256 for one in data.training],
    )
    return _Prepared(
        request=request,
        test=data.test,
        tokens=tokens[len(data.training) :],
        fitter=Fitter(
            normals=normals,
            preparation=data.preparation,
            encoder_sha256=card.weights_sha256,
            training=request.training,
            work=work,
            device=device,
            report=report,
        ),
        decisive={
            "body": code_sha256("slices"),
            "protocol": request.protocol,
            "region": request.region,
            "test": joint_sha256([f"{one.sha256}{one.truth_sha256}" for one in data.test]),
            "counts": 1,  # version of what is stored of a run
        },
        encode_ms=_median_ms(encoder.embed, torch.from_numpy(images), device),
    )


def _run(
    prepared: _Prepared, name: str, seed: int, report: Reporter
) -> tuple[Counts, dict[str, float]]:
    """Run one method with one seed, or read the stored result of an identical run."""
    method, fitter = METHODS[name], prepared.fitter
    decisive = fitter.decisive(method) | {"seed": seed}
    stored = _file(prepared, prepared.decisive | decisive, "run.npz")
    try:
        return Counts.read(stored)
    except (OSError, ValueError, KeyError):
        pass
    if method in (Peer.BRIGHT, Peer.DARK):
        patients = [_gray(one, dark=method is Peer.DARK) for one in prepared.test]
        counts, more = Counts.of(patients, 0.0, 1.0), {"score_ms": 0.0, "size_bytes": 0.0}
    else:
        images = [one.sha256 for one in prepared.test]
        kept = _file(prepared, decisive | {"test": images}, "scores.npz")
        scores, more = _token_scores(prepared, method, seed, kept, report)
        low, high = (float(f([f(one) for one in scores])) for f in (np.min, np.max))
        counts = Counts.of(
            [one.compared(own) for one, own in zip(prepared.test, scores, strict=True)], low, high
        )
    counts.save(stored, **more)
    return counts, more


def _file(prepared: _Prepared, decisive: dict[str, object], ending: str) -> Path:
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return prepared.request.out / WORK_FOLDER / f"{key}.{ending}"


def _token_scores(
    prepared: _Prepared, method: Method, seed: int, kept: Path, report: Reporter
) -> tuple[list[np.ndarray], dict[str, float]]:
    """Fit and score, or read the scores: another body mask or other labels need no new ones."""
    names = [f"{index:06d}" for index in range(len(prepared.test))]
    try:
        with np.load(kept, allow_pickle=False) as file:
            more = {name: float(file[name]) for name in ("score_ms", "size_bytes")}
            return [file[name] for name in names], more
    except (OSError, ValueError, KeyError):
        pass
    fitted = prepared.fitter.fit(method, seed)
    scores = []
    for done, tokens in enumerate(prepared.tokens):
        report.check_cancelled()
        report.progress(done, len(prepared.test), "patient")
        scores.append(fitted.score_all(tokens))
    more = {"score_ms": _score_ms(prepared, fitted), "size_bytes": float(fitted.size_bytes)}
    with replacing(kept) as partial, partial.open("wb") as file:
        np.savez(file, **dict(zip(names, scores, strict=True)), **more)  # type: ignore[arg-type]
    return scores, more


def _gray(patient: Patient, dark: bool) -> Iterator[Compared]:
    for one in patient.compared(None):
        yield Compared(1 - one.scores if dark else one.scores, one.body, one.lesion)


def _score_ms(prepared: _Prepared, fitted: Fitted) -> float:
    tokens = torch.from_numpy(prepared.tokens[0][:TIMED_IMAGES].astype(np.float32))
    return _median_ms(fitted.score, tokens, prepared.fitter.device)


def _median_ms(
    function: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, device: torch.device
) -> float:
    """Measure the median time for one image in ms, after an untimed call.

    On a GPU, waits for it before and after each call; the paper's released code does not, and
    times the launch instead. On a CPU, its own time counts, which other programs do not lengthen.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: list[float] = []
    begin = time.perf_counter()
    for index in range(min(len(batch), TIMED_IMAGES) + 1):
        one = batch[max(index - 1, 0)][None]
        _synchronize(device)
        since = clock()
        function(one)
        _synchronize(device)
        times.append(1e3 * (clock() - since))
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


def _row(
    prepared: _Prepared,
    name: str,
    runs: Sequence[tuple[Counts, dict[str, float]]],
    reason: str | None,
    weights: np.ndarray,
) -> Row:
    if reason or not runs:
        return Row(method=name, not_run=reason or "not run")
    by_seed = [counts.resampled(weights) for counts, _ in runs]
    # The same patients for all methods, so that differences are paired; seeds of its own.
    draws: Draws = over_seeds(by_seed, zlib.crc32(name.encode()))
    seeded = METHODS[name] not in SEEDLESS
    return Row(
        method=name,
        seeds=prepared.request.seeds if seeded else (),
        draws=draws,
        by_seed=[
            {region: {key: float(one[0]) for key, one in of.items()} for region, of in run.items()}
            for run in by_seed
        ],
        score_ms=float(np.mean([more["score_ms"] for _, more in runs])),
        size_bytes=int(runs[0][1]["size_bytes"]),
    )


def _about(prepared: _Prepared, data: Patients, encoder: Encoder) -> dict[str, Any]:
    request = prepared.request
    pooled = sum(1 for one in data.test for _ in range(len(one)))
    shared = {one.name for one in data.training} & {one.name for one in data.test}
    return {
        "set": request.name,
        **data.about,
        **({"in_both": f"{len(shared)} patients are in training and test"} if shared else {}),
        "region": request.region.value,
        "size_px": request.size_px,
        "training_images": sum(len(one) for one in data.training),
        "training_patients": len(data.training),
        "test_images": pooled,
        "test_patients": len(data.test),
        "encoder": encoder.card.to_dict(),
        "encode_ms": round(prepared.encode_ms, 2),
        "training": request.training.to_dict(),
        "seeds": list(request.seeds),
        "resamples": request.resamples,
        "engine": __version__,
        "code": code_sha256("model", "slices")[:12],
        "torch": torch.__version__,
        "hardware": _hardware(prepared.fitter.device),
        "cores": os.cpu_count(),
        "date": date.today().isoformat(),
    }
