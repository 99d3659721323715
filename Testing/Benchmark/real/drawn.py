"""Lesions drawn into normal scans, and false alarms on them: cross-validated over persons."""

import csv
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from Benchmark.real.comparison import WORK_FOLDER, check_size, locked
from Benchmark.real.counts import Counts, Draws, Estimate, over_seeds, patient_resamples
from Benchmark.real.lesions import BALL_RADII_MM, CONTRASTS, draw_ball, draw_lesion
from Benchmark.real.methods import METHODS, SEEDLESS, Fitted, Fitter, Normals, Peer
from Benchmark.real.patients import Compared
from Benchmark.real.png import code_sha256, joint_sha256
from Benchmark.real.scans import Cut, ScanPatient, cut_for, normal_scans, preparation_of, thinned
from Benchmark.real.tables import estimate_text, table_head, table_line
from Benchmark.real.tokens import TokenArray, embed, open_encoder
from jaxtyping import Bool, Float
from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.device import Device, resolve_device
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.evaluation.lesions import Lesions, search
from SpatialARAnomalyLib.engine.files import replacing, unwritable
from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.scoring.calibration_fit import case_score, fit_calibration
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import FindingsSpec, Region, TrainingSpec
from SpatialARAnomalyLib.engine.volumes.volume import Volume, infer_modality
from SpatialARAnomalyLib.service.outputs import check_names, make_folder, write_atomically

VERSION = "drawn 1"
"""Version of the drawing; a change makes stored tokens and results obsolete."""

BALL_LEVEL = 0.99
"""Share of a scan's normal tokens above which the center of a smooth ball must score."""

KINDS = tuple(CONTRASTS)


@dataclass(frozen=True, kw_only=True)
class DrawnRequest:
    """The methods, the scans and the settings."""

    normals: Path
    name: str
    encoder: str
    out: Path
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    training: TrainingSpec
    findings: FindingsSpec
    size_px: int
    every: int
    region: Region
    folds: int
    balls: int
    """Number of smooth balls in all persons together."""
    resamples: int
    device: Device = Device.AUTO
    allow_download: bool = False
    overwrite: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files to write."""
        return tuple(f"{self.name}.{kind}" for kind in ("md", "csv", "json"))


def _body(cut: Cut, volume: Volume) -> Bool[np.ndarray, "k j i"]:
    plane, modality = cut.slices.plane, infer_modality(volume)
    plane_volume = PlaneVolume(volume, plane, modality, cut.region)
    return np.ascontiguousarray(plane_volume.orientation.undo(plane_volume.region))


@dataclass(frozen=True, eq=False)
class LesionPatient(ScanPatient):
    """A normal scan with a drawn lesion."""

    kind: str
    seed: int

    @cached_property
    def sha256(self) -> str:
        """Hash of the scan's file and of the drawing."""
        return joint_sha256([super().sha256, VERSION, self.kind, str(self.seed)])

    def read(self) -> list[tuple[Volume, Bool[np.ndarray, "k j i"]]]:
        """Read the scan and draw the lesion."""
        volume, _ = self.cases[0].read()
        rng = np.random.default_rng((self.seed, KINDS.index(self.kind)))
        return [draw_lesion(volume, _body(self.cut, volume), self.kind, rng)]


@dataclass(frozen=True, eq=False)
class BallPatient(ScanPatient):
    """The slice through the center of a smooth ball in a normal scan."""

    sign: int
    radius_mm: float
    seed: int

    @cached_property
    def sha256(self) -> str:
        """Hash of the scan's file and of the drawing."""
        drawn = [VERSION, f"{self.sign} {self.radius_mm}", str(self.seed)]
        return joint_sha256([super().sha256, *drawn])

    def slices(self) -> Iterator[tuple[SliceStack, int, Bool[np.ndarray, "r c"]]]:
        """Yield the slice nearest to the center, which alone counts as lesion."""
        yield _ball_slice(self)


@lru_cache(maxsize=128)
def _ball_slice(ball: BallPatient) -> tuple[SliceStack, int, Bool[np.ndarray, "r c"]]:
    volume, _ = ball.cases[0].read()
    rng = np.random.default_rng((ball.seed, ball.sign + 1))
    body = _body(ball.cut, volume)
    drawn, center = draw_ball(volume, body, ball.sign, ball.radius_mm, rng)
    marked = np.zeros(body.shape, np.float32)
    marked[tuple(center)] = 1
    stack = ball.cut.stack(thinned(drawn, ball.cut.every, ball.cut.slices.plane))
    orientation = stack.plane_volume.orientation
    place, row, column = np.argwhere(orientation.apply(marked) > 0)[0]
    every = ball.cut.every
    index = int(np.clip(round((place - every // 2) / every), 0, len(stack.voxels) - 1))
    lesion = np.zeros(stack.voxels.shape[1:], bool)
    lesion[row, column] = True
    return stack, index, lesion


@dataclass(frozen=True, eq=False)
class Result:
    """A run of a method: all persons, each scored by the model that never saw them."""

    rates: Float[np.ndarray, " n"]
    """Share of every normal scan's body above the threshold."""
    findings: Float[np.ndarray, " n"]
    """Number of findings in every normal scan."""
    case_p: Float[np.ndarray, " n"]
    """Case p-value of every normal scan; NaN with too few held-out persons."""
    found: Float[np.ndarray, "n kinds"]
    """1 where the lesion of a kind was found, else 0; by person."""
    balls: Float[np.ndarray, " b"]
    """1 where the center of a smooth ball scores above `BALL_LEVEL`, else 0; by ball."""
    counts: dict[str, Counts]
    """Scores by kind of lesion, standardized by the calibration of their model."""

    def save(self, path: Path) -> None:
        """Write all to a file."""
        values = {key: value for key, value in vars(self).items() if key != "counts"}
        for kind, counts in self.counts.items():
            values |= {f"{kind} {key}": value for key, value in vars(counts).items()}
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **values)

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            counts = {
                kind: Counts(**{key: file[f"{kind} {key}"] for key in Counts.__annotations__})
                for kind in KINDS
            }
            own = {key: file[key] for key in cls.__annotations__ if key != "counts"}
            return cls(**own, counts=counts)


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    request: DrawnRequest
    persons: list[ScanPatient]
    lesions: list[list[LesionPatient]]
    """By kind, one for every person."""
    balls: list[BallPatient]
    ball_person: list[int]
    tokens: dict[int, TokenArray]
    """By identity of the patient."""
    fitter: Fitter
    """Its normals are all persons."""

    @property
    def folds(self) -> list[list[int]]:
        """Persons of every fold, by a seeded permutation."""
        count = len(self.persons)
        shuffled = np.random.RandomState(0).permutation(count).tolist()
        return [shuffled[start :: self.request.folds] for start in range(self.request.folds)]


def measure(request: DrawnRequest, report: Reporter) -> tuple[str, list[Path]]:
    """Draw, embed, fit, score and write the table; return it and the files.

    Raises `SpatialARError` for unusable input, `Cancelled` through `report`.
    """
    check_names(request.out, request.names, request.overwrite)
    runs = [
        (name, seed)
        for name in request.methods
        for seed in ((0,) if METHODS[name] in SEEDLESS else request.seeds)
    ]
    report.stage("read", 1, len(runs) + 2)
    device = resolve_device(request.device)
    encoder = open_encoder(request.encoder, device, request.allow_download, report)
    check_size(request.size_px, encoder.card.patch_px)
    cases = normal_scans(request.normals)
    if len(cases) < 2 * request.folds:
        raise InputError(
            "too-few-normals",
            f"Every fold needs at least 2 persons; {request.normals.name!r} holds {len(cases)} "
            f"for {request.folds} folds.",
        )
    cut = cut_for(cases, request.size_px, encoder.card.patch_px, request.every, request.region)
    work = request.out / WORK_FOLDER
    make_folder(work)
    try:
        with locked(work):
            persons = [ScanPatient(name, some, cut) for name, some in cases.items()]
            lesions = [
                [
                    LesionPatient(one.name, one.cases, cut, kind, index)
                    for index, one in enumerate(persons)
                ]
                for kind in KINDS
            ]
            radii = np.linspace(*BALL_RADII_MM, max(1, request.balls)).tolist()
            # Radii and signs are spread evenly over the persons.
            of_ball = [index * 7 % len(persons) for index in range(request.balls)]
            balls = [
                BallPatient(
                    persons[of].name, persons[of].cases, cut, 1 - 2 * (index % 2), radius, index
                )
                for index, (of, radius) in enumerate(zip(of_ball, radii, strict=False))
            ]
            report.stage("embed", 2, len(runs) + 2)
            every: list[ScanPatient] = [*persons, *(one for kind in lesions for one in kind)]
            every += balls
            preparation = preparation_of(cut)
            store = FeatureStore(work / "tokens")
            found = embed(every, preparation, store, encoder, request.size_px, report)
            tokens = {id(one): own for one, own in zip(every, found, strict=True)}
            prepared = _Prepared(
                request=request,
                persons=persons,
                lesions=lesions,
                balls=balls,
                ball_person=of_ball,
                tokens=tokens,
                fitter=Fitter(
                    normals=Normals(
                        tokens=found[: len(persons)],
                        inside=[one.inside() for one in persons],
                        sha256=[one.sha256 for one in persons],
                    ),
                    preparation=preparation,
                    encoder_sha256=encoder.card.weights_sha256,
                    training=request.training,
                    work=work,
                    device=device,
                    report=report,
                ),
            )
            results: dict[str, list[Result]] = {}
            for index, (name, seed) in enumerate(runs, start=3):
                report.stage(f"{name}, seed {seed}", index, len(runs) + 2)
                results.setdefault(name, []).append(_run(prepared, name, seed, report))
            about = {
                "set": request.name,
                "persons": len(persons),
                "folds": request.folds,
                "every": request.every,
                "region": request.region.value,
                "field_of_view_mm": cut.slices.fov_mm,
                "size_px": request.size_px,
                "encoder": encoder.card.to_dict(),
                "training": request.training.to_dict(),
                "findings": request.findings.to_dict(),
                "seeds": list(request.seeds),
                "code": code_sha256("model", "slices")[:12],
            }
            text, rows = _tables(about, results, request.resamples)
            with write_atomically(
                request.out, request.names, overwrite=request.overwrite
            ) as folder:
                markdown, table, values = (folder / name for name in request.names)
                markdown.write_text(text, encoding="utf-8")
                values.write_text(
                    json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8"
                )
                with table.open("w", encoding="utf-8", newline="") as file:
                    lines = csv.DictWriter(file, list(rows[0]))
                    lines.writeheader()
                    lines.writerows(rows)
            return text, [request.out / name for name in request.names]
    except OSError as error:
        raise unwritable("The measurement cannot go on", error) from None


def _run(prepared: _Prepared, name: str, seed: int, report: Reporter) -> Result:
    """Score all persons, or read the stored result of an identical run."""
    request, method = prepared.request, METHODS[name]
    decisive = prepared.fitter.decisive(method) | {
        "version": VERSION,
        "seed": seed,
        "findings": request.findings.to_dict(),
        "scans": [one.sha256 for one in (*prepared.lesions[0], *prepared.balls)],
        "cut": repr(prepared.persons[0].cut),
        "folds": request.folds,
        "held_out": request.training.held_out_share,
        "scoring": code_sha256("slices", "scoring", "cards", "evaluation"),
    }
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    stored = request.out / WORK_FOLDER / f"{key}.drawn.npz"
    try:
        return Result.read(stored)
    except (OSError, ValueError, KeyError):
        pass
    models = [_model(prepared, name, seed, fold, report) for fold in prepared.folds]
    result = _result(prepared, models)
    result.save(stored)
    return result


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A method fitted without the persons of a fold, and its calibration."""

    prepared: _Prepared
    gray: Peer | None
    """Brightness or darkness, which need no tokens."""
    scores: dict[int, Float[np.ndarray, "_ h w"]]
    """Token scores of the fold's patients, by identity; empty for `gray`."""
    calibration: Calibration
    persons: list[int]

    def compared(self, patient: ScanPatient) -> Iterator[Compared]:
        """Yield the patient's scores, standardized: 0 is normal, 1 the threshold."""
        normal, threshold = (
            self.calibration.threshold(rate)
            for rate in (0.5, self.prepared.request.findings.false_positive_rate)
        )
        for one in _compared(patient, self.scores.get(id(patient)), self.gray):
            scores = (one.scores - normal) / max(threshold - normal, 1e-12)
            yield Compared(scores.astype(np.float32), one.body, one.lesion)


def _compared(
    patient: ScanPatient, scores: Float[np.ndarray, "n h w"] | None, gray: Peer | None
) -> Iterator[Compared]:
    for one in patient.compared(scores):
        values = 1 - one.scores if gray is Peer.DARK else one.scores
        yield Compared(values, one.body, one.lesion)


def _model(prepared: _Prepared, name: str, seed: int, fold: list[int], report: Reporter) -> _Model:
    """Fit a method on the other folds, calibrate it, and score the fold's patients."""
    method = METHODS[name]
    gray = method if method in (Peer.BRIGHT, Peer.DARK) and isinstance(method, Peer) else None
    rest = [index for index in range(len(prepared.persons)) if index not in fold]
    normals = prepared.fitter.normals
    fitter = dataclasses.replace(
        prepared.fitter,
        normals=Normals(
            tokens=[normals.tokens[index] for index in rest],
            inside=[normals.inside[index] for index in rest],
            sha256=[normals.sha256[index] for index in rest],
        ),
    )
    trained, held_out = ([rest[index] for index in part] for part in fitter.split(seed))
    if isinstance(method, Peer):
        # A peer holds nothing out; it must not have seen those that calibrate it.
        own = fitter.normals
        kept = [rest.index(index) for index in trained]
        fitter = dataclasses.replace(
            fitter,
            normals=Normals(
                tokens=[own.tokens[index] for index in kept],
                inside=[own.inside[index] for index in kept],
                sha256=[own.sha256[index] for index in kept],
            ),
        )
    fitted = None if gray else fitter.fit(method, seed)
    voxels, tokens = [], []
    for index in held_out:
        scores = _token_scores(prepared, fitted, prepared.persons[index])
        slices = _compared(prepared.persons[index], scores, gray)
        voxels.append(np.concatenate([one.scores[one.body] for one in slices]))
        if scores is not None:
            tokens.append(scores[normals.inside[index]])
    patients: list[ScanPatient] = [prepared.persons[index] for index in fold]
    patients += [kind[index] for kind in prepared.lesions for index in fold]
    patients += [
        ball for ball, of in zip(prepared.balls, prepared.ball_person, strict=True) if of in fold
    ]
    scored: dict[int, Float[np.ndarray, "n h w"]] = {}
    for done, patient in enumerate(patients):
        report.check_cancelled()
        report.progress(done, len(patients), "scan")
        scores = _token_scores(prepared, fitted, patient)
        if scores is not None:
            scored[id(patient)] = scores
    return _Model(
        prepared=prepared,
        gray=gray,
        scores=scored,
        calibration=fit_calibration(voxels, tokens or voxels),
        persons=fold,
    )


def _token_scores(
    prepared: _Prepared, fitted: Fitted | None, patient: ScanPatient
) -> Float[np.ndarray, "n h w"] | None:
    if fitted is None:
        return None
    return fitted.score_all(prepared.tokens[id(patient)])


def _result(prepared: _Prepared, models: Sequence[_Model]) -> Result:
    count = len(prepared.persons)
    spec = prepared.request.findings
    rates, findings, case_p = np.zeros(count), np.zeros(count), np.full(count, np.nan)
    found = np.zeros((count, len(KINDS)))
    balls = np.zeros(len(prepared.balls))
    model_of = {index: model for model in models for index in model.persons}
    for index, person in enumerate(prepared.persons):
        model = model_of[index]
        slices = list(model.compared(person))
        inside = np.concatenate([one.scores[one.body] for one in slices])
        rates[index] = np.mean(inside >= 1)
        findings[index] = _search(person, slices, spec)[1]
        raw = np.concatenate(
            [
                one.scores[one.body]
                for one in _compared(person, model.scores.get(id(person)), model.gray)
            ]
        )
        p = model.calibration.case_p_value(case_score(raw))
        case_p[index] = np.nan if p is None else p
        for place, kind in enumerate(prepared.lesions):
            found[index, place] = _search(kind[index], list(model.compared(kind[index])), spec)[0]
        normal = _token_level(prepared, model, index, inside)
        for ball, of in enumerate(prepared.ball_person):
            if of == index:
                (one,) = model.compared(prepared.balls[ball])
                balls[ball] = float(one.scores[one.lesion][0] > normal)
    ends = [
        (float(one.scores.min()), float(one.scores.max()))
        for model in models
        for kind in prepared.lesions
        for index in model.persons
        for one in model.compared(kind[index])
    ]
    low, high = min(one for one, _ in ends), max(one for _, one in ends)
    counts = {
        name: Counts.of(
            [model_of[index].compared(patient) for index, patient in enumerate(kind)], low, high
        )
        for name, kind in zip(KINDS, prepared.lesions, strict=True)
    }
    return Result(rates, findings, case_p, found, balls, counts)


def _token_level(
    prepared: _Prepared, model: _Model, index: int, voxels: Float[np.ndarray, " n"]
) -> float:
    """Return the standardized score that few of a normal scan's tokens reach."""
    scores = model.scores.get(id(prepared.persons[index]))
    if scores is None:
        return float(np.quantile(voxels, BALL_LEVEL))
    inside = prepared.fitter.normals.inside[index]
    normal, threshold = (
        model.calibration.threshold(rate)
        for rate in (0.5, prepared.request.findings.false_positive_rate)
    )
    level = float(np.quantile(scores[inside], BALL_LEVEL))
    return (level - normal) / max(threshold - normal, 1e-12)


def _search(
    patient: ScanPatient, slices: Sequence[Compared], spec: FindingsSpec
) -> tuple[float, float]:
    """Return the lesions found, and the false findings, at the threshold."""
    scores: dict[int, tuple[SliceStack, np.ndarray, np.ndarray]] = {}
    for (stack, index, _), one in zip(patient.slices(), slices, strict=True):
        if id(stack) not in scores:
            empty = np.full(stack.voxels.shape, -np.inf, np.float32)
            scores[id(stack)] = (stack, empty, np.zeros(stack.voxels.shape, bool))
        _, volume, truth = scores[id(stack)]
        volume[index][one.body] = one.scores[one.body]
        truth[index] = one.lesion
    found = false = 0
    for stack, volume, truth in scores.values():
        affine = np.diag([*stack.plane_volume.spacing_mm[::-1], 1.0])
        counts = search(volume, Lesions.of(truth), [1.0], affine, spec.min_volume_ml)
        found += int(counts[0, 0])
        false += int(counts[1, 0])
    return float(found), float(false)


def _tables(
    about: dict[str, Any], results: dict[str, list[Result]], resamples: int
) -> tuple[str, list[dict[str, Any]]]:
    """Return the table as Markdown, and its rows."""
    weights = patient_resamples(about["persons"], resamples)
    asked, least_ml = (about["findings"][key] for key in ("false_positive_rate", "min_volume_ml"))
    heads = ["method", "rate", "findings a normal scan", "KS p of case p"]
    heads += [f"{kind}: found" for kind in KINDS] + [f"{kind}: AP" for kind in KINDS]
    heads += ["balls, bright", "balls, dark"]
    lines = [
        f"{about['set']}: {about['persons']} persons in {about['folds']} folds, encoder "
        f"{about['encoder']['name']}; asked rate {asked:g}, findings of at least {least_ml:g} mL; "
        f"mean over seeds {', '.join(map(str, about['seeds']))}, intervals of 95 % over persons "
        "and seeds.",
        "",
        *table_head(heads),
    ]
    rows = []
    for name, runs in results.items():
        draws: dict[str, Draws] = {
            kind: over_seeds(
                [run.counts[kind].resampled(weights) for run in runs], zlib.crc32(name.encode())
            )
            for kind in KINDS
        }
        estimates = {kind: Estimate.of(draws[kind]["body"]["pixel_ap"]) for kind in KINDS}
        ks = [_uniform(run.case_p) for run in runs]
        found = np.mean([run.found.clip(0, 1).mean(axis=0) for run in runs], axis=0)
        balls = np.mean([run.balls for run in runs], axis=0)
        row: dict[str, Any] = {
            "method": name,
            "rate": float(np.mean([run.rates.mean() for run in runs])),
            "findings_a_normal_scan": float(np.mean([run.findings.mean() for run in runs])),
            "ks_p": min((one for one in ks if one is not None), default=None),
        }
        for kind, share in zip(KINDS, found.tolist(), strict=True):
            row[f"{kind}_found"] = share
            row |= {f"{kind}_ap_{key}": value for key, value in vars(estimates[kind]).items()}
            auroc = Estimate.of(draws[kind]["body"]["pixel_auroc"])
            row[f"{kind}_auroc"] = auroc.value
        row["balls_bright"], row["balls_dark"] = (
            float(balls[start::2].mean()) if len(balls[start::2]) else None for start in (0, 1)
        )
        rows.append({key: _number(value) for key, value in row.items()})
        cells = [f"`{name}`", f"{row['rate']:.5f}", f"{row['findings_a_normal_scan']:.2f}"]
        cells.append("–" if row["ks_p"] is None else f"{row['ks_p']:.2f}")
        cells += [f"{row[f'{kind}_found']:.2f}" for kind in KINDS]
        cells += [estimate_text(estimates[kind]) for kind in KINDS]
        cells += ["–" if row[key] is None else f"{row[key]:.2f}"
                  for key in ("balls_bright", "balls_dark")]  # fmt: skip
        lines.append(table_line(cells))
    return "\n".join(lines) + "\n", rows


def _uniform(case_p: Float[np.ndarray, " n"]) -> float | None:
    """Return the Kolmogorov-Smirnov p of case p-values; None where there are none."""
    from scipy.stats import kstest

    if not np.isfinite(case_p).all():
        return None
    return float(kstest(case_p, "uniform").pvalue)


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
